"""What fails for a cause outside is mended in Flower, with real clicks: users, stores and events that were wrong."""

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from lern import Lern, events
from lern.embedded import EmbeddedRedis
from lern.ledger import NewDeadLetter
from lern.services import Services
from lern.store.tables import TABLES, Row
from tests.acceptance.conftest import MakePlace
from tests.acceptance.place import EVENT_TIME, Place
from tests.acceptance.site import ROOT, Site, site
from tests.acceptance.workers import BRISK
from tests.accounts import RELATIONS, two_accounts
from tests.batches import ORG, World, batch, transfer_event
from tests.bridges import until
from tests.servers.postgres import PostgresServer
from tests.servers.sunbird import BLOCKED, Sunbird, sunbird, user
from workflows.intake import Message, take_in


@dataclass(frozen=True)
class Mending:
    """A worker, a Flower, and the user and org service that they ask."""

    site: Site
    users: Sunbird

    @property
    def place(self) -> Place:
        return self.site.place

    @property
    def world(self) -> World:
        return World(self.place)

    def belongs(self, target: str, organisation: str) -> None:
        """Have the service say where a target belongs. Its source is blocked, as one is whose work is handed over."""
        known = {target: user(target, rootOrgId=organisation)}
        self.users.replies = lambda path, _: known.get(path.rpartition("/")[2], BLOCKED)


@pytest.fixture(scope="module")
def mending(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mending]:
    directory = tmp_path_factory.mktemp("mending")
    with EmbeddedRedis(directory) as redis, sunbird(lambda *_: BLOCKED) as users:
        place = Place.at(directory, redis.url, userorg_url=users.url, **BRISK).create()
        with site(place) as made:
            made.start_worker()
            made.start_flower()
            yield Mending(made, users)
        place.close()


def test_a_transfer_to_somebody_outside_the_organisation_succeeds_once_they_belong_to_it(
    mending: Mending, page: Page
) -> None:
    source, target = "leaving", "arriving"
    rows = [batch(1, createdby=source), batch(2, createdby="other", mentors=["other", source])]
    mending.world.load(rows)
    mending.belongs(target, "elsewhere")
    run = Lern(settings=mending.place.settings).transfer_ownership(source, target, organisation_id=ORG)
    assert run.wait(60).state == "failed"

    page.goto(mending.site.url)
    page.get_by_role("link", name="Failed").click()
    group = page.locator("[data-reason=REFUSED]")
    expect(group).to_contain_text(f"the target {target} does not belong to organisation {ORG}")
    group.get_by_role("link", name=run.id[:8]).click()
    expect(page.locator("#why")).to_contain_text("does not belong to organisation")
    assert [mending.world.row(row) for row in rows] == rows

    mending.belongs(target, ORG)
    page.get_by_role("button", name="Retry").click()
    expect(page.get_by_role("status")).to_contain_text("Retry started at ownership.batches")
    expect(page.locator("#state")).to_have_text("succeeded", timeout=30_000)
    expect(page.locator("#audit")).to_contain_text("retry ownership.batches")
    first, second = (mending.world.row(row) for row in rows)
    assert (first["createdby"], second["createdby"], second["mentors"]) == (target, "other", ["other", target])
    page.get_by_role("link", name="Failed").click()
    expect(page.get_by_text("No failed runs.")).to_be_visible()


def by_command(site: Site, run_id: str) -> None:
    """Retry as somebody at a terminal does."""
    command = [sys.executable, "-m", "lern.cli", "runs", "retry", run_id, "--wait"]
    environment = {"PATH": "/usr/bin:/bin", **site.place.settings.environ()}
    subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, timeout=60, check=True)


def by_script(site: Site, run_id: str) -> None:
    """Retry as a script does."""
    assert site.api("POST", f"/runs/{run_id}/retry").status_code == 202


@pytest.mark.parametrize("retried", [by_command, by_script])
def test_such_a_transfer_is_retried_without_a_browser_as_well(
    mending: Mending, retried: Callable[[Site, str], None]
) -> None:
    source, target = (f"{name}-{retried.__name__}" for name in ("leaving", "arriving"))
    row = batch(5 if retried is by_command else 6, createdby=source)
    mending.world.load([row])
    mending.belongs(target, "elsewhere")
    run_id = mending.world.enter(transfer_event(source, target))
    assert mending.site.until(run_id, "failed", "succeeded") == "failed"
    assert mending.world.row(row) == row
    mending.belongs(target, ORG)
    retried(mending.site, run_id)
    mending.site.until(run_id, "succeeded")
    assert mending.world.row(row)["createdby"] == target


