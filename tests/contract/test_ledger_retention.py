"""The ledger lets go of what is old, whole or not at all, and of nothing that somebody still needs."""

from dataclasses import replace

import pytest
import sqlalchemy as sa

from lern.ledger import Ledger, NewDeadLetter
from lern.ledger.schema import metadata
from tests.contract.given_ledger import NOW, STEPS, begin, chunk, do, enter, event, fail, journal, mark, merge, undo

LATER = NOW + 1_000


def ended(ledger: Ledger, source: str, target: str) -> str:
    """A merge that has ended, with a chunk, an event that was delivered, and counters."""
    [entered] = enter(ledger, merge(source, target))
    begin(ledger, entered.run_id)
    saved = journal(ledger, chunk(entered.run_id, source=source, target=target), event(f"mid of {source}"))
    mark(ledger, saved.id, {("user_content_consumption", (source,)): {"viewcount": 3}})
    ledger.delivered([f"mid of {source}"], NOW)
    ledger.finish(entered.run_id, STEPS[0], 1, "token", {}, NOW)
    do(ledger, entered.run_id, *STEPS[1:])
    return entered.run_id


def rows(ledger: Ledger) -> dict[str, int]:
    """How many rows each of the ledger's tables has."""
    with ledger._database.read() as connection:
        return {
            name: int(connection.scalar(sa.select(sa.func.count()).select_from(table)) or 0)
            for name, table in metadata.tables.items()
        }


def test_an_old_run_goes_with_all_that_belongs_to_it_but_its_account_stays_merged(ledger: Ledger) -> None:
    ended(ledger, "A", "B")
    assert ledger.prune(LATER).runs == 1
    left = {name for name, count in rows(ledger).items() if count}
    assert left == {"merged_accounts", "contributed"}
    assert ledger.final_account("A") == "B"
    assert ledger.contributed("A", "user_content_consumption", [("A",)]) == {("A",): {"viewcount": 3}}


def test_what_ended_within_the_retention_stays_whole(ledger: Ledger) -> None:
    run_id = ended(ledger, "A", "B")
    before = rows(ledger)
    assert ledger.prune(NOW).runs == 0
    assert rows(ledger) == before
    assert enter(ledger, undo(run_id, "A", "B"))[0].refused is None


def test_what_has_not_ended_stays_however_old(ledger: Ledger) -> None:
    for source in ("queued", "running", "waiting"):
        enter(ledger, merge(source, f"{source}-new"))
    begin(ledger, "running-running-new")
    begin(ledger, "waiting-waiting-new")
    ledger.step_aside("waiting-waiting-new", STEPS[0], 1, "token", NOW, NOW, "BUSY")
    before = rows(ledger)
    assert ledger.prune(LATER).runs == 0
    assert rows(ledger) == before


def test_a_failed_run_stays_while_a_chunk_of_it_is_unfinished(ledger: Ledger) -> None:
    enter(ledger, merge("A", "B"))
    begin(ledger, "A-B")
    saved = journal(ledger, chunk("A-B"))
    fail(ledger, "A-B")
    assert ledger.prune(LATER).runs == 0
    mark(ledger, saved.id)
    assert ledger.prune(LATER).runs == 1


def test_a_run_stays_while_an_event_of_it_is_unsent(ledger: Ledger) -> None:
    enter(ledger, merge("A", "B"))
    fail(ledger, "A-B", event=event("failure"))
    assert ledger.prune(LATER).runs == 0
    ledger.delivered(["failure"], NOW)
    assert ledger.prune(LATER).runs == 1


def test_an_undone_run_has_no_events_to_wait_for(ledger: Ledger) -> None:
    enter(ledger, merge("A", "B"))
    fail(ledger, "A-B", event=event("failure"))
    ledger.undone("A-B", "undo", NOW)
    assert ledger.prune(LATER).runs == 1


def test_a_run_that_is_being_taken_back_stays(ledger: Ledger) -> None:
    run_id = ended(ledger, "A", "B")
    [entered] = enter(ledger, undo(run_id, "A", "B"))
    assert ledger.prune(LATER).runs == 0
    do(ledger, entered.run_id, "back")
    ledger.undone(run_id, entered.run_id, NOW)
    assert ledger.prune(LATER).runs == 2


def test_a_bunch_is_bounded_and_the_next_one_takes_the_rest(ledger: Ledger) -> None:
    for number in range(5):
        ended(ledger, f"A{number}", f"B{number}")
    assert [ledger.prune(LATER, limit=2).runs for _ in range(4)] == [2, 2, 1, 0]


@pytest.mark.parametrize(("replayed", "left"), [(True, 0), (False, 1)])
def test_only_dead_letters_that_were_replayed_go(ledger: Ledger, *, replayed: bool, left: int) -> None:
    ledger.enter([], [NewDeadLetter("topic", b"event", "BAD_JSON", "no JSON")], NOW)
    [letter] = ledger.dead_letters()
    if replayed:
        ledger.replayed(letter.id, NOW, "asha")
    assert ledger.prune(LATER).letters == 1 - left
    assert len(ledger.dead_letters()) == left


# Sweeps


def test_an_event_that_speaks_of_no_run_goes_when_it_was_delivered_and_is_old(ledger: Ledger) -> None:
    ledger.leave([event("sent"), event("unsent")], NOW)
    ledger.delivered(["sent"], NOW)
    ledger.prune(NOW)
    assert rows(ledger)["outbox"] == 2
    ledger.prune(LATER)
    assert rows(ledger)["outbox"] == 1
    assert ledger.undelivered() == [event("unsent")]


def test_a_sweep_is_entered_while_its_merge_stands(ledger: Ledger) -> None:
    run_id = ended(ledger, "A", "B")
    [entered] = enter(ledger, merge("A", "B", "sweep", workflow="sweep", sweeps=run_id))
    assert (entered.new, entered.refused) == (True, None)


def test_a_sweep_of_a_merge_that_was_taken_back_merges_nothing_again(ledger: Ledger) -> None:
    run_id = ended(ledger, "A", "B")
    [undoing] = enter(ledger, undo(run_id, "A", "B"))
    do(ledger, undoing.run_id, "back")
    ledger.undone(run_id, undoing.run_id, NOW)
    sweep = merge("A", "B", "sweep", workflow="sweep", sweeps=run_id)
    for late in (sweep, replace(sweep, sweeps="forgotten")):
        [entered] = enter(ledger, late)
        assert entered.refused is not None
        assert entered.refused.code == "NOT_STANDING"
    assert ledger.final_account("A") == "A"
    assert ledger.dead_letters() == []


def test_nor_does_a_sweep_of_a_merge_that_is_being_taken_back(ledger: Ledger) -> None:
    run_id = ended(ledger, "A", "B")
    enter(ledger, undo(run_id, "A", "B"))
    sweep = merge("A", "B", "sweep", workflow="sweep", sweeps=run_id)
    [entered] = enter(ledger, sweep)
    assert entered.refused is not None
    assert entered.refused.code == "NOT_STANDING"
    fail(ledger, f"undo-{run_id}", "back")
    [entered] = enter(ledger, sweep)
    assert entered.new
