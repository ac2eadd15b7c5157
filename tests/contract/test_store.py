"""What every store promises (`lern.store.base`). A further implementation joins by one more parameter of `place`."""

import math
import multiprocessing
import os
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from decimal import Decimal
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lern.errors import BadRow, LockLost
from lern.store.base import Change, First, Store, Swap
from lern.store.cassandra import CassandraStore
from lern.store.sql import SqlStore
from lern.store.sql_codec import same
from lern.store.tables import (
    ASSESSMENT_AGGREGATOR,
    COURSE_BATCH,
    TABLES,
    USER_ACTIVITY_AGG,
    USER_CONTENT_CONSUMPTION,
    USER_COURSES,
    USER_ENROLMENTS,
    Key,
    Row,
    Table,
)
from tests import strategies

ALL_TABLES: Final = pytest.mark.parametrize("table", list(TABLES.values()), ids=list(TABLES))

# Where a store is: its URL and the names of its tables, which are unique to the test.
Place = tuple[str, Mapping[str, str]]


@pytest.fixture(params=["sqlite", "postgresql", "cassandra"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "cassandra":
        # Creating tables takes a second there: those of all tests are emptied instead.
        return str(request.getfixturevalue("cassandra_url")), {}
    names = {name: f"{name}_{uuid.uuid4().hex[:8]}" for name in TABLES}
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/learners.sqlite", names
    return str(request.getfixturevalue("postgres_url")), names


@pytest.fixture
def store(place: Place) -> Iterator[Store]:
    opened = open_store(place)
    opened.create()
    yield opened
    opened.close()


def open_store(place: Place) -> Store:
    return CassandraStore(*place) if place[0].startswith("cassandra:") else SqlStore(*place)


def may() -> None:
    """Allow every write: a guard whose lock is never lost."""


def content(user: str = "u1", number: int = 1, **values: Any) -> Row:
    return {"userid": user, "courseid": "c1", "batchid": "b1", "contentid": f"do_{number:05}", **values}


def read_one(store: Store, table: Table, row: Row) -> Row | None:
    return store.read(table, [table.key_of(row)]).get(table.key_of(row))


def settle(store: Store, table: Table, *changes: Change) -> int:
    with store.unit(may) as unit:
        return unit.settle(table, [change.key for change in changes], lambda _: changes)


# --- values


@ALL_TABLES
@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(data=st.data())
def test_a_row_comes_back_as_it_was_written(store: Store, table: Table, data: st.DataObject) -> None:
    row = data.draw(strategies.rows(table))
    settle(store, table, Change(table.key_of(row), delete=True))
    store.insert(table, [row])
    standing = read_one(store, table, row)
    assert standing is not None
    assert same(standing, row)


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf, 0.1, -1e308])
def test_any_double_survives_in_columns_and_in_maps(store: Store, number: float) -> None:
    attempt = {"user_id": "u", "course_id": "c", "batch_id": "b", "content_id": "d", "attempt_id": "a"}
    store.insert(ASSESSMENT_AGGREGATOR, [{**attempt, "total_score": number}])
    aggregate = {"activity_type": "Course", "activity_id": "c", "user_id": "u", "context_id": "cb:b"}
    store.insert(USER_ACTIVITY_AGG, [{**aggregate, "aggregates": {"score:d": number}}])
    found = read_one(store, ASSESSMENT_AGGREGATOR, attempt)
    also_found = read_one(store, USER_ACTIVITY_AGG, aggregate)
    assert found is not None
    assert also_found is not None
    assert repr(found["total_score"]) == repr(number)
    assert repr(also_found["aggregates"]["score:d"]) == repr(number)


def test_a_question_keeps_its_decimal(store: Store) -> None:
    row = {
        "user_id": "u",
        "course_id": "c",
        "batch_id": "b",
        "content_id": "d",
        "attempt_id": "a",
        "question": [{"id": "q1", "duration": Decimal("12.50"), "score": 1.0, "params": [{"1": "हाँ"}]}],
    }
    store.insert(ASSESSMENT_AGGREGATOR, [row])
    assert read_one(store, ASSESSMENT_AGGREGATOR, row) == row


