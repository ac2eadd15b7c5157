"""What an admin does in Flower, with real clicks: a browser, a Flower, a worker, and rows that are right afterwards."""

import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from threading import Barrier, Event
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect

from lern.ledger import Counted, NewDeadLetter, RunFilter
from tests.acceptance.browsing import DESK, PHONE
from tests.acceptance.conftest import MakePlace
from tests.acceptance.place import Place
from tests.acceptance.site import Site, site
from tests.acceptance.workers import BRISK
from tests.accounts import RELATIONS, account, two_accounts
from tests.bridges import until
from tests.servers.postgres import PostgresServer

FAILED = RunFilter(state="failed")
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


def failed_runs(place: Place, number: int, source: str = "s{}", target: str = "t{}") -> list[str]:
    """Runs of accounts without rows that failed for a cause that is gone."""
    ids = [place.enter(source.format(n), target.format(n)) for n in range(number)]
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
    together = Barrier(12)

    def press() -> str:
        """Press Retry as a browser does that shows the run; gives what the page that follows says."""
        with httpx.Client(base_url=flower.url, timeout=60) as window:
            window.get(f"/run/{run_id}")
            together.wait()
            pressed = window.post(f"/run/{run_id}/retry", data={"_xsrf": window.cookies["_xsrf"]})
            return window.get(pressed.headers["Location"]).text

    def call() -> str:
        together.wait()
        return flower.api("POST", f"/runs/{run_id}/retry").text

    with ThreadPoolExecutor(12) as threads:
        said = [given.result() for given in [threads.submit(act) for _ in range(6) for act in (press, call)]]
    assert sum("Retry started at" in text or '"generation": 2' in text for text in said) == 1
    assert sum("only a failed one can be retried" in text for text in said) == 11
    # These two still show the button, as it was when they looked.
    for one in (page, other):
        one.get_by_role("button", name="Retry").click()
        expect(one.get_by_role("status")).to_contain_text("only a failed one can be retried")
    run = flower.place.detail(run_id)
    assert (run.run.state, run.run.generation) == ("queued", 2)
    assert [entry.action for entry in run.audit] == ["retry"]
    assert flower.place.services.broker.llen(flower.place.settings.queue) == 1
    other.context.close()


def test_two_admins_who_press_retry_at_the_same_moment_start_one_attempt_and_see_whose_it_is(
    place: Place, browser: Browser
) -> None:
    [run_id] = failed_runs(place, 1)
    with site(place, FLOWER_BASIC_AUTH="asha:secret,ravi:secret") as made, ExitStack() as ends:
        made.start_flower()
        windows = {}
        for name in ("asha", "ravi"):
            credentials: Any = {"username": name, "password": "secret"}
            windows[name] = ends.enter_context(browser.new_context(http_credentials=credentials)).new_page()
            windows[name].goto(f"{made.url}/run/{run_id}")
        # Neither is answered before both have pressed.
        with place.standstill(place.settings.ledger_url_or_default):
            for window in windows.values():
                with window.expect_request(re.compile("/retry$")):
                    window.get_by_role("button", name="Retry").click(no_wait_after=True)
        for window in windows.values():
            expect(window.get_by_role("status")).to_be_visible()
        [entry] = place.detail(run_id).audit
        first = windows.pop(entry.who)
        [second] = windows.values()
        expect(first.get_by_role("status")).to_have_text("Retry started at merge.content.")
        expect(second.get_by_role("status")).to_have_text(f"run {run_id} is queued: only a failed one can be retried")
        assert place.services.broker.llen(place.settings.queue) == 1
        made.start_worker()
        for window in (first, second):
            expect(window.get_by_role("button", name="Retry")).to_have_count(0)
            expect(window.locator("#audit")).to_contain_text(entry.who)
            expect(window.locator("#state")).to_have_text("succeeded", timeout=30_000)
    detail = place.detail(run_id)
    assert detail.run.generation == 2
    assert [one.step for one in detail.attempts if one.generation > 1] == list(detail.run.steps)


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


def asked_to_end(flower: Site, press: Callable[[], None]) -> int:
    """Have Flower end as a service manager does; gives how many of 200 runs it left as they were."""
    # Nobody can write to the ledger while Flower is told to end: the job is held up at its first run.
    with flower.place.standstill(flower.place.settings.ledger_url_or_default):
        press()
        flower.ask_flower_to_end()
    assert flower.stop_flower() == 0
    return 199


