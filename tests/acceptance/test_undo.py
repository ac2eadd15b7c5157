"""A merge taken back: the rows as before, byte for byte, but for what somebody has changed since."""

from collections.abc import Callable, Sequence
from contextlib import suppress

import pytest

from lern.chunks import Carried
from lern.chunks.merge import MergeChunk
from lern.chunks.sync import SyncChunk
from lern.errors import BadRow, Refused, Unreachable
from lern.ledger import Run
from lern.outgoing import OutgoingEvent
from lern.store.base import Store
from lern.store.tables import USER_CONTENT_CONSUMPTION, USER_COURSES, USER_ENROLMENTS
from lern.undo import request
from tasks.merge import ENROLMENTS, SYNC
from tasks.step import deliver, now_ms
from tests.acceptance.conftest import MakePlace
from tests.acceptance.place import Place
from tests.accounts import DAY, RELATIONS, account, content, enrolment, legacy_enrolment, two_accounts


def undo(place: Place, run_id: str) -> Run:
    """Take a run back, to the end."""
    entered = request(place.services.ledger, run_id, now_ms())
    return place.carry_out(entered.run_id)


@pytest.mark.parametrize(
    "settings",
    [
        {"merge_tables": "current,legacy"},
        {"merge_tables": "current,legacy", "merge_source_rows": "keep"},
        {"merge_tables": "current,legacy", "chunk_rows": "1"},
        {"merge_enrolments": "ignore"},
    ],
    ids=str,
)
def test_the_rows_are_as_before(make_place: MakePlace, settings: dict[str, str]) -> None:
    place = make_place(**settings)
    place.load(two_accounts("from", "to"), RELATIONS)
    before = place.tables()
    merge = place.merge("from", "to")
    assert place.tables() != before
    taken_back = undo(place, merge)
    assert taken_back.state == "succeeded"
    assert place.tables() == before
    assert place.run(merge).state == "undone"
    assert place.services.ledger.final_account("from") == "from"
    # What was sent cannot be taken back, and is named.
    assert any("cannot be taken back" in warning for warning in taken_back.warnings)


def test_what_somebody_changed_since_stays_and_is_named(place: Place) -> None:
    place.load(two_accounts("from", "to"), RELATIONS)
    before = place.tables()
    merge = place.merge("from", "to")
    place.sql("UPDATE user_content_consumption SET viewcount = 77 WHERE userid = 'to' AND contentid = 'c3'")
    place.sql("UPDATE user_content_consumption SET status = 2 WHERE userid = 'to' AND courseid = 'course-2'")
    run = undo(place, merge)

    changed = {(row["courseid"], row["contentid"]): row for row in place.rows(USER_CONTENT_CONSUMPTION, "to")}
    # Of these views the merge has brought four, which go back to where they came from.
    assert changed["course-1", "c3"]["viewcount"] == 73
    assert changed["course-2", "c1"]["status"] == 2
    said = "\n".join(run.warnings)
    assert "user_content_consumption ['to', 'course-1', 'b1', 'c3']: viewcount was changed since: the 4" in said
    assert "user_content_consumption ['to', 'course-2', 'b2', 'c1']: status was changed since and stays" in said
    # All the rest is as before.
    place.sql("UPDATE user_content_consumption SET viewcount = 1 WHERE userid = 'to' AND contentid = 'c3'")
    place.sql("DELETE FROM user_content_consumption WHERE userid = 'to' AND courseid = 'course-2'")
    assert place.tables() == before


def test_views_that_came_since_stay_and_none_is_counted_twice(place: Place) -> None:
    place.load(
        [content("from", "course-1", "b", "both", viewcount=3), content("from", "course-1", "b", "one", viewcount=2)]
    )
    place.load([content("to", "course-1", "b", "both", viewcount=5)])
    merge = place.merge("from", "to", "first")
    place.sql("UPDATE user_content_consumption SET viewcount = viewcount + 4 WHERE userid = 'to'")
    undo(place, merge)
    assert views(place, "from") == {"both": 3, "one": 2}
    assert views(place, "to") == {"both": 9, "one": 4}
    place.merge("from", "to", "second")
    assert views(place, "to") == {"both": 12, "one": 6}


def test_a_late_row_does_not_hide_what_the_source_had(place: Place) -> None:
    """The completion comes back beside the late row, whose sweep was undone before."""
    place.load([content("from", "course-1", "b", "c1", viewcount=3, status=2, progress=100)])
    place.load([legacy_enrolment("from", "course-1", "b", status=2)])
    merge = place.merge("from", "to", "first")
    place.load([content("from", "course-1", "b", "c1", viewcount=1, status=1, progress=10)])
    sweep = place.merge("from", "to", "second")
    undo(place, sweep)
    assert views(place, "to") == {"c1": 3}
    run = undo(place, merge)
    [row] = place.rows(USER_CONTENT_CONSUMPTION)
    assert (row["userid"], row["status"], row["progress"], row["viewcount"]) == ("from", 2, 100, 4)
    assert "['from', 'course-1', 'b', 'c1']: a row came since, and what was there before is settled" in run.warnings[0]
    place.merge("from", "to", "third")
    assert views(place, "to") == {"c1": 4}