@pytest.mark.parametrize(
    ("column", "value"),
    [("status", 2**31), ("status", "2"), ("status", True), ("progressdetails", 5), ("datetime", 2**64)],
)
def test_a_value_of_the_wrong_kind_is_refused_by_row_and_column(store: Store, column: str, value: object) -> None:
    with pytest.raises(BadRow) as caught:
        store.insert(USER_CONTENT_CONSUMPTION, [content(number=1), {**content(number=2), column: value}])
    assert caught.value.key == ("u1", "c1", "b1", "do_00002")
    assert caught.value.column == column
    assert store.rows(USER_CONTENT_CONSUMPTION, ("u1",)) == []


def test_text_that_is_no_utf8_is_refused_by_row_and_column(store: Store) -> None:
    with pytest.raises(BadRow) as caught:
        store.insert(USER_CONTENT_CONSUMPTION, [content(number=1), content(number=2, progressdetails="\ud800")])
    assert caught.value.key == ("u1", "c1", "b1", "do_00002")
    assert caught.value.column == "progressdetails"


# --- reading


def test_a_slice_is_read_in_the_order_of_its_bytes(store: Store) -> None:
    contents = ["do_B", "do_a", "do_é", "do_10", "do_9", "do_𐀀", "do_\uffff", "do"]
    store.insert(USER_CONTENT_CONSUMPTION, [{**content(), "contentid": c} for c in contents])
    read = [row["contentid"] for row in store.rows(USER_CONTENT_CONSUMPTION, ("u1",))]
    assert read == sorted(contents, key=str.encode)


def test_a_slice_can_be_read_piece_by_piece(store: Store) -> None:
    rows = [{**content(number=i), "courseid": f"c{i % 3}", "batchid": f"b{i % 2}"} for i in range(20)]
    store.insert(USER_CONTENT_CONSUMPTION, [*rows, content("u2")])
    read: list[Row] = []
    after: Key | None = None
    while piece := store.rows(USER_CONTENT_CONSUMPTION, ("u1",), after, limit=3):
        assert len(piece) <= 3
        read += piece
        after = USER_CONTENT_CONSUMPTION.order_of(piece[-1])
    assert read == sorted(rows, key=USER_CONTENT_CONSUMPTION.key_of)


def test_a_part_of_a_slice_is_read_by_the_first_values_of_its_order(store: Store) -> None:
    rows = [{**content(number=i), "courseid": f"c{i % 2}"} for i in range(6)]
    store.insert(USER_CONTENT_CONSUMPTION, rows)
    read = store.rows(USER_CONTENT_CONSUMPTION, ("u1", "c1", "b1"))
    assert [row["contentid"] for row in read] == ["do_00001", "do_00003", "do_00005"]
    beyond = store.rows(USER_CONTENT_CONSUMPTION, ("u1", "c1", "b1"), after=("c1", "b1", "do_00001"), limit=1)
    assert [row["contentid"] for row in beyond] == ["do_00003"]


def test_a_slice_of_one_row_has_nothing_beyond_it(store: Store) -> None:
    store.insert(USER_COURSES, [{"batchid": "b", "userid": "u", "courseid": "c"}])
    assert len(store.rows(USER_COURSES, ("b", "u"))) == 1
    assert store.rows(USER_COURSES, ("b", "u"), after=()) == []


def test_ids_that_differ_only_in_case_are_two_rows(store: Store) -> None:
    store.insert(COURSE_BATCH, [{"courseid": "do_A", "batchid": "b"}, {"courseid": "do_a", "batchid": "b"}])
    assert store.rows(COURSE_BATCH, ("do_a",)) == [{"courseid": "do_a", "batchid": "b"}]


@pytest.mark.parametrize("count", [0, 1, 2, 3, 511, 512, 513, 1300])
def test_any_number_of_rows_is_read_by_key(store: Store, count: int) -> None:
    rows = [content(number=i, progress=i) for i in range(1400)]
    store.insert(USER_CONTENT_CONSUMPTION, rows)
    wanted = {USER_CONTENT_CONSUMPTION.key_of(row): row for row in rows[:count]}
    missing = [("nobody", "c1", "b1", "do_00001")]
    assert store.read(USER_CONTENT_CONSUMPTION, [*wanted, *missing]) == wanted