def test_a_transfer_s_page_shows_its_batches_before_and_after(mending: Mending, page: Page) -> None:
    source, target = "before", "after"
    mending.world.load([batch(3, createdby=source, mentors=[source, "other"])])
    mending.belongs(target, ORG)
    run_id = mending.world.enter(transfer_event(source, target))
    mending.site.until(run_id, "succeeded")
    page.goto(f"{mending.site.url}/run/{run_id}")
    page.get_by_role("row", name="ownership.batches").get_by_role("link", name="Before and after").click()
    [row] = page.locator(".lern-row-changed").all()
    expect(row).to_contain_text("course_batch")
    expect(row).to_contain_text("Batch-00003")
    for column, was, became in (
        ("createdby", source, target),
        ("mentors", f'["{source}", "other"]', f'["{target}", "other"]'),
    ):
        cells = row.get_by_role("row").filter(has=page.get_by_role("cell", name=column, exact=True)).get_by_role("cell")
        assert cells.all_inner_texts() == [column, was, became]


def test_a_transfer_is_undone_after_a_question(mending: Mending, page: Page) -> None:
    source, target = "giving", "taking"
    row = batch(4, createdby=source)
    mending.world.load([row])
    mending.belongs(target, ORG)
    run_id = mending.world.enter(transfer_event(source, target))
    mending.site.until(run_id, "succeeded")
    assert mending.world.row(row)["createdby"] == target
    page.goto(f"{mending.site.url}/run/{run_id}")
    page.get_by_role("link", name="Undo…").click()
    expect(page.locator("h1")).to_have_text("Take this transfer back?")
    page.get_by_role("button", name="Undo the transfer").click()
    expect(page.get_by_role("status")).to_contain_text("takes run")
    expect(page.locator("#state")).to_have_text("succeeded", timeout=30_000)
    assert mending.world.row(row)["createdby"] == source
    page.goto(f"{mending.site.url}/run/{run_id}")
    expect(page.locator("#state")).to_have_text("undone")
    expect(page.get_by_role("link", name="Undo…")).to_have_count(0)


def dead_letter(place: Place, event: dict[str, Any]) -> int:
    """Take in an event that can be no run; gives the number of the dead letter."""
    known = {letter.id for letter in place.services.ledger.dead_letters()}
    assert take_in(place.services, [Message(None, None, 7, None, events.to_bytes(event))]).dead == 1
    [new] = {letter.id for letter in place.services.ledger.dead_letters()} - known
    return new


def test_a_dead_letter_is_corrected_where_it_is_read(mending: Mending, page: Page) -> None:
    ledger = mending.place.services.ledger
    right = events.merge_request("corrected-source", "corrected-target", EVENT_TIME, "corrected")
    wrong = {**right, "edata": {**right["edata"], "toAccountId": "corrected-source"}}
    number = dead_letter(mending.place, wrong)
    before = len(ledger.dead_letters())
    page.goto(f"{mending.site.url}/dead/{number}")
    page.get_by_text("Correct it").click()
    text = page.get_by_label("The event that is taken in instead")
    expect(text).to_have_value(re.compile('"toAccountId": "corrected-source"'))

    for typed, why in (
        ('{"edata":', "This is no event: not JSON"),
        ('{"edata": {"action": "merge-user-courses-and-cert"}}', "edata.fromAccountId: missing"),
        ('{"edata": {"action": "dance"}}', "edata.action: 'dance'; one of"),
    ):
        text.fill(typed)
        page.get_by_role("button", name="Replay corrected").click()
        expect(page.locator("#refused")).to_contain_text(why, timeout=30_000)
        # What was typed is not to be typed again.
        expect(text).to_have_value(typed)
    assert len(ledger.dead_letters()) == before

    text.fill(events.to_bytes(right).decode())
    page.get_by_role("button", name="Replay corrected").click()
    page.locator("#became").click(timeout=30_000)
    expect(page.locator("#state")).to_have_text("succeeded", timeout=30_000)
    expect(page.locator("#audit")).to_contain_text(f"correct the event of dead letter {number}")
    letter = ledger.dead_letter(number)
    assert letter is not None
    assert (letter.state, letter.value) == ("replayed", events.to_bytes(wrong))
    assert {entry.who for entry in ledger.audit_of_dead(number)} == {"somebody at 127.0.0.1"}
    page.goto(f"{mending.site.url}/dead/{number}")
    expect(page.get_by_text("Correct it")).to_have_count(0)