def test_where_no_rule_brings_two_rows_together_the_late_one_stays_and_what_it_hides_is_named(
    make_place: MakePlace,
) -> None:
    place = make_place(merge_tables="current,legacy")
    place.load([legacy_enrolment("from", "course-1", "b", status=2, delta="{}")])
    place.load([content("from", "course-1", "b", "c1", status=1)])
    merge = place.merge("from", "to")
    place.load([legacy_enrolment("from", "course-1", "b", status=1)])
    run = undo(place, merge)
    [row] = place.rows(USER_COURSES)
    assert (row["userid"], row["status"], row["delta"]) == ("from", 1, "{}")
    assert "user_courses ['b', 'from']: status was changed since and stays" in run.warnings


def test_a_row_that_changed_while_it_was_being_merged_is_counted_once(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was given twice, as it was and with what had come; it comes back once, with all it has."""
    place.load([content("from", "course-1", "b", "c1", viewcount=3), content("to", "course-1", "b", "c1", viewcount=5)])
    carry_out = MergeChunk.carry_out

    def beside_a_viewer(chunk: MergeChunk, store: Store, guard: Callable[[], None]) -> Carried:
        monkeypatch.undo()
        place.sql("UPDATE user_content_consumption SET viewcount = 4 WHERE userid = 'from'")
        return carry_out(chunk, store, guard)

    monkeypatch.setattr(MergeChunk, "carry_out", beside_a_viewer)
    merge = place.merge("from", "to")
    assert views(place, "to") == {"c1": 9}
    undo(place, merge)
    assert (views(place, "from"), views(place, "to")) == ({"c1": 4}, {"c1": 5})


def test_an_enrolment_that_somebody_went_on_with_remains_one(place: Place) -> None:
    place.load([enrolment("from", "course-1", "b", active=True, enrolled_date=DAY, status=1, addedby="from")])
    merge = place.merge("from", "to")
    place.sql("UPDATE user_enrolments SET status = 2, completedon = 5 WHERE userid = 'to'")
    run = undo(place, merge)
    [row] = place.rows(USER_ENROLMENTS, "to")
    key = {"userid": "to", "courseid": "course-1", "batchid": "b"}
    assert row == {**key, "active": True, "enrolled_date": DAY, "status": 2, "completedon": 5}
    said = "somebody went on with the enrolment since: active and enrolled_date stay"
    assert f"user_enrolments ['to', 'course-1', 'b']: {said}" in run.warnings
    assert place.rows(USER_ENROLMENTS, "from")[0]["status"] == 1


class Away:
    """Where events go while Kafka is away."""

    def send(self, events: Sequence[OutgoingEvent]) -> None:
        raise Unreachable("kafka", f"{len(events)} events wait")


def finds_a_broken_row(_chunk: SyncChunk, _store: Store, _guard: Callable[[], None]) -> Carried:
    raise BadRow("user_enrolments", "to", "status", "no number")


def test_what_an_undone_merge_has_not_announced_yet_is_never_announced(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.load(two_accounts("from", "to"), RELATIONS)
    before = place.tables()
    merge = place.enter("from", "to")
    while place.run(merge).step != SYNC:
        place.step(merge)
    with monkeypatch.context() as meanwhile:
        meanwhile.setitem(vars(place.services), "sender", Away())
        meanwhile.setattr(SyncChunk, "carry_out", finds_a_broken_row)
        with suppress(Unreachable):
            place.step(merge)
    assert place.run(merge).state == "failed"
    waiting = [event.mid for event in place.services.ledger.undelivered(merge)]
    assert waiting
    taken_back = undo(place, merge)
    assert place.tables() == before
    deliver(place.services, None, created_before=now_ms() + 1)
    assert place.sent() == {}
    assert any("are taken back" in warning and waiting[0] in warning for warning in taken_back.warnings)


def test_a_failed_undo_is_not_tried_again_while_its_run_is(place: Place) -> None:
    place.load(two_accounts("from", "to"), RELATIONS)
    place.load([content("another", "course-1", "b", "c1", viewcount=1)])
    merge = place.merge("from", "to", "1")
    waiting = request(place.services.ledger, merge, now_ms()).run_id
    later = place.merge("another", "to", "2")
    assert place.carry_out(waiting).state == "failed"
    undo(place, later)
    place.services.ledger.retry(merge, now_ms(), "ada", ENROLMENTS)
    merged = place.tables()
    with pytest.raises(Refused, match=f"run {merge} is queued"):
        place.services.ledger.retry(waiting, now_ms(), "ada")
    assert place.carry_out(merge).state == "succeeded"
    assert place.tables() == merged


def test_an_undo_waits_for_a_merge_that_was_tried_again_since(place: Place) -> None:
    place.load([content("a", "course-1", "b", "c1", viewcount=3), content("a", "course-1", "b", "c2", viewcount=1)])
    place.load([content("b", "course-1", "b", "c1", viewcount=5), content("c", "course-1", "b", "c1", viewcount=7)])
    place.sql("UPDATE user_content_consumption SET status = 'bad' WHERE userid = 'a' AND contentid = 'c1'")
    first = place.enter("a", "b", "1")
    assert place.carry_out(first).state == "failed"
    second = place.merge("b", "c", "2")
    place.sql("UPDATE user_content_consumption SET status = NULL WHERE userid = 'a'")
    place.services.ledger.retry(first, now_ms(), "ada")
    assert place.carry_out(first).state == "succeeded"
    assert views(place, "c") == {"c1": 15, "c2": 1}
    with pytest.raises(Refused, match=first):
        undo(place, second)
    undo(place, first)
    undo(place, second)
    assert [views(place, user) for user in "abc"] == [{"c1": 3, "c2": 1}, {"c1": 5}, {"c1": 7}]


def test_merges_that_worked_in_turns_go_back_in_turn(place: Place) -> None:
    for user in ("a", "b", "c"):
        place.load(account(user, ["course-1"]))
    before = place.tables()
    first, second = place.enter("a", "b", "1"), place.enter("c", "b", "2")
    while place.run(first).step is not None:
        place.step(second)
        place.step(first)
    with pytest.raises(Refused, match=first):
        undo(place, second)
    undo(place, first)
    undo(place, second)
    assert place.tables() == before


def test_an_undo_is_refused_while_a_later_merge_stands(place: Place) -> None:
    for user in ("a", "b", "c"):
        place.load(account(user, ["course-1", user]))
    before = place.tables()
    first = place.merge("a", "b")
    between = place.tables()
    second = place.merge("b", "c")
    with pytest.raises(Refused, match=second):
        undo(place, first)
    assert undo(place, second).state == "succeeded"
    assert place.tables() == between
    assert undo(place, first).state == "succeeded"
    assert place.tables() == before


def test_a_later_merge_that_comes_while_the_undo_waits_is_not_run_over(place: Place) -> None:
    for user in ("a", "b", "c"):
        place.load(account(user, ["course-1", user]))
    first = place.merge("a", "b")
    waiting = request(place.services.ledger, first, now_ms()).run_id
    place.merge("c", "b")
    merged = place.tables()
    run = place.carry_out(waiting)
    assert (run.state, run.reason) == ("failed", "REFUSED")
    assert place.run(first).state == "succeeded"
    assert place.tables() == merged


def test_merged_undone_and_merged_again(place: Place, make_place: MakePlace) -> None:
    reference = make_place()
    for one in (reference, place):
        one.load(two_accounts("from", "to"), RELATIONS)
    reference.merge("from", "to")
    undo(place, place.merge("from", "to", "first"))
    place.merge("from", "to", "second")
    assert place.tables() == reference.tables()


def test_merged_undone_and_merged_into_another(place: Place) -> None:
    place.load(two_accounts("from", "to"), RELATIONS)
    at_first = [row for row in place.tables()["user_enrolments"] if row[0] == "to"]
    undo(place, place.merge("from", "to"))
    place.merge("from", "another")
    assert [row for row in place.tables()["user_enrolments"] if row[0] == "to"] == at_first
    enrolled = {row["courseid"] for row in place.rows(USER_ENROLMENTS, "another")}
    assert enrolled == {"course-1", "course-2"}


def views(place: Place, user: str) -> dict[str, int]:
    return {row["contentid"]: row["viewcount"] for row in place.rows(USER_CONTENT_CONSUMPTION, user)}


def test_merging_a_pair_again_adds_only_what_is_new(make_place: MakePlace) -> None:
    """The source's rows stay, and go on counting; what they have given before is not given again."""
    place = make_place(merge_source_rows="keep")
    for user, seen in (("from", 3), ("to", 5)):
        place.load([content(user, "course-1", "b", "both", viewcount=seen)])
    place.load([content("from", "course-1", "b", "one", viewcount=2)])
    place.merge("from", "to", "first")
    assert views(place, "to") == {"both": 8, "one": 2}
    merged = place.tables()
    place.merge("from", "to", "second")
    assert place.tables() == merged
    place.sql("UPDATE user_content_consumption SET viewcount = viewcount + 4 WHERE userid = 'from'")
    place.merge("from", "to", "third")
    assert views(place, "to") == {"both": 12, "one": 6}
    assert views(place, "from") == {"both": 7, "one": 6}


def test_an_undo_takes_back_what_was_given_to_the_counters_too(make_place: MakePlace) -> None:
    place = make_place(merge_source_rows="keep")
    for user, seen in (("from", 3), ("to", 5)):
        place.load([content(user, "course-1", "b", "both", viewcount=seen)])
    merge = place.merge("from", "to", "first")
    undo(place, merge)
    assert views(place, "to") == {"both": 5}
    place.merge("from", "to", "second")
    assert views(place, "to") == {"both": 8}
