"""Undo, row by row: what the run left goes back, what somebody changed since stays and is named."""

from hypothesis import example, given
from hypothesis import strategies as st

from lern.chunks.undo import Item, way_back
from lern.store.base import Change
from lern.store.tables import USER_ENROLMENTS, Row

KEY = ("asha", "do_1", "b1")
KEYS = dict(zip(USER_ENROLMENTS.key, KEY, strict=True))


def item(after: Row | None, before: Row | None) -> Item:
    keyed = [None if row is None else {**KEYS, **row} for row in (after, before)]
    return Item(USER_ENROLMENTS, KEY, *keyed)


def applied(row: Row | None, change: Change | None) -> Row | None:
    """Do to a row what a store would."""
    if change is None:
        return row
    if change.delete:
        return None
    result = {**(row or KEYS)}
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