@ALL_TABLES
def test_a_scan_gives_every_row_once(store: Store, table: Table) -> None:
    rows = [dict.fromkeys(table.key, f"{i:05}") for i in range(2500)]
    store.insert(table, rows)
    assert sorted(map(table.key_of, store.scan(table))) == sorted(map(table.key_of, rows))


@ALL_TABLES
def test_a_scan_of_a_slice_gives_its_rows_in_their_order_and_no_others(store: Store, table: Table) -> None:
    # As many as need more than one page, but for the table whose slices have one row.
    rows = [{**dict.fromkeys(table.key, "one"), **dict.fromkeys(table.order[-1:], f"{i:05}")} for i in range(2500)]
    distinct = [*{table.key_of(row): row for row in rows}.values()]
    store.insert(table, [*distinct, dict.fromkeys(table.key, "other")])
    assert list(store.scan(table, table.slice_of(rows[0]))) == distinct
    assert list(store.scan(table, ("",) * len(table.slice))) == []


# --- loading


def test_loading_leaves_absent_columns_alone(store: Store) -> None:
    store.insert(USER_CONTENT_CONSUMPTION, [content(status=1, progress=5)])
    store.insert(USER_CONTENT_CONSUMPTION, [content(status=2)])
    assert read_one(store, USER_CONTENT_CONSUMPTION, content()) == content(status=2, progress=5)


def test_of_two_loaded_rows_with_one_key_the_later_counts(store: Store) -> None:
    rows = [content(status=1, progress=1), content(progress=2), content(status=3, progress=3), content(status=4)]
    store.insert(USER_CONTENT_CONSUMPTION, rows)
    assert read_one(store, USER_CONTENT_CONSUMPTION, content()) == content(status=4, progress=3)


def test_loading_replaces_a_map_as_a_whole(store: Store) -> None:
    enrolment = {"userid": "u", "courseid": "c", "batchid": "b"}
    store.insert(USER_ENROLMENTS, [{**enrolment, "contentstatus": {"x": 1}}])
    store.insert(USER_ENROLMENTS, [{**enrolment, "contentstatus": {"y": 2}}])
    assert read_one(store, USER_ENROLMENTS, enrolment) == {**enrolment, "contentstatus": {"y": 2}}


# --- settling


def test_settling_gives_the_rows_that_stand_and_no_others(store: Store) -> None:
    store.insert(USER_CONTENT_CONSUMPTION, [content(number=1, status=1)])
    seen: list[Mapping[Key, Row]] = []

    def decide(current: Mapping[Key, Row]) -> list[Change]:
        seen.append(dict(current))
        return []

    keys = [USER_CONTENT_CONSUMPTION.key_of(content(number=i)) for i in (1, 2)]
    with store.unit(may) as unit:
        assert unit.settle(USER_CONTENT_CONSUMPTION, keys, decide) == 0
    assert seen[0] == {keys[0]: content(number=1, status=1)}


def test_a_change_of_a_row_that_does_not_stand_creates_it(store: Store) -> None:
    bare, full = content(number=1), content(number=2, status=2)
    keys = [USER_CONTENT_CONSUMPTION.key_of(row) for row in (bare, full)]
    assert settle(store, USER_CONTENT_CONSUMPTION, Change(keys[0]), Change(keys[1], {"status": 2})) == 2
    assert store.rows(USER_CONTENT_CONSUMPTION, ("u1",)) == [bare, full]


def test_only_the_columns_that_are_named_change(store: Store) -> None:
    store.insert(USER_CONTENT_CONSUMPTION, [content(status=1, progress=5, viewcount=3, datetime=7)])
    change = Change(USER_CONTENT_CONSUMPTION.key_of(content()), {"status": 2}, clear=frozenset({"progress"}))
    assert settle(store, USER_CONTENT_CONSUMPTION, change) == 1
    assert read_one(store, USER_CONTENT_CONSUMPTION, content()) == content(status=2, viewcount=3, datetime=7)


def test_only_the_entries_of_a_map_that_are_named_change(store: Store) -> None:
    enrolment = {"userid": "u", "courseid": "c", "batchid": "b"}
    store.insert(USER_ENROLMENTS, [{**enrolment, "contentstatus": {"kept": 1, "raised": 1, "dropped": 1}}])
    put, drop = {"contentstatus": {"raised": 2, "new": 0}}, {"contentstatus": frozenset({"dropped", "never there"})}
    settle(store, USER_ENROLMENTS, Change(("u", "c", "b"), put, drop=drop))
    wanted = {"kept": 1, "raised": 2, "new": 0}
    assert read_one(store, USER_ENROLMENTS, enrolment) == {**enrolment, "contentstatus": wanted}