def killed(flower: Site, press: Callable[[], None]) -> int:
    """Have Flower die when the first fifty have begun by the ledger, and before any worker is told of one."""
    place = flower.place
    # Redis takes no writes: the job is held up where it sends the first ones.
    place.services.broker.client_pause(600_000, all=False)
    press()
    until(lambda: place.services.ledger.count(FAILED) == Counted(150), "fifty have begun")
    flower.kill_flower()
    place.services.broker.client_unpause()
    return 150


@pytest.mark.parametrize("ended", [asked_to_end, killed])
def test_two_hundred_are_retried_under_load_once_each_though_flower_ends_in_the_middle(
    ended: Callable[[Site, Callable[[], None]], int], make_place: MakePlace, page: Page
) -> None:
    place = make_place(**BRISK)
    ids = failed_runs(place, 200)

    def press() -> None:
        page.goto(f"{made.url}/failed")
        page.get_by_role("link", name="Retry all 200").click()
        expect(page.locator("#question")).to_have_text("Retry: 200 failed runs?")
        page.get_by_role("button", name="Retry 200").click()
        expect(page.locator("#progress")).to_have_text("0 of 200 started")

    with site(place) as made:
        made.start_flower()
        made.start_worker()
        with streaming(place) as merges:
            until(lambda: merges and place.run(merges[0]).state == "succeeded", "the worker is at work")
            number = ended(made, press)
            made.start_flower()
            page.reload()
            expect(page.locator("#refused")).to_contain_text("what it had not come to is as before")
            # It is where it was, and in view.
            assert place.services.ledger.count(FAILED) == Counted(number)
            page.goto(f"{made.url}/failed")
            expect(page.locator("[data-reason=BAD_ROW] strong")).to_have_text(str(number))
            page.get_by_role("link", name=f"Retry all {number}").click()
            page.locator("#confirm").click()
            expect(page.locator("#progress")).to_have_text(f"{number} of {number} started", timeout=30_000)
            for run_id in ids:
                made.until(run_id, "succeeded")
        for run_id in merges:
            made.until(run_id, "succeeded")
        assert len(merges) > 1
        page.goto(f"{made.url}/runs")
        expect(page.locator("[data-state=succeeded] .lern-count")).to_have_text(str(200 + len(merges)))
    for detail in map(place.detail, ids):
        assert [entry.action for entry in detail.audit] == ["retry"]
        again = [one.step for one in detail.attempts if one.generation > 1 and one.outcome == "succeeded"]
        assert again == list(detail.run.steps)


@contextmanager
def streaming(place: Place) -> Iterator[list[str]]:
    """Let merges of accounts with rows come in, one after another, while the block lasts; gives their runs."""
    entered: list[str] = []
    enough = Event()

    def stream() -> None:
        for number in range(30):
            pair = f"stream-{number}", f"streamed-{number}"
            place.load(row for user in pair for row in account(user, ("course-1",)))
            entered.append(place.enter(*pair, mid=f"stream-{number}"))
            # No more than two processes carry out beside the rest: a backlog would only be waited for.
            if enough.wait(0.3):
                return

    with ThreadPoolExecutor(1) as thread:
        given = thread.submit(stream)
        try:
            yield entered
        finally:
            enough.set()
        given.result()


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
    taken_back_by = page.url
    page.goto(f"{flower.url}/run/{run_id}")
    expect(page.locator("#state")).to_have_text("undone")
    expect(page.locator("#audit")).to_contain_text("undo")
    # What cannot be undone is not asked about.
    for url, why in ((f"{flower.url}/run/{run_id}", "It is undone already"), (taken_back_by, "It is a run of undo")):
        page.goto(f"{url}/undo")
        expect(page.locator("#stays")).to_contain_text(why)
        expect(page.locator("#confirm")).to_have_count(0)


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
    expect(page).to_have_url(task)
    page.get_by_role("button", name="Retry").click()
    expect(page.locator("#state")).to_have_text("succeeded", timeout=30_000)
    merged = flower.place.tables()
    page.goto(task)
    expect(page).to_have_url(task)
    expect(page.locator(".lern-note")).to_contain_text("succeeded")
    page.get_by_role("link", name="Undo…").click()
    expect(page.locator("h1")).to_have_text("Take this merge back?")
    page.get_by_role("button", name="Undo the merge").click()
    expect(page.locator("#state")).to_have_text("succeeded", timeout=30_000)
    assert flower.place.run(run_id).state == "undone"
    assert flower.place.tables() != merged
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