def test_a_script_replays_a_corrected_event(mending: Mending) -> None:
    right = events.merge_request("scripted-source", "scripted-target", EVENT_TIME, "scripted")
    number = dead_letter(mending.place, {**right, "edata": {"action": events.MERGE_ACTION}})
    path = f"/dead/{number}/replay"
    refused = mending.site.api("POST", path, json={"event": {"edata": {"action": events.MERGE_ACTION}}})
    assert (refused.status_code, "fromAccountId: missing" in refused.json()["error"]) == (409, True)
    assert mending.site.api("POST", path, json={"evnet": right}).status_code == 400
    taken = mending.site.api("POST", path, json={"event": right})
    assert (taken.status_code, taken.json()["state"]) == (200, "replayed")
    mending.site.until(taken.json()["run_id"], "succeeded")

    # What is no event at all is nothing for a worker to judge.
    for unreadable in ({"event": "{"}, {"event": "\ud800"}, {"event": 5}, {"event": None}, {"event": {"a": "\ud800"}}):
        answer = mending.site.api("POST", path, content=json.dumps(unreadable))
        assert (answer.status_code, bool(answer.json()["error"])) == (400, True), unreadable


@pytest.mark.parametrize("chosen", ["selected", "all that match"])
def test_many_dead_letters_are_replayed_after_saying_how_many_and_lead_to_what_became_of_them(
    mending: Mending, page: Page, chosen: str
) -> None:
    ledger, name = mending.place.services.ledger, chosen.replace(" ", "-")
    good = [events.to_bytes(events.merge_request(f"{name}-{n}", f"{name}", EVENT_TIME, f"{name}-{n}")) for n in "ab"]
    # What these say is judged anew: two were refused for a cause that is gone, one is as bad as it was.
    values = [*good, events.to_bytes({"edata": {"action": events.MERGE_ACTION, "fromAccountId": name}})]
    topic = mending.place.settings.topic("user_account_merge")
    ledger.enter([], [NewDeadLetter(topic, value, "REFUSED", f"{name}: the cause is gone") for value in values], 1)
    ledger.enter([], [NewDeadLetter("elsewhere", name.encode(), "REFUSED", f"not {chosen}")], 1)
    letters = {letter.value: letter.id for letter in ledger.dead_letters(text=f"{name}: the cause")}
    page.goto(f"{mending.site.url}/dead?text={name}: the cause")
    expect(page.locator("tbody tr")).to_have_count(3)
    if chosen == "selected":
        expect(page.get_by_role("button", name="Replay selected")).to_be_disabled()
        for number in letters.values():
            page.get_by_label(f"Select dead letter {number}", exact=True).check()
        page.get_by_role("button", name="Replay selected").click()
    else:
        page.get_by_role("link", name="Replay all that match…").click()
    expect(page.locator("#question")).to_have_text("Replay: 3 dead letters?")
    page.get_by_role("button", name="Replay 3").click()
    expect(page.locator("#progress")).to_have_text("3 of 3 sent")
    expect(page.locator("main")).to_contain_text("The workers judge each of them now")
    page.get_by_role("link", name="Replayed").click()
    for value in good:
        expect(page.get_by_role("link", name=str(letters[value]), exact=True)).to_be_visible(timeout=30_000)
    for value, number in letters.items():
        until(partial(ledger.audit_of_dead, number), f"letter {number} is judged")
        audit = ledger.audit_of_dead(number)
        assert [entry.who for entry in audit] == ["somebody at 127.0.0.1"]
        assert audit[0].action == ("replay" if value in good else "refused again")
    [stranger] = ledger.dead_letters(text=f"not {chosen}")
    assert (stranger.state, ledger.audit_of_dead(stranger.id)) == ("open", ())