def test_a_map_without_entries_and_a_list_without_items_are_null(store: Store) -> None:
    enrolment = {"userid": "u", "courseid": "c", "batchid": "b"}
    store.insert(USER_ENROLMENTS, [{**enrolment, "contentstatus": {"x": 1}, "certificates": [{"token": "t"}]}])
    change = Change(("u", "c", "b"), {"certificates": []}, drop={"contentstatus": frozenset({"x"})})
    settle(store, USER_ENROLMENTS, change)
    assert read_one(store, USER_ENROLMENTS, enrolment) == enrolment


def test_a_change_can_delete_a_row_and_deleting_none_is_nothing(store: Store) -> None:
    store.insert(USER_CONTENT_CONSUMPTION, [content(number=1)])
    keys = [USER_CONTENT_CONSUMPTION.key_of(content(number=i)) for i in (1, 2)]
    assert settle(store, USER_CONTENT_CONSUMPTION, *(Change(key, delete=True) for key in keys)) == 1
    assert store.rows(USER_CONTENT_CONSUMPTION, ("u1",)) == []


def test_a_change_of_a_row_that_was_not_asked_for_is_refused(store: Store) -> None:
    with pytest.raises(ValueError, match="not asked for"), store.unit(may) as unit:
        unit.settle(USER_CONTENT_CONSUMPTION, [("u", "c", "b", "x")], lambda _: [Change(("u", "c", "b", "y"))])
    assert list(store.scan(USER_CONTENT_CONSUMPTION)) == []


def test_a_column_that_the_table_lacks_is_refused_by_name(store: Store) -> None:
    key = USER_CONTENT_CONSUMPTION.key_of(content())
    with pytest.raises(BadRow) as caught:
        settle(store, USER_CONTENT_CONSUMPTION, Change(key, {"stauts": 1}))
    assert (caught.value.key, caught.value.column) == (key, "stauts")


@ALL_TABLES
@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(data=st.data())
def test_a_row_put_over_another_leaves_the_one_improved_by_the_other(
    store: Store, table: Table, data: st.DataObject
) -> None:
    before, after = data.draw(strategies.accounts(table, 2))
    key = table.key_of(before)
    settle(store, table, Change(key, delete=True))
    store.insert(table, [before])
    put = {column: value for column, value in after.items() if column in table.values}
    settle(store, table, Change(key, put))
    maps = {column: {**before.get(column, {}), **put[column]} for column in put if table.columns[column].is_map}
    standing = read_one(store, table, before)
    assert standing is not None
    assert same(standing, {**before, **put, **maps})


def test_a_unit_can_read_slices_while_it_settles(store: Store) -> None:
    store.insert(USER_CONTENT_CONSUMPTION, [content(number=i, status=2) for i in range(3)])
    store.insert(USER_ENROLMENTS, [{"userid": "u1", "courseid": "c1", "batchid": "b1"}])
    with store.unit(may) as unit:

        def decide(current: Mapping[Key, Row]) -> list[Change]:
            progress = len(unit.rows(USER_CONTENT_CONSUMPTION, ("u1", "c1", "b1")))
            return [
                Change(key, {"progress": progress}) for key, row in current.items() if row.get("progress") != progress
            ]

        unit.settle(USER_ENROLMENTS, [("u1", "c1", "b1")], decide)
    assert store.rows(USER_ENROLMENTS, ("u1",))[0]["progress"] == 3


def look_and_decide(store: Store, key: Key, progress: int) -> First:
    """A decision for one content's row, made of what stands now, before the unit begins."""
    look = store.look(USER_CONTENT_CONSUMPTION, [key])
    return First(look, [Change(key, {"progress": progress})])


