"""What an admin does in Flower, with real clicks: a browser, a Flower, a worker, and rows that are right afterwards."""

import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect

from tests.acceptance.browsing import DESK, PHONE
from tests.acceptance.conftest import MakePlace
from tests.acceptance.place import Place
from tests.acceptance.site import Site, site
from tests.accounts import RELATIONS, two_accounts
from tests.servers.postgres import PostgresServer

SCRIPT = "<script>window.bad=1</script><img src=x onerror=window.bad=1>"


@pytest.fixture
def flower(place: Place) -> Iterator[Site]:
    """A Flower on loopback; no worker yet."""
    with site(place) as made:
        made.start_flower()
        yield made


def broken(place: Place, source: str = "source", target: str = "target") -> str:
    """A merge that fails: an enrolment of the source has a text where a number belongs. Gives the run's id."""
    place.load(two_accounts(source, target), RELATIONS)
    place.sql("UPDATE user_enrolments SET progress = 'x' WHERE userid = ?", source)
    run_id = place.enter(source, target)
    assert place.carry_out(run_id).state == "failed"
    place.services.broker.delete(place.settings.queue)
    return run_id


def mend(place: Place, source: str = "source") -> None:
    place.sql("UPDATE user_enrolments SET progress = 1 WHERE userid = ?", source)


def failed_runs(place: Place, number: int) -> list[str]:
    """Runs of accounts without rows that failed for a cause that is gone."""
    ids = [place.enter(f"s{n}", f"t{n}") for n in range(number)]
    for run_id in ids:
        run = place.run(run_id)
        place.services.ledger.begin(run_id, run.steps[0], 1, "token", 1, 5)
        place.services.ledger.fail(run_id, run.steps[0], 1, "token", 2, "BAD_ROW", f"row {run_id}: no number", None)
    place.services.broker.delete(place.settings.queue)
    return ids


def test_a_failed_run_is_found_by_its_reason_mended_retried_and_seen_to_succeed(
    flower: Site, page: Page, make_place: MakePlace
) -> None:
    undisturbed = make_place()
    undisturbed.load(two_accounts("source", "target"), RELATIONS)
    mend(undisturbed)
    undisturbed.merge("source", "target")
    run_id = broken(flower.place)
    flower.start_worker()
    page.goto(flower.url)
    page.get_by_role("link", name="Failed").click()
    group = page.locator("[data-reason=BAD_ROW]")
    expect(group).to_contain_text("column progress")
    group.get_by_role("link", name=run_id[:8]).click()
    expect(page.locator("#why")).to_contain_text("user_enrolments")

    mend(flower.place)
    page.get_by_role("button", name="Retry").click()
    expect(page.get_by_role("status")).to_contain_text("Retry started at merge.enrolments")
    expect(page.locator("#state")).to_have_text("succeeded", timeout=30_000)
    expect(page.locator("#audit")).to_contain_text("somebody at 127.0.0.1")
    expect(page.locator("#audit")).to_contain_text("retry merge.enrolments")
    assert flower.place.tables() == undisturbed.tables()
    page.get_by_role("link", name="Failed").click()
    expect(page.get_by_text("No failed runs.")).to_be_visible()


def test_the_rows_of_a_run_are_shown_before_and_after(flower: Site, page: Page) -> None:
    flower.place.load(two_accounts("source", "target"), RELATIONS)
    run_id = flower.place.merge("source", "target")
    page.goto(f"{flower.url}/run/{run_id}")
    page.get_by_role("row", name="merge.enrolments").get_by_role("link", name="Before and after").click()
    kinds = page.locator(".lern-row .badge").all_inner_texts()
    assert {"changed", "deleted", "created"} >= set(kinds) >= {"changed", "deleted"}
    changed = page.locator(".lern-row-changed").first
    expect(changed.locator("thead")).to_contain_text("Before")


