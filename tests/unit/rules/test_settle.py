"""Settling: the same row in the end, however often it is tried and whoever writes beside it."""

import math
from collections.abc import Mapping

import pytest

from lern.rules.merge import COUNTERS, RULES, difference, settle
from lern.store.base import Change
from lern.store.tables import TABLES, USER_ACTIVITY_AGG, USER_CONTENT_CONSUMPTION, USER_ENROLMENTS, Row

KEY = {"userid": "B", "courseid": "do_course", "batchid": "01", "contentid": "do_video"}


def content(**columns: object) -> Row:
    return {**KEY, **columns}


def views(
    before: int | None, source: int | None, now: int | None, contributed: Mapping[str, int] | None = None
) -> int | None:
    """Settle one counter; every row stands, with or without it."""
    rows = [content() if count is None else content(viewcount=count) for count in (now, source, before)]
    settled = settle(USER_CONTENT_CONSUMPTION, rows[0], rows[1], rows[2], contributed or {})
    assert settled is not None
    count: int | None = settled.get("viewcount")
    return count


@pytest.mark.parametrize(
    ("now", "stands"),
    [
        (10, 15),  # nothing happened since the journal entry
        (15, 15),  # settled already
        (18, 18),  # settled, and viewed three times since
        (12, 17),  # viewed twice since, not yet settled
        (7, 15),  # a slow writer's stale value took it back
        (None, 15),
    ],
)
def test_a_counter_of_ten_that_gains_five(now: int | None, stands: int) -> None:
    assert views(before=10, source=5, now=now) == stands


def test_what_was_contributed_before_is_not_added_again() -> None:
    assert views(before=10, source=5, now=10, contributed={"viewcount": 5}) == 10
    assert views(before=10, source=7, now=10, contributed={"viewcount": 5}) == 12


def test_a_source_row_below_what_it_contributed_is_a_new_row_and_adds_all_it_has() -> None:
    assert views(before=10, source=2, now=10, contributed={"viewcount": 5}) == 12
    target, source = content(viewcount=10, completedcount=3), content(viewcount=2, completedcount=3)
    settled = settle(USER_CONTENT_CONSUMPTION, target, source, target, {"viewcount": 5, "completedcount": 3})
    assert settled == content(viewcount=12, completedcount=6)


def test_a_negative_count_is_copied_verbatim_and_settles_there() -> None:
    source = content(viewcount=-3)
    assert settle(USER_CONTENT_CONSUMPTION, None, source, None, {}) == source
    assert settle(USER_CONTENT_CONSUMPTION, source, source, None, {}) == source


def test_a_row_that_a_live_writer_made_before_the_copy_gains_the_sources_counts() -> None:
    settled = settle(USER_CONTENT_CONSUMPTION, content(viewcount=1), content(viewcount=5, status=2), None, {})
    assert settled == content(viewcount=6, status=2)


def test_a_target_that_vanished_is_brought_back() -> None:
    before, source = content(viewcount=4, status=1, progress=70), content(viewcount=1, status=2)
    settled = settle(USER_CONTENT_CONSUMPTION, None, source, before, {})
    assert settled == content(viewcount=5, status=2, progress=70)


def test_a_ghost_that_vanished_is_not_brought_back() -> None:
    ghost = {"userid": "B", "courseid": "do_course", "batchid": "01", "status": 1}
    real = {**ghost, "active": True, "status": 0}
    assert settle(USER_ENROLMENTS, None, ghost, ghost, {}) is None
    assert settle(USER_ENROLMENTS, None, real, ghost, {}) == real


class TestDifference:
    def test_nothing_to_write(self) -> None:
        row = content(status=1, completionpercentage=math.nan)
        assert difference(USER_CONTENT_CONSUMPTION, row, {**row, "completionpercentage": -math.nan}) is None

    def test_a_missing_row_is_created_even_if_it_holds_nothing_but_its_key(self) -> None:
        assert difference(USER_CONTENT_CONSUMPTION, None, content()) == Change(("B", "do_course", "01", "do_video"))
        assert difference(USER_CONTENT_CONSUMPTION, None, content(status=0)) == Change(
            ("B", "do_course", "01", "do_video"), {"status": 0}
        )

    def test_only_columns_that_change(self) -> None:
        change = difference(
            USER_CONTENT_CONSUMPTION, content(status=1, progress=5), content(status=2, progress=5, viewcount=0)
        )
        assert change == Change(("B", "do_course", "01", "do_video"), {"status": 2, "viewcount": 0})

    def test_of_a_map_only_entries_that_change(self) -> None:
        key = {"activity_type": "Course", "activity_id": "do_course", "user_id": "B", "context_id": "cb:01"}
        current = {**key, "aggregates": {"completedCount": 1.0, "score:do_1": 2.0, "time": math.nan}}
        wanted = {**key, "aggregates": {"completedCount": 2.0, "score:do_1": 2.0, "time": -math.nan, "new": 0.0}}
        assert difference(USER_ACTIVITY_AGG, current, wanted) == Change(
            ("Course", "do_course", "B", "cb:01"), {"aggregates": {"completedCount": 2.0, "new": 0.0}}
        )

    def test_a_new_map_is_put_whole(self) -> None:
        key = {"userid": "B", "courseid": "do_course", "batchid": "01"}
        change = difference(USER_ENROLMENTS, key, {**key, "contentstatus": {"do_1": 2}})
        assert change == Change(("B", "do_course", "01"), {"contentstatus": {"do_1": 2}})

    def test_what_is_not_wanted_is_never_taken_away(self) -> None:
        assert difference(USER_CONTENT_CONSUMPTION, content(status=1, grade="A"), content(status=1)) is None


@pytest.mark.parametrize("name", RULES)
def test_every_column_has_exactly_one_rule(name: str) -> None:
    rules = RULES[name]
    ruled = [*rules.columns, *rules.computed, *rules.counters, *(c for group in rules.together for c in group.columns)]
    assert sorted(ruled) == sorted(TABLES[name].values)


def test_only_the_content_tables_count() -> None:
    assert COUNTERS == {
        "user_content_consumption": ("viewcount", "completedcount"),
        "content_consumption": ("viewcount", "completedcount"),
    }