def test_a_settlement_may_begin_with_a_look_that_was_taken_before(store: Store) -> None:
    store.insert(USER_CONTENT_CONSUMPTION, [content(progress=1)])
    key = USER_CONTENT_CONSUMPTION.key_of(content())
    first = look_and_decide(store, key, 5)
    assert first.look.rows == {key: content(progress=1)}

    def decide(current: Mapping[Key, Row]) -> list[Change]:
        return [] if current[key]["progress"] >= 5 else [Change(key, {"progress": 5})]

    with store.unit(may) as unit:
        assert unit.settle(USER_CONTENT_CONSUMPTION, [key], decide, first) == 1
    assert read_one(store, USER_CONTENT_CONSUMPTION, content()) == content(progress=5)


def test_what_was_written_since_the_look_stands_against_the_decision_made_of_it(store: Store) -> None:
    store.insert(USER_CONTENT_CONSUMPTION, [content(progress=1)])
    key = USER_CONTENT_CONSUMPTION.key_of(content())
    first = look_and_decide(store, key, 5)
    store.insert(USER_CONTENT_CONSUMPTION, [content(progress=70)])
    seen: list[int] = []

    def decide(current: Mapping[Key, Row]) -> list[Change]:
        seen.append(current[key]["progress"])
        return [] if seen[-1] >= 5 else [Change(key, {"progress": 5})]

    with store.unit(may) as unit:
        unit.settle(USER_CONTENT_CONSUMPTION, [key], decide, first)
    assert read_one(store, USER_CONTENT_CONSUMPTION, content()) == content(progress=70)
    assert seen == [70]


# --- several slices at once


@ALL_TABLES
@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(data=st.data())
def test_slices_read_together_are_the_slices_read_alone(store: Store, table: Table, data: st.DataObject) -> None:
    rows = [data.draw(strategies.rows(table)) for _ in range(4)]
    store.insert(table, rows)
    absent = tuple("nobody's" for _ in table.slice)
    wheres = [*dict.fromkeys(table.slice_of(row) for row in reversed(rows)), absent]
    together = store.slices(table, wheres, 2)
    alone = [store.rows(table, where, limit=2) for where in wheres]
    assert [len(some) for some in together] == [len(some) for some in alone]
    assert all(
        same(one, other)
        for some, others in zip(together, alone, strict=True)
        for one, other in zip(some, others, strict=True)
    )


def test_of_each_slice_so_many_rows_are_read_and_the_first_in_its_order(store: Store) -> None:
    batches = [f"cb:{number}" for number in range(5)]
    names = ("activity_type", "activity_id", "user_id", "context_id")
    for activity in ("a1", "a2", "a3"):
        store.insert(USER_ACTIVITY_AGG, [dict(zip(names, ("Course", activity, "u", b), strict=True)) for b in batches])
    wheres = [("Course", activity, "u") for activity in ("a3", "a1", "missing", "a2")]
    found = store.slices(USER_ACTIVITY_AGG, wheres, 2)
    assert [[(row["activity_id"], row["context_id"]) for row in rows] for rows in found] == [
        [("a3", "cb:0"), ("a3", "cb:1")],
        [("a1", "cb:0"), ("a1", "cb:1")],
        [],
        [("a2", "cb:0"), ("a2", "cb:1")],
    ]


# --- removing


@ALL_TABLES
@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(data=st.data())
def test_rows_that_stand_as_they_were_read_are_removed(store: Store, table: Table, data: st.DataObject) -> None:
    store.insert(table, data.draw(st.lists(strategies.rows(table), min_size=1, max_size=4)))
    rows = sorted(store.scan(table), key=table.key_of)
    with store.unit(may) as unit:
        assert unit.remove(table, rows) == []
        assert unit.remove(table, rows) == []
    assert list(store.scan(table)) == []


def test_a_row_that_was_changed_since_stays_and_is_given_back_as_it_stands(store: Store) -> None:
    store.insert(USER_CONTENT_CONSUMPTION, [content(number=i, status=1) for i in range(4)])
    read = store.rows(USER_CONTENT_CONSUMPTION, ("u1",))
    store.insert(USER_CONTENT_CONSUMPTION, [content(number=1, progress=9), content(number=9)])
    settle(store, USER_CONTENT_CONSUMPTION, Change(USER_CONTENT_CONSUMPTION.key_of(content(number=2)), delete=True))
    with store.unit(may) as unit:
        changed = unit.remove(USER_CONTENT_CONSUMPTION, read)
    assert changed == [content(number=1, status=1, progress=9)]
    assert store.rows(USER_CONTENT_CONSUMPTION, ("u1",)) == [*changed, content(number=9)]


