"""A merge taken back: the rows as before, byte for byte, but for what somebody has changed since."""

import pytest

from lern.errors import Refused
from lern.ledger import Run
from lern.store.tables import USER_CONTENT_CONSUMPTION, USER_ENROLMENTS
from lern.undo import request
from tasks.step import now_ms
from tests.acceptance.conftest import MakePlace
from tests.acceptance.place import Place
from tests.accounts import RELATIONS, account, content, two_accounts


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
    assert changed["course-1", "c3"]["viewcount"] == 77
    assert changed["course-2", "c1"]["status"] == 2
    said = "\n".join(run.warnings)
    assert "user_content_consumption ['to', 'course-1', 'b1', 'c3']: viewcount was changed since and stays" in said
    assert "user_content_consumption ['to', 'course-2', 'b2', 'c1']: status was changed since and stays" in said
    # All the rest is as before.
    place.sql("UPDATE user_content_consumption SET viewcount = 1 WHERE userid = 'to' AND contentid = 'c3'")
    place.sql("DELETE FROM user_content_consumption WHERE userid = 'to' AND courseid = 'course-2'")
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