def test_clicks_at_the_same_moment_start_one_retry(flower: Site, page: Page, browser: Browser) -> None:
    [run_id] = failed_runs(flower.place, 1)
    other = browser.new_context().new_page()
    for one in (page, other):
        one.goto(f"{flower.url}/run/{run_id}")
    other.get_by_role("button", name="Retry").click()
    expect(other.get_by_role("status")).to_contain_text("Retry started")
    # This page still shows the button, as it was when both looked; then ten more at once.
    page.evaluate(
        """() => { const form = document.getElementById('retry').form;
        const body = new URLSearchParams(new FormData(form));
        return Promise.all([...Array(10)].map(() => fetch(form.action,
        {method: 'POST', body, redirect: 'manual'}))) }"""
    )
    page.reload()
    expect(page.get_by_role("status")).to_contain_text("only a failed one can be retried")
    run = flower.place.detail(run_id)
    assert (run.run.state, run.run.generation) == ("queued", 2)
    assert [entry.action for entry in run.audit] == ["retry"]
    assert flower.place.services.broker.llen(flower.place.settings.queue) == 1
    other.context.close()


def test_ids_and_errors_are_shown_as_they_are_and_never_run(flower: Site, page: Page) -> None:
    place = flower.place
    run_id = place.enter(f"{SCRIPT}source", 'target"><script>window.bad=1</script>', "mid</pre>" + SCRIPT)
    run = place.run(run_id)
    place.services.ledger.begin(run_id, run.steps[0], 1, "token", 1, 5)
    place.services.ledger.fail(run_id, run.steps[0], 1, "token", 2, "BAD_ROW", f"error {SCRIPT} \u202e turned", None)
    for path in ("/runs", "/failed", f"/run/{run_id}", f"/runs?text={SCRIPT}", "/runs/retry?reason=BAD_ROW"):
        page.goto(flower.url + path)
        expect(page.locator("main")).to_contain_text("<script>window.bad=1</script>")
    page.goto(f"{flower.url}/run/{run_id}")
    expect(page.locator("#why")).to_contain_text(r"\u202e turned")
    page.goto(f"{flower.url}/run/{quote(SCRIPT, safe='')}")
    expect(page.locator("main")).to_contain_text("The ledger knows no run")
    page.goto(f"{flower.url}/runs?state={SCRIPT}")
    expect(page.locator("body")).to_contain_text("was expected")


def test_a_form_of_another_site_is_refused(flower: Site, page: Page) -> None:
    [run_id] = failed_runs(flower.place, 1)
    page.goto(f"{flower.url}/run/{run_id}")
    form = f'<form method=post action="{flower.url}/run/{run_id}/retry"><button>Win</button></form>'
    page.route("http://other.test/**", lambda route: route.fulfill(body=form, content_type="text/html"))
    page.goto("http://other.test/")
    with page.expect_response(re.compile("/retry$")) as answer:
        page.get_by_role("button").click()
    assert answer.value.status == 403
    assert flower.place.run(run_id).state == "failed"


def test_a_selection_is_retried_after_saying_how_many(flower: Site, page: Page) -> None:
    ids = failed_runs(flower.place, 5)
    flower.start_worker()
    page.goto(f"{flower.url}/runs?state=failed")
    expect(page.get_by_role("button", name="Retry selected")).to_be_disabled()
    for run_id in ids[1:3]:
        page.get_by_label(f"Select run {run_id[:8]}").check()
    page.get_by_role("button", name="Retry selected").click()
    expect(page.locator("#question")).to_have_text("Retry: 2 failed runs?")
    page.get_by_role("button", name="Retry 2").click()
    expect(page.locator("#progress")).to_have_text("2 of 2 started")
    for run_id in ids[1:3]:
        flower.until(run_id, "succeeded")
    assert [flower.place.run(run_id).state for run_id in (ids[0], *ids[3:])] == ["failed"] * 3


def test_two_hundred_are_retried_at_once_while_flower_is_restarted(flower: Site, page: Page) -> None:
    ids = failed_runs(flower.place, 200)
    flower.start_worker()
    page.goto(f"{flower.url}/failed")
    page.get_by_role("link", name="Retry all 200").click()
    expect(page.locator("#question")).to_have_text("Retry: 200 failed runs?")
    page.get_by_role("button", name="Retry 200").click()
    assert flower.stop_flower() == 0
    flower.start_flower()
    # What the job had not come to is where it was, and in view.
    left = [run_id for run_id in ids if flower.place.run(run_id).state == "failed"]
    page.goto(f"{flower.url}/failed")
    if left:
        expect(page.locator("[data-reason=BAD_ROW] strong")).to_have_text(str(len(left)))
        page.get_by_role("link", name=re.compile("^Retry ")).click()
        page.locator("#confirm").click()
    for run_id in ids:
        flower.until(run_id, "succeeded")
    page.goto(f"{flower.url}/runs")
    expect(page.locator("[data-state=succeeded] .lern-count")).to_have_text("200")
    assert {flower.place.run(run_id).generation for run_id in ids} == {2}