def test_a_row_whose_list_changed_only_in_its_order_has_changed(store: Store) -> None:
    aggregate = {"activity_type": "Course", "activity_id": "c", "user_id": "u", "context_id": "cb:b"}
    store.insert(USER_ACTIVITY_AGG, [{**aggregate, "agg_details": ["a", "b"], "aggregates": {"x": 1.0, "y": 2.0}}])
    with store.unit(may) as unit:
        other = {**aggregate, "agg_details": ["b", "a"], "aggregates": {"y": 2.0, "x": 1.0}}
        assert unit.remove(USER_ACTIVITY_AGG, [other]) != []
        assert unit.remove(USER_ACTIVITY_AGG, [{**other, "agg_details": ["a", "b"]}]) == []


# --- the guard


def write_by_settling(store: Store, guard: Callable[[], None]) -> None:
    with store.unit(guard) as unit:
        key = USER_CONTENT_CONSUMPTION.key_of(content(number=1))
        unit.settle(USER_CONTENT_CONSUMPTION, [key], lambda _: [Change(key, {"status": 2})])


def write_by_creating(store: Store, guard: Callable[[], None]) -> None:
    with store.unit(guard) as unit:
        key = USER_CONTENT_CONSUMPTION.key_of(content(number=2))
        unit.settle(USER_CONTENT_CONSUMPTION, [key], lambda _: [Change(key)])


def write_by_deleting(store: Store, guard: Callable[[], None]) -> None:
    with store.unit(guard) as unit:
        key = USER_CONTENT_CONSUMPTION.key_of(content(number=1))
        unit.settle(USER_CONTENT_CONSUMPTION, [key], lambda _: [Change(key, delete=True)])


def write_by_removing(store: Store, guard: Callable[[], None]) -> None:
    with store.unit(guard) as unit:
        unit.remove(USER_CONTENT_CONSUMPTION, [content(number=1, status=1)])


@pytest.mark.parametrize("write", [write_by_settling, write_by_creating, write_by_deleting, write_by_removing])
def test_nothing_is_written_once_the_lock_is_lost(store: Store, write: Callable[[Store, Any], None]) -> None:
    store.insert(USER_CONTENT_CONSUMPTION, [content(number=1, status=1)])

    def lost() -> None:
        raise LockLost("the lock is gone")

    with pytest.raises(LockLost):
        write(store, lost)
    assert store.rows(USER_CONTENT_CONSUMPTION, ("u1",)) == [content(number=1, status=1)]


def test_reading_asks_no_guard(store: Store) -> None:
    def lost() -> None:
        raise LockLost("the lock is gone")

    with store.unit(lost) as unit:
        unit.rows(USER_CONTENT_CONSUMPTION, ("u1",))
        assert unit.settle(USER_CONTENT_CONSUMPTION, [("u", "c", "b", "x")], lambda _: []) == 0
        assert unit.remove(USER_CONTENT_CONSUMPTION, [content()]) == []


# --- several processes

ROUNDS: Final = 60


def in_processes(place: Place, *works: tuple[Callable[..., None], tuple[Any, ...]]) -> None:
    """Run each work in a process of its own, with the place, a barrier for all of them, and its arguments."""
    context = multiprocessing.get_context("spawn")
    together = context.Barrier(len(works), timeout=60)
    started = [context.Process(target=work, args=(place, together, *arguments)) for work, arguments in works]
    for process in started:
        process.start()
    for process in started:
        process.join(120)
    assert [process.exitcode for process in started] == [0] * len(started)


def mark_contents(place: Place, together: Barrier, mark: str) -> None:
    """Add an entry of one's own to the map of every enrolment, again and again, creating those that do not stand."""
    store = open_store(place)
    for number in range(ROUNDS):
        keys = [("u", f"c{(number + i) // 2:03}", "b") for i in range(4)]

        def decide(
            current: Mapping[Key, Row], entry: str = f"{mark}{number}", keys: Iterable[Key] = tuple(dict.fromkeys(keys))
        ) -> Iterator[Change]:
            for key in keys:
                if entry not in current.get(key, {}).get("contentstatus", {}):
                    yield Change(key, {"contentstatus": {entry: 1}})

        together.wait()
        with store.unit(may) as unit:
            unit.settle(USER_ENROLMENTS, keys, decide)
    store.close()


