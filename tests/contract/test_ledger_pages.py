"""What the ledger promises to pages: bounded, complete, each run once, whatever is chosen."""

from typing import Any

import pytest

from lern.flower.bulk import each
from lern.ledger import Counted, Ledger, RunFilter
from lern.ledger.audit import Act
from tests.contract.given_ledger import NOW, STEPS, begin, chunk, do, enter, fail, journal, merge

ID = "0aa1b2c3-0000-5000-a000-0000000000{:02}"


@pytest.fixture(autouse=True)
def _runs(ledger: Ledger) -> None:
    for number in range(12):
        enter(ledger, merge(f"S{number}", f"T{number % 3}", ID.format(number)), now=NOW + number // 2)
    for number in (1, 4, 7):
        fail(ledger, ID.format(number))
    do(ledger, ID.format(5), *STEPS)
    enter(ledger, merge("X", "S0", "other", workflow="other", mid="100%_mid", merge=False), now=NOW + 50)


def numbers(ledger: Ledger, window: int = 1000, limit: int = 2, **chosen: Any) -> list[str]:
    """All pages of a choice, as the last two characters of the ids."""
    found: list[str] = []
    after = None
    while True:
        page = ledger.page(RunFilter(**chosen), limit=limit, after=after, window=window)
        assert len(page.runs) <= limit
        found += [run.id[-2:] for run in page.runs]
        after = page.following
        if after is None:
            return found


@pytest.mark.parametrize("window", [3, 1000])
@pytest.mark.parametrize(
    ("chosen", "found"),
    [
        ({}, ["er", *(f"{n:02}" for n in range(11, -1, -1))]),
        ({"state": "failed"}, ["07", "04", "01"]),
        ({"state": "failed", "reason": "BAD_ROW"}, ["07", "04", "01"]),
        ({"state": "failed", "reason": "OTHER"}, []),
        ({"state": "failed", "workflow": "merge", "text": "s4"}, ["04"]),
        ({"workflow": "other"}, ["er"]),
        ({"user": "S0"}, ["er", "00"]),
        ({"user": "T1", "state": "queued"}, ["10"]),
        ({"since": NOW + 5}, ["er", "11", "10"]),
        ({"until": NOW + 1}, ["01", "00"]),
        ({"text": "100%_M"}, ["er"]),
        ({"text": "%"}, ["er"]),
        ({"text": "row IS broken", "until": NOW + 3}, ["04", "01"]),
        ({"text": "none such"}, []),
    ],
)
def test_all_pages_together_hold_what_was_chosen_once_and_the_newest_first(
    ledger: Ledger, window: int, chosen: dict[str, Any], found: list[str]
) -> None:
    assert numbers(ledger, window, **chosen) == found


def test_a_page_that_is_not_full_says_how_far_back_was_looked(ledger: Ledger) -> None:
    page = ledger.page(RunFilter(text="S1-"), limit=2, window=3)
    assert (page.runs, page.looked_back_to) == ((), NOW + 5)
    assert page.following == (NOW + 5, ID.format(10))
    assert ledger.page(RunFilter(text="no such"), limit=2, window=1000).looked_back_to is None


def test_a_run_is_found_by_the_beginning_of_its_id_however_old_it_is(ledger: Ledger) -> None:
    enter(ledger, merge("old", "older", "bbbbbbbb-1111-5000-a000-000000000000"), now=NOW - 1000)
    assert [run.source for run in ledger.page(RunFilter(text="BBBBBBBB-1"), window=2).runs] == ["old"]
    assert [run.source for run in ledger.page(RunFilter(text="bbbbb"), window=2).runs] == ["old"]
    assert ledger.count(RunFilter(text="bbbbb"), window=2) == Counted(1, more=True)
    assert ledger.count(RunFilter(text="bbbbb", workflow="merge"), window=100) == Counted(1)


def test_a_run_is_found_by_the_beginning_of_its_id_alone_however_many_runs_have_it_elsewhere(ledger: Ledger) -> None:
    enter(ledger, merge("old", "older", "bbbbbbbb-1111-5000-a000-000000000000"), now=NOW - 1000)
    for number in range(3):
        enter(ledger, merge(f"bbbb-{number}", "T", ID.format(50 + number)))
    assert [run.source for run in ledger.named("bbbb", 2)] == ["old"]
    assert [run.source for run in ledger.named("BBBBBBBB-1", 2)] == ["old"]
    assert len(ledger.named("0aa1b2c3", 2)) == 2
    for none in ("bbb", "bbbc", "S1", "%", ""):
        assert ledger.named(none, 2) == []


@pytest.mark.parametrize("window", [2, 1000])
def test_a_run_of_that_id_is_not_shown_where_another_condition_leaves_it_out(ledger: Ledger, window: int) -> None:
    succeeded = ID.format(5)
    assert numbers(ledger, window, text=succeeded, state="succeeded", user="S5", workflow="merge") == ["05"]
    others: list[dict[str, Any]] = [
        {"state": "failed"},
        {"reason": "BAD_ROW"},
        {"workflow": "other"},
        {"user": "S1"},
        {"since": NOW + 3},
        {"until": NOW + 2},
    ]
    for other in others:
        assert numbers(ledger, window, text=succeeded, **other) == [], other
        assert ledger.count(RunFilter(text=succeeded, **other)) == Counted(0), other


@pytest.mark.parametrize("window", [2, 3, 4, 100])
def test_a_user_of_many_runs_in_one_role_and_few_in_the_other_is_found_in_both(ledger: Ledger, window: int) -> None:
    for number in range(9):
        enter(ledger, merge(f"Y{number}", "U", f"y{number}", merge=False), now=NOW + 100 + number)
    for number in (0, 8):
        enter(ledger, merge("U", f"Z{number}", f"z{number}", merge=False), now=NOW + 100 + number)
    everything = ["z8", "y8", *(f"y{n}" for n in range(7, 0, -1)), "z0", "y0"]
    assert numbers(ledger, window, user="U", text="U") == everything


@pytest.mark.parametrize("limit", [1, 3, 100])
def test_counts_stop_at_their_limit_and_say_so(ledger: Ledger, limit: int) -> None:
    counted = ledger.live_counts(limit)
    assert counted["failed"] == Counted(min(3, limit), limit < 3)
    assert counted["succeeded"] == Counted(1)
    assert counted["undone"] == Counted(0)
    assert ledger.count(RunFilter(text="row is broken"), limit=limit) == Counted(min(3, limit), limit < 3)
    assert ledger.count(RunFilter(user="S0"), limit=limit) == Counted(min(2, limit), limit < 2)


def test_a_count_that_did_not_look_at_everything_says_that_there_may_be_more(ledger: Ledger) -> None:
    assert ledger.count(RunFilter(text="row is broken"), window=6) == Counted(1, more=True)


def test_failed_runs_are_grouped_by_their_reason_the_largest_group_first(ledger: Ledger) -> None:
    begun = begin(ledger, ID.format(8)).run
    ledger.fail(begun.id, "first", begun.generation, "token", NOW, "A_RARE_ONE", "something else", None)
    many, few = ledger.groups("failed")
    assert (many.reason, many.counted, many.oldest_at) == ("BAD_ROW", Counted(3), NOW)
    assert (many.latest.id, few.reason, few.counted) == (ID.format(7), "A_RARE_ONE", Counted(1))
    assert ledger.groups("waiting") == []


def test_what_fails_only_after_many_were_asked_for_is_not_among_them(ledger: Ledger) -> None:
    failed = RunFilter(state="failed")
    for number, now in ((2, NOW), (3, NOW + 1)):
        begin(ledger, ID.format(number), token=f"token of {number}")
        assert ledger.fail(ID.format(number), "first", 1, f"token of {number}", now, "BAD_ROW", "broken", None)
    assert [run.id[-2:] for run in each(ledger, failed, asked=NOW)] == ["07", "04", "02", "01"]
    assert [run.id[-2:] for run in each(ledger, failed, asked=NOW + 1)] == ["07", "04", "03", "02", "01"]


def test_a_run_waits_since_it_first_waited_in_its_step(ledger: Ledger) -> None:
    for now in (NOW + 100, NOW + 200):
        generation = begin(ledger, ID.format(2)).run.generation
        ledger.step_aside(ID.format(2), "first", generation, "token", now, now + 50, "UNREACHABLE", "no answer")
    waiting = ledger.page(RunFilter(state="waiting")).runs
    assert ledger.waiting_since(waiting) == {ID.format(2): NOW + 100}
    [group] = ledger.groups("waiting")
    assert (group.reason, group.latest.error) == ("UNREACHABLE", "no answer")


def test_chunks_are_listed_without_their_rows_and_read_one_by_one(ledger: Ledger) -> None:
    run_id = begin(ledger, ID.format(3)).run.id
    for number in (1, 2, 3):
        journal(ledger, chunk(run_id, number))
    first, *rest = ledger.chunk_heads(run_id, limit=2)
    assert (first.step, first.number, first.kind, first.state, len(rest)) == ("first", 1, "merge", "open", 1)
    assert [head.number for head in ledger.chunk_heads(run_id, after=rest[0].id)] == [3]
    read = ledger.chunk(first.id)
    assert read is not None
    assert read.payload == {"rows": 1}
    assert ledger.chunk(10_000_000) is None


def test_dead_letters_are_grouped_by_code_and_remember_who_replayed_them(ledger: Ledger) -> None:
    enter(ledger, merge("S0", "T9", "dead-1"), merge("S1", "T9", "dead-2"), merge("T0", "S0", "dead-3"))
    many, few = ledger.dead_groups("open")
    assert (many.code, many.counted, few.code) == ("ALREADY_MERGED", Counted(2), "MERGE_CIRCLE")
    assert ledger.replayed(few.latest.id, NOW, "asha")
    ledger.note(Act(NOW, "ravi", "look", dead_id=few.latest.id))
    assert [(entry.who, entry.action) for entry in ledger.audit_of_dead(few.latest.id)] == [
        ("asha", "replay"),
        ("ravi", "look"),
    ]
    assert ledger.count_dead("open") == Counted(2)
    assert ledger.count_dead("open", "ALREADY_MERGED", limit=1) == Counted(1, more=True)
    assert ledger.count_dead("open", "ALREADY_MERGED", "s1 IS") == Counted(1)
    assert [group.code for group in ledger.dead_groups("replayed")] == ["MERGE_CIRCLE"]