def test_a_run_that_waits_says_why_and_since_when_and_can_be_tried_now(flower: Site, page: Page) -> None:
    place = flower.place
    run_id = place.enter("source", "target")
    with place.services.locks.hold(["target"], "token", wait=1, holder="a test"):
        assert place.carry_out(run_id).state == "waiting"
        page.goto(f"{flower.url}/waiting")
        expect(page.locator("[data-reason=BUSY]")).to_contain_text("waiting for")
        page.get_by_role("link", name=run_id[:8]).click()
        expect(page.locator("#why")).to_contain_text("Waiting since")
    page.get_by_role("button", name="Try now").click()
    expect(page.get_by_role("status")).to_contain_text("merge.content is being tried now")
    flower.start_worker()
    expect(page.locator("#state")).to_have_text("succeeded", timeout=30_000)
    expect(page.locator("#audit")).to_contain_text("try now")


def test_all_that_wait_for_one_cause_are_tried_at_once(flower: Site, page: Page) -> None:
    place = flower.place
    ids = [place.enter(f"source-{number}", "target", f"m{number}") for number in range(3)]
    with place.services.locks.hold(["target"], "token", wait=1, holder="a test"):
        assert {place.carry_out(run_id).state for run_id in ids} == {"waiting"}
    place.services.broker.delete(place.settings.queue)
    page.goto(f"{flower.url}/waiting")
    page.locator("[data-reason=BUSY]").get_by_role("link", name="Try now all 3…").click()
    expect(page.locator("#question")).to_have_text("Try now: 3 waiting runs?")
    page.get_by_role("button", name="Try now 3").click()
    expect(page.locator("#progress")).to_have_text("3 of 3 started")
    assert {place.run(run_id).state for run_id in ids} == {"queued"}
    assert place.services.broker.llen(place.settings.queue) == 3
    assert [[entry.action for entry in place.detail(run_id).audit] for run_id in ids] == [["try now"]] * 3


def test_a_merge_is_undone_after_a_question(flower: Site, page: Page) -> None:
    place = flower.place
    place.load(two_accounts("source", "target"), RELATIONS)
    before = place.tables()
    run_id = place.merge("source", "target")
    place.services.broker.delete(place.settings.queue)
    flower.start_worker()
    page.goto(f"{flower.url}/run/{run_id}")
    page.get_by_role("link", name="Undo…").click()
    page.get_by_role("button", name="Undo the merge").click()
    expect(page.get_by_role("status")).to_contain_text("takes run")
    expect(page.locator("#state")).to_have_text("succeeded", timeout=30_000)
    assert place.tables() == before
    page.goto(f"{flower.url}/run/{run_id}")
    expect(page.locator("#state")).to_have_text("undone")
    expect(page.locator("#audit")).to_contain_text("undo")


def test_a_dead_letter_is_refused_again_until_its_cause_is_gone(flower: Site, page: Page) -> None:
    place = flower.place
    first = place.merge("source", "target")
    place.enter("source", "elsewhere", "another")
    place.services.broker.delete(place.settings.queue)
    [letter] = place.services.ledger.dead_letters()
    flower.start_worker()
    page.goto(f"{flower.url}/dead")
    page.get_by_role("link", name=str(letter.id), exact=True).click()
    page.get_by_role("button", name="Replay").click()
    expect(page.locator("#refused")).to_be_visible(timeout=30_000)
    undo = flower.api("POST", f"/runs/{first}/undo").json()["id"]
    flower.until(undo, "succeeded")
    page.get_by_role("button", name="Replay").click()
    page.locator("#became").click(timeout=30_000)
    expect(page.locator("#state")).to_have_text("succeeded", timeout=30_000)
    expect(page.locator("main")).to_contain_text("elsewhere")