def test_two_that_settle_the_same_rows_at_once_lose_nothing(store: Store, place: Place) -> None:
    in_processes(place, (mark_contents, ("x",)), (mark_contents, ("y",)))
    entries = {entry for row in store.rows(USER_ENROLMENTS, ("u",)) for entry in row["contentstatus"]}
    assert entries == {f"{mark}{number}" for mark in "xy" for number in range(ROUNDS)}
    for row in store.rows(USER_ENROLMENTS, ("u",)):
        marks = {entry[1:] for entry in row["contentstatus"]}
        assert set(row["contentstatus"]) == {f"{mark}{number}" for mark in "xy" for number in marks}


def learn(place: Place, together: Barrier) -> None:
    """Write as a live service does: content after content, some of it for the first time."""
    store = open_store(place)
    for number in range(ROUNDS):
        together.wait()
        store.insert(USER_CONTENT_CONSUMPTION, [content(number=number % 7, progress=number, lastaccesstime="now")])
    store.close()


def raise_status(place: Place, together: Barrier) -> None:
    store = open_store(place)
    for number in range(ROUNDS):
        keys = [USER_CONTENT_CONSUMPTION.key_of(content(number=i)) for i in range(7)]

        def decide(current: Mapping[Key, Row], keys: Iterable[Key] = tuple(keys), status: int = number) -> list[Change]:
            return [Change(k, {"status": status}) for k in keys if current.get(k, {}).get("status", -1) < status]

        together.wait()
        with store.unit(may) as unit:
            unit.settle(USER_CONTENT_CONSUMPTION, keys, decide)
    store.close()


def test_settling_beside_a_live_service_takes_back_nothing(store: Store, place: Place) -> None:
    in_processes(place, (learn, ()), (raise_status, ()))
    rows = {row["contentid"]: row for row in store.rows(USER_CONTENT_CONSUMPTION, ("u1",))}
    assert {name: row["status"] for name, row in rows.items()} == dict.fromkeys(rows, ROUNDS - 1)
    assert sorted(row["progress"] for row in rows.values()) == list(range(ROUNDS - 7, ROUNDS))


def create(place: Place, together: Barrier) -> None:
    store = open_store(place)
    together.wait()
    store.create()
    store.insert(COURSE_BATCH, [{"courseid": "c", "batchid": str(os.getpid())}])
    store.close()


def test_several_processes_may_create_the_tables_at_once(place: Place) -> None:
    in_processes(place, *[(create, ())] * 4)
    store = open_store(place)
    store.check()
    assert len(store.rows(COURSE_BATCH, ("c",))) == 4
    store.close()


def test_parent_and_child_of_a_fork_both_go_on(store: Store) -> None:
    store.insert(COURSE_BATCH, [{"courseid": "c", "batchid": "before"}])
    child = os.fork()
    if child == 0:
        # Whatever happens, the child must not go on as a second pytest.
        code = 1
        try:
            store.insert(COURSE_BATCH, [{"courseid": "c", "batchid": "child"}])
            store.close()
            code = 0
        finally:
            os._exit(code)
    store.insert(COURSE_BATCH, [{"courseid": "c", "batchid": "parent"}])
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert [row["batchid"] for row in store.rows(COURSE_BATCH, ("c",))] == ["before", "child", "parent"]


def test_a_fork_in_the_middle_of_a_unit_leaves_the_unit_alone(store: Store) -> None:
    key = ("c", "b")
    with store.unit(may) as unit:
        unit.settle(COURSE_BATCH, [key], lambda _: [Change(key)])
        child = os.fork()
        if child == 0:
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        unit.settle(COURSE_BATCH, [key], lambda _: [Change(key, {"name": "after"})])
    assert store.rows(COURSE_BATCH, ("c",)) == [{"courseid": "c", "batchid": "b", "name": "after"}]


# --- compare and set


def course_batch(batch: str = "b1", course: str = "c1", **values: Any) -> Row:
    return {"courseid": course, "batchid": batch, "createdby": "a", "mentors": ["x", "a"], **values}