def test_what_cannot_be_shown_is_said_on_a_page_that_leads_back(mending: Mending, page: Page) -> None:
    for path, status, said in (
        ("/run/none%25s", 404, "The ledger knows no run none%s"),
        ("/runs?state=nope", 400, "was expected"),
        ("/run/none/retry", 405, "Method Not Allowed"),
        ("/job/abc", 404, "knows no such job"),
    ):
        answer = page.goto(mending.site.url + path)
        assert answer is not None
        assert answer.status == status
        expect(page.locator("#refused")).to_contain_text(said)
        page.get_by_role("link", name="All runs").click()
        expect(page).to_have_url(f"{mending.site.url}/runs")


def test_runs_are_found_by_account_text_workflow_time_and_state(mending: Mending, page: Page) -> None:
    place, ledger = mending.place, mending.place.services.ledger
    ids = [place.enter(f"found-{number}", "found-target", f"found-{number}") for number in range(3)]
    other = mending.world.enter(transfer_event("found-1", "found-elsewhere"))
    for run_id in (*ids, other):
        mending.site.until(run_id, "succeeded", "failed")
    rows = page.locator("tr[data-run]")

    def listed(*wanted: str) -> None:
        expect(rows).to_have_count(len(wanted))
        assert {row.get_attribute("data-run") for row in rows.all()} == set(wanted)

    page.goto(f"{mending.site.url}/runs")
    page.get_by_label("Account").fill("found-1")
    page.get_by_role("button", name="Find").click()
    listed(ids[1], other)
    page.get_by_label("Workflow").select_option("merge")
    page.get_by_role("button", name="Find").click()
    listed(ids[1])
    page.get_by_role("link", name="Clear").click()
    page.get_by_label("Text").fill("found-target")
    page.get_by_role("button", name="Find").click()
    listed(*ids)
    # A filter by state keeps the others.
    page.locator("[data-state=failed]").click()
    listed()
    expect(page.get_by_label("Text")).to_have_value("found-target")
    page.locator("[data-state=succeeded]").click()
    listed(*ids)
    page.get_by_label("Until (UTC)").fill("2024-01-01T00:00")
    page.get_by_role("button", name="Find").click()
    listed()
    page.get_by_role("link", name="Clear").click()
    page.get_by_label("Text").fill(ids[2][:13])
    page.get_by_role("button", name="Find").click()
    listed(ids[2])
    assert ledger.peek(ids[2]) is not None


def rows_of(place: Place) -> dict[str, list[Row]]:
    return {name: sorted(place.rows(table), key=table.key_of) for name, table in TABLES.items()}


def test_runs_wait_for_a_store_that_goes_down_under_load_and_go_on_by_themselves(
    make_place: MakePlace, own_postgres: PostgresServer, page: Page
) -> None:
    pairs = [(f"old-{number}", f"new-{number}") for number in range(12)]
    undisturbed, place = make_place(), make_place(store_url=own_postgres.new_database(), **BRISK)
    for one in (undisturbed, place):
        for source, target in pairs:
            one.load(two_accounts(source, target), RELATIONS)
    for source, target in pairs:
        undisturbed.merge(source, target, source)
    undisturbed.services.broker.flushdb()

    with site(place) as made:
        made.start_flower()
        first = [place.enter(source, target, source) for source, target in pairs[:6]]
        made.start_worker()
        made.until(first[0], "succeeded")
        own_postgres.kill()
        ids = first + [place.enter(source, target, source) for source, target in pairs[6:]]
        made.until(ids[-1], "waiting")
        page.goto(f"{made.url}/waiting")
        group = page.locator("[data-reason=UNREACHABLE]")
        expect(group).to_contain_text("store cannot be reached")
        expect(group).to_contain_text("waiting for")
        page.goto(f"{made.url}/run/{ids[-1]}")
        expect(page.locator("#why")).to_contain_text("store cannot be reached")
        expect(page.locator("#why")).to_contain_text("Waiting since")
        own_postgres.start()
        # Nobody presses anything: the page that is open shows it go on.
        expect(page.locator("#state")).to_have_text("succeeded", timeout=60_000)
        for run_id in ids:
            made.until(run_id, "succeeded")
        page.goto(f"{made.url}/waiting")
        expect(page.get_by_text("No waiting runs.")).to_be_visible()
    # Our own connections from before are cut.
    with closing(Place(Services(place.settings))) as afresh:
        assert rows_of(afresh) == rows_of(undisturbed)
