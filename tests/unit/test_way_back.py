"""Undo, row by row: what the run left goes back, what somebody changed since stays and is named."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lern.chunks.undo import Item, UndoChunk, WayBack, way_back
from lern.rules.merge import COUNTERS, RULES, settle
from lern.rules.rule import same
from lern.store.base import Change
from lern.store.tables import TABLES, USER_CONTENT_CONSUMPTION, USER_ENROLMENTS, Row, Table
from tests.strategies import accounts

KEY = ("asha", "do_1", "b1")
KEYS = dict(zip(USER_ENROLMENTS.key, KEY, strict=True))


def item(after: Row | None, before: Row | None) -> Item:
    left, was = (None if row is None else {**KEYS, **row} for row in (after, before))
    return Item(USER_ENROLMENTS, KEY, left, was)


def applied(row: Row | None, change: Change | None, table: Table = USER_ENROLMENTS) -> Row | None:
    """Do to a row what a store would."""
    if change is None:
        return row
    if change.delete:
        return None
    result = {**(row or dict(zip(table.key, change.key, strict=True)))}
    for column, value in change.put.items():
        result[column] = {**result.get(column, {}), **value} if isinstance(value, dict) else value
    for column, keys in change.drop.items():
        result[column] = {key: value for key, value in result.get(column, {}).items() if key not in keys}
        if not result[column]:
            del result[column]
    return {column: value for column, value in result.items() if column not in change.clear}


def test_a_cell_goes_back_to_what_it_was() -> None:
    way = way_back(item({"status": 2}, {"status": 1}), {**KEYS, "status": 2})
    assert way.change == Change(KEY, put={"status": 1})


def test_a_cell_that_did_not_exist_is_removed() -> None:
    way = way_back(item({"status": 2, "addedby": "x"}, {"status": 2}), {**KEYS, "status": 2, "addedby": "x"})
    assert way.change == Change(KEY, clear=frozenset({"addedby"}))


def test_map_entries_go_back_one_by_one() -> None:
    after, before = {"contentstatus": {"a": 2, "b": 1, "c": 1}}, {"contentstatus": {"a": 1, "c": 1}}
    now = {**KEYS, "contentstatus": {"a": 2, "b": 1, "c": 2, "d": 1}}
    way = way_back(item(after, before), now)
    assert way.change == Change(KEY, put={"contentstatus": {"a": 1}}, drop={"contentstatus": frozenset({"b"})})


def test_what_somebody_changed_since_stays_and_is_named() -> None:
    way = way_back(
        item({"status": 1, "progress": 3}, {"status": 0, "progress": 1}), {**KEYS, "status": 2, "progress": 3}
    )
    assert way.change == Change(KEY, put={"progress": 1})
    assert way.kept == ("status",)


def test_a_copied_row_that_nobody_touched_goes_as_a_whole() -> None:
    way = way_back(item({"status": 1}, None), {**KEYS, "status": 1})
    assert way.change == Change(KEY, delete=True)


def test_of_a_copied_row_that_somebody_went_on_with_only_the_rest_goes() -> None:
    way = way_back(item({"status": 1, "addedby": "x"}, None), {**KEYS, "status": 2, "addedby": "x"})
    assert way.change == Change(KEY, clear=frozenset({"addedby"}))
    assert way.kept == ("status",)


def test_a_row_that_the_run_deleted_comes_back() -> None:
    way = way_back(item(None, {"status": 1}), None)
    assert way.change == Change(KEY, put={"status": 1})


def test_a_row_that_somebody_else_deleted_stays_deleted() -> None:
    way = way_back(item({"status": 2}, {"status": 1}), None)
    assert way.change is None
    assert way.kept == ("the row",)


def test_an_enrolment_that_somebody_went_on_with_is_no_ghost_after_that() -> None:
    copied = {"status": 1, "active": True, "enrolled_date": 5}
    for before in (None, {"progress": 1}):
        way = way_back(item(copied, before), {**KEYS, **copied, "progress": 1, "status": 2})
        assert way.change is None
        assert (way.kept, way.said) == (
            ("status",),
            ("somebody went on with the enrolment since: active and enrolled_date stay",),
        )
    way = way_back(item(copied, {"progress": 1}), {**KEYS, **copied, "progress": 1})
    assert way.change == Change(KEY, clear=frozenset(copied))


PLACE = ("asha", "do_1", "b1", "video")


def counter(before: int | None, left: int, found: int) -> Item:
    """Give a counter on its way back."""
    keyed = dict(zip(USER_CONTENT_CONSUMPTION.key, PLACE, strict=True))
    was, after, now = ({**keyed, "viewcount": count} for count in (before, left, found))
    return Item(USER_CONTENT_CONSUMPTION, PLACE, after, None if before is None else was, now)


def views(way: WayBack, now: int) -> int | None:
    """Tell what a counter is after its way back."""
    row = applied({"viewcount": now}, way.change)
    return None if row is None else row.get("viewcount")


@pytest.mark.parametrize(
    ("now", "stands"),
    [
        (8, 5),  # as the run left it
        (9, 6),  # viewed once while it was on its way
        (5, 5),  # taken off already
        (7, 7),  # taken off, and viewed twice since
        (2, 2),  # taken off, and lowered by a slow writer
    ],
)
def test_from_a_counter_goes_what_the_run_gave(now: int, stands: int) -> None:
    way = way_back(counter(before=5, left=8, found=8), {"viewcount": now})
    assert views(way, now) == stands
    assert (way.kept, way.said) == ((), ())


def test_views_that_came_before_the_undo_stay() -> None:
    way = way_back(counter(before=5, left=8, found=20), {"viewcount": 20})
    assert views(way, 20) == 17
    assert way.said == ("viewcount was changed since: the 3 that the run had given are taken off it",)
    assert views(way_back(counter(before=None, left=8, found=20), {"viewcount": 20}), 20) == 12


def test_a_counter_that_was_nothing_or_a_fault_is_so_again() -> None:
    assert way_back(counter(None, 8, 8), {"viewcount": 8}).change == Change(PLACE, delete=True)
    assert views(way_back(counter(-2, 3, 3), {"viewcount": 3}), 3) == -2
    assert views(way_back(counter(-2, 3, 4), {"viewcount": 4}), 4) == 1


def test_a_counter_that_has_lost_what_the_run_gave_stays() -> None:
    way = way_back(counter(before=5, left=8, found=6), {"viewcount": 6})
    assert (way.change, way.kept, way.holds) == (None, ("viewcount",), {})


def test_of_a_counter_that_cannot_be_told_it_is_remembered_what_it_holds() -> None:
    way = way_back(counter(before=5, left=8, found=8), {"viewcount": 11})
    assert (way.change, way.kept, way.holds) == (None, ("viewcount",), {"viewcount": 3})


every_table = pytest.mark.parametrize("table", [TABLES[name] for name in RULES], ids=lambda table: table.name)


@every_table
@given(data=st.data())
def test_a_row_comes_back_beside_one_that_came_since_however_often(table: Table, data: st.DataObject) -> None:
    """And through the journal. What counts is counted once."""
    before, late = data.draw(accounts(table, 2))
    chunk = UndoChunk((Item(table, table.key_of(before), None, before, late),), {})
    [again] = UndoChunk.from_payload(chunk.to_payload()).items
    once = applied(late, way_back(again, late).change, table)
    assert once is not None
    assert same(applied(once, way_back(again, once).change, table), once)
    assert once.keys() == before.keys() | late.keys()
    for column in COUNTERS.get(table.name, ()):
        seen = sum(max(row.get(column, 0), 0) for row in (before, late))
        assert max(once.get(column, 0), 0) == min(seen, 2**31 - 1)


@every_table
@given(data=st.data())
def test_a_merged_row_goes_back_however_often(table: Table, data: st.DataObject) -> None:
    stood, source = data.draw(accounts(table, 2))
    before = data.draw(st.sampled_from([stood, None]))
    left = settle(table, before, source, before, {})
    back = Item(table, table.key_of(stood), left, before, left)
    once = applied(left, way_back(back, left).change, table)
    assert same(once, before)
    assert way_back(back, once).change is None


@given(before=st.integers(0, 9), gave=st.integers(1, 9), since=st.integers(0, 9), data=st.data())
def test_of_views_that_come_while_a_counter_goes_back_none_is_lost(
    before: int, gave: int, since: int, data: st.DataObject
) -> None:
    came, now = since, before + gave + since
    back = counter(before, before + gave, now)
    for more in data.draw(st.lists(st.integers(0, gave - 1), min_size=2, max_size=4)):
        # As many as the run gave would look like them.
        seen = min(more, gave - 1 - (came - since))
        came, now = came + seen, now + seen
        now = views(way_back(back, {"viewcount": now}), now) or 0
    assert now == before + came


rows = st.fixed_dictionaries(
    {},
    optional={
        "status": st.integers(0, 2),
        "addedby": st.sampled_from("xy"),
        "contentstatus": st.dictionaries(st.sampled_from("abc"), st.integers(0, 2), min_size=1),
    },
)


@given(rows, rows)
def test_if_nobody_touched_the_row_it_is_as_before(after: Row, before: Row) -> None:
    way = way_back(item(after, before), {**KEYS, **after})
    assert applied({**KEYS, **after}, way.change) == {**KEYS, **before}
    assert way.kept == ()


@given(rows | st.none(), rows | st.none(), rows | st.none())
@example({"contentstatus": {"a": 0, "b": 0}}, None, {"contentstatus": {"a": 0}})
def test_doing_it_again_changes_nothing_more(after: Row | None, before: Row | None, now: Row | None) -> None:
    current = None if now is None else {**KEYS, **now}
    once = applied(current, way_back(item(after, before), current).change)
    assert applied(once, way_back(item(after, before), once).change) == once


def test_what_an_earlier_version_has_journalled_is_carried_out_still() -> None:
    item = Item(USER_ENROLMENTS, KEY, None, {**KEYS, "status": 2})
    payload = UndoChunk((item,), {}).to_payload()
    payload["items"] = [raw[:4] for raw in payload["items"]]
    assert UndoChunk.from_payload(payload).items == (item,)