def swap(row: Row, put: Row, **expected: Any) -> Swap:
    columns = ("createdby", "mentors", "updated_date")
    return Swap(COURSE_BATCH.key_of(row), {c: row.get(c) for c in columns} | expected, put)


def test_a_row_that_is_as_expected_is_changed(store: Store) -> None:
    row = course_batch(name="N", updated_date=5)
    store.insert(COURSE_BATCH, [row])
    put = {"createdby": "b", "mentors": ["x", "b"], "updated_date": 9}
    assert store.compare_and_set(COURSE_BATCH, [swap(row, put)], may) == {("c1", "b1")}
    assert read_one(store, COURSE_BATCH, row) == {**row, **put}


@pytest.mark.parametrize(
    "expected", [{"createdby": "b"}, {"createdby": None}, {"mentors": ["a", "x"]}, {"mentors": []}, {"updated_date": 5}]
)
def test_a_row_that_is_not_as_expected_is_left_alone(store: Store, expected: Row) -> None:
    row = course_batch()
    store.insert(COURSE_BATCH, [row])
    assert store.compare_and_set(COURSE_BATCH, [swap(row, {"createdby": "z"}, **expected)], may) == frozenset()
    assert read_one(store, COURSE_BATCH, row) == row


def test_a_row_that_does_not_stand_is_not_created(store: Store) -> None:
    assert store.compare_and_set(COURSE_BATCH, [swap(course_batch(), {"createdby": "z"})], may) == frozenset()
    assert list(store.scan(COURSE_BATCH)) == []


def test_a_condition_on_nulls_alone_cannot_be_made() -> None:
    with pytest.raises(ValueError, match="a condition on nulls alone would create the row"):
        Swap(("c1", "b1"), {"createdby": None, "mentors": []}, {"createdby": "z"})


@pytest.mark.parametrize("nothing", [None, []])
def test_a_column_can_be_made_null(store: Store, nothing: object) -> None:
    row = course_batch()
    store.insert(COURSE_BATCH, [row])
    assert store.compare_and_set(COURSE_BATCH, [swap(row, {"mentors": nothing})], may)
    assert read_one(store, COURSE_BATCH, row) == {"courseid": "c1", "batchid": "b1", "createdby": "a"}


def test_each_row_is_changed_by_itself(store: Store) -> None:
    rows = [course_batch(f"b{number}", f"c{number % 2}") for number in range(9)]
    store.insert(COURSE_BATCH, rows)
    swaps = [swap(row, {"createdby": "z"}, mentors=["x", "a"] if i % 3 else ["other"]) for i, row in enumerate(rows)]
    made = store.compare_and_set(COURSE_BATCH, swaps, may)
    assert made == {COURSE_BATCH.key_of(row) for i, row in enumerate(rows) if i % 3}
    assert {COURSE_BATCH.key_of(row) for row in store.scan(COURSE_BATCH) if row["createdby"] == "z"} == made


def test_whose_lock_is_lost_changes_nothing(store: Store) -> None:
    def lost() -> None:
        raise LockLost("lost")

    store.insert(COURSE_BATCH, [course_batch()])
    with pytest.raises(LockLost):
        store.compare_and_set(COURSE_BATCH, [swap(course_batch(), {"createdby": "z"})], lost)
    assert read_one(store, COURSE_BATCH, course_batch()) == course_batch()


# --- going through a table in parts


def test_parts_have_every_row_once_with_the_columns_asked_for(store: Store) -> None:
    rows = [course_batch(f"b{number:04}", f"c{number % 91}", name="N") for number in range(2_345)]
    store.insert(COURSE_BATCH, rows)
    parts = list(store.parts(COURSE_BATCH, ("createdby", "status")))
    found = sorted((row for part in parts for row in part.rows), key=lambda row: row["batchid"])
    assert found == [{"courseid": r["courseid"], "batchid": r["batchid"], "createdby": "a"} for r in rows]
    done = [part.done for part in parts]
    assert done == sorted(done)
    assert done[-1] == 1.0


def test_an_empty_table_is_gone_through_at_once(store: Store) -> None:
    parts = list(store.parts(COURSE_BATCH, ()))
    assert [row for part in parts for row in part.rows] == []
    assert parts[-1].done == 1.0