# Elements whose text is wider than they are: cut off, or drawn over what stands beside them. A field that is too
# narrow for what is in it is among them; a line that ends in "…" by intention, and the bars of a time line, are not.
CUT_OFF = """() => [...document.querySelectorAll('main *')].filter(one => one.clientWidth
  && !one.matches('select, input:not([type=datetime-local]), textarea, .lern-clip, .lern-track, .form-check-input')
  && getComputedStyle(one).display !== 'inline' && one.scrollWidth > one.clientWidth + 1
  || one.matches('input[type=datetime-local]') && one.clientWidth < 200
  ).map(one => one.tagName + ' ' + one.className + ' ' + one.textContent.slice(0, 40))"""


@pytest.mark.parametrize("size", [DESK, PHONE], ids=["desk", "phone"])
def test_no_page_is_wider_than_its_reader_and_no_text_is_cut_off(
    flower: Site, browser: Browser, size: dict[str, int]
) -> None:
    place, ledger = flower.place, flower.place.services.ledger
    long = ("source-" + "x" * 200, "target-" + "y" * 200)
    run_id = broken(place, *long)
    place.enter(long[0], "elsewhere", "another")
    place.load(two_accounts("z" * 200, "target"), RELATIONS)
    warned = place.merge("z" * 200, "target", "warned")
    assert place.run(warned).warnings
    codes = ("MISSING_FIELD", "UNKNOWN_ACTION", "UNKNOWN_TOPIC", "INVALID_JSON", "DUPLICATE_KEY", "TOO_DEEP")
    ledger.enter([], [NewDeadLetter(code, b"{}", code, "r" * 300) for code in codes], 1)
    letters = ledger.dead_letters()
    late = place.run(place.enter("slow", "target", "slow"))
    ledger.begin(late.id, late.steps[0], 1, "token", late.created_at, 5)
    two_weeks_later = late.created_at + 14 * 86_400_000
    ledger.fail(late.id, late.steps[0], 1, "token", two_weeks_later, "BAD_ROW", "a row is broken " * 9, None)
    page = browser.new_context(viewport=size).new_page()  # type: ignore[arg-type]
    chunk = ledger.chunk_heads(run_id)[0].id
    paths = ["/runs", "/runs?state=failed", "/runs?since=2024-05-01T12:30", "/failed", "/waiting", f"/run/{run_id}"]
    paths += [f"/run/{warned}", f"/run/{run_id}/rows/{chunk}", "/dead", f"/dead/{letters[0].id}", "/runs/retry"]
    for path in [*paths, "/dead/replay", f"/run/{run_id}/undo", "/run/" + "n" * 200, "/runs?state=nope"]:
        page.goto(flower.url + path)
        assert page.evaluate("document.documentElement.scrollWidth - window.innerWidth") <= 0, path
        assert page.evaluate(CUT_OFF) == [], path
    # The choice that is made is in view, and a card of the list says who is merged into whom.
    page.goto(f"{flower.url}/runs?state=undone")
    expect(page.locator(".task-state-filter.active")).to_be_in_viewport(ratio=1)
    page.goto(f"{flower.url}/dead?state=replayed")
    expect(page.locator(".task-state-filter.active")).to_be_in_viewport(ratio=1)
    page.goto(f"{flower.url}/runs")
    expect(page.locator("tbody .lern-arrow").first).to_be_visible()
    why = page.locator(f"[data-run='{late.id}'] .lern-why").bounding_box()
    assert why
    assert why["width"] >= 200
    page.context.close()


def test_an_id_that_is_read_from_right_to_left_stands_on_its_side_of_the_arrow(flower: Site, page: Page) -> None:
    [run_id] = failed_runs(flower.place, 1, "אבגד-{}", "הוזח-{}")
    for path in ("/runs", f"/run/{run_id}", f"/run/{run_id}/undo", "/runs/retry?reason=BAD_ROW"):
        page.goto(flower.url + path)
        source, target = (page.locator("bdi", has_text=text).bounding_box() for text in ("אבגד-0", "הוזח-0"))
        arrow = page.get_by_text("→", exact=True).bounding_box()
        assert source
        assert target
        assert arrow
        assert source["x"] + source["width"] <= arrow["x"] + 1, path
        assert arrow["x"] + arrow["width"] <= target["x"] + 1, path


def test_a_list_says_that_it_stands_still_while_a_box_is_ticked(flower: Site, page: Page) -> None:
    failed_runs(flower.place, 1)
    page.goto(f"{flower.url}/runs?state=failed")
    said = page.locator("[data-live-text]")
    expect(said).to_have_text("Live")
    box = page.locator("td.lern-check input")
    box.check()
    expect(said).to_have_text("Paused while a box is ticked")
    box.uncheck()
    expect(said).to_have_text("Live")


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