def test_a_task_leads_to_its_run_and_a_run_to_its_tasks(flower: Site, page: Page) -> None:
    run_id = broken(flower.place)
    flower.start_worker()
    page.goto(f"{flower.url}/run/{run_id}")
    page.get_by_role("button", name="Retry").click()
    expect(page.locator("#audit")).to_contain_text("retry")
    expect(page.locator("#state")).to_have_text("failed", timeout=30_000)
    # Flower hears of a task a moment after it was carried out.
    task = f"{flower.url}/task/{run_id}.2.merge.enrolments"
    for _ in range(100):
        if page.goto(task) and "/task/" in page.url:
            break
        page.wait_for_timeout(100)
    expect(page.locator(".lern-note")).to_contain_text("failed")
    mend(flower.place)
    page.get_by_role("button", name="Retry").click()
    expect(page.locator("#state")).to_have_text("succeeded", timeout=30_000)
    page.goto(task)
    expect(page.locator(".lern-note")).to_contain_text("succeeded")
    page.get_by_role("link", name="Undo…").click()
    expect(page.locator("h1")).to_have_text("Take this merge back?")
    page.goto(f"{flower.url}/task/{run_id}.1.merge.content")
    expect(page.get_by_role("status")).to_contain_text("Flower does not remember task")
    page.goto(f"{flower.url}/task/unknown")
    expect(page.locator("main")).to_contain_text("Unknown task")


def test_who_may_only_look_sees_no_buttons_and_can_do_nothing(place: Place, browser: Browser) -> None:
    [run_id] = failed_runs(place, 1)
    environment = {"FLOWER_BASIC_AUTH": "asha:secret,ravi:secret", "LERN_FLOWER_READONLY_USERS": "Ravi"}
    with site(place, **environment) as made:
        made.start_flower()
        assert httpx.get(f"{made.url}/runs").status_code == 401
        for name, buttons in (("ravi", 0), ("asha", 1)):
            credentials: Any = {"username": name, "password": "secret"}
            page = browser.new_context(http_credentials=credentials).new_page()
            page.goto(f"{made.url}/run/{run_id}")
            expect(page.get_by_role("button", name="Retry")).to_have_count(buttons)
            status = page.evaluate(
                f"""() => fetch('/run/{run_id}/retry', {{method: 'POST', redirect: 'manual', headers:
                {{'X-XSRFToken': document.cookie.split('_xsrf=')[1].split(';')[0]}}}}).then(a => a.status)"""
            )
            assert status == (403 if name == "ravi" else 0)
            page.context.close()
        assert [entry.who for entry in place.detail(run_id).audit] == ["asha"]


@pytest.mark.parametrize("size", [DESK, PHONE], ids=["desk", "phone"])
def test_no_page_is_wider_than_its_reader(flower: Site, browser: Browser, size: dict[str, int]) -> None:
    run_id = broken(flower.place, "source-" + "x" * 200, "target-" + "y" * 200)
    flower.place.enter("source-" + "x" * 200, "elsewhere", "another")
    [letter] = flower.place.services.ledger.dead_letters()
    page = browser.new_context(viewport=size).new_page()  # type: ignore[arg-type]
    chunk = flower.place.services.ledger.chunk_heads(run_id)[0].id
    paths = ["/runs", "/runs?state=failed", "/failed", "/waiting", f"/run/{run_id}", f"/run/{run_id}/rows/{chunk}"]
    for path in [*paths, "/dead", f"/dead/{letter.id}", "/runs/retry", "/dead/replay", f"/run/{run_id}/undo"]:
        page.goto(flower.url + path)
        assert page.evaluate("document.documentElement.scrollWidth - window.innerWidth") <= 0, path
    page.context.close()


def test_a_ledger_that_is_away_is_said_to_be_away_and_waited_for(
    make_place: MakePlace, own_postgres: PostgresServer, page: Page
) -> None:
    with site(make_place(ledger_url=own_postgres.new_database())) as made:
        made.start_flower()
        page.goto(f"{made.url}/runs")
        expect(page.locator("main")).to_contain_text("No runs.")
        own_postgres.kill()
        expect(page.locator("[data-live-text]")).to_have_text("No answer; trying again", timeout=20_000)
        answer = page.goto(f"{made.url}/failed")
        assert answer is not None
        assert answer.status == 503
        expect(page.locator("main")).to_contain_text("ledger cannot be reached")
        own_postgres.start()
        page.goto(f"{made.url}/failed")
        expect(page.get_by_text("No failed runs.")).to_be_visible()
