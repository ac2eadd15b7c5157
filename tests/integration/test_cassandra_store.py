"""What only Cassandra has: write times, tombstones, lists that double, two key layouts, nodes that come and go."""

import re
import socket
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import pytest
from cassandra import ConsistencyLevel
from cassandra.cluster import Cluster, Session
from cassandra.policies import FallthroughRetryPolicy, RetryPolicy, TokenAwarePolicy
from cassandra.protocol import ResultMessage

import lern.store.cassandra
from lern.errors import ClockAhead, Refused, TooEarly, Unreachable, Unsettled
from lern.store.base import Change
from lern.store.cassandra import CassandraStore
from lern.store.cassandra_protocol import Protocol
from lern.store.tables import (
    ASSESSMENT_AGGREGATOR,
    COURSE_BATCH,
    USER_ACTIVITY_AGG,
    USER_CONTENT_CONSUMPTION,
    USER_ENROLMENTS,
    Key,
    Row,
)
from tests.bridges import until
from tests.servers.server import Server

MINUTE: Final = 60_000_000  # microseconds
ENROLMENT: Final = {"userid": "u", "courseid": "c", "batchid": "b"}
ENROLMENT_KEY: Final = ("u", "c", "b")


@pytest.fixture
def store(cassandra_url: str) -> Iterator[CassandraStore]:
    opened = CassandraStore(cassandra_url)
    yield opened
    opened.close()


def may() -> None:
    """Allow every write."""


def now() -> int:
    return time.time_ns() // 1000


def content(number: int, **values: Any) -> Row:
    return {"userid": "u", "courseid": "c", "batchid": "b", "contentid": f"do_{number:06}", **values}


def key(number: int) -> Key:
    return USER_CONTENT_CONSUMPTION.key_of(content(number))


def contents(store: CassandraStore) -> list[Row]:
    return store.rows(USER_CONTENT_CONSUMPTION, ("u",))


def tombstones(session: Session, query: str) -> int:
    """Give how many tombstones the server met when it answered."""
    trace = session.execute(query, trace=True).get_query_trace(30)
    found = re.findall(r"Read \d+ live rows and (\d+) tombstone", " ".join(event.description for event in trace.events))
    assert found, [event.description for event in trace.events]
    return sum(map(int, found))


# --- beside a live service


def test_a_live_write_after_our_read_wins_and_is_seen(store: CassandraStore, cassandra_session: Session) -> None:
    store.insert(USER_CONTENT_CONSUMPTION, [content(1, progress=10)])
    seen: list[int] = []

    def decide(current: Mapping[Key, Row]) -> Iterator[Change]:
        progress = current[key(1)]["progress"]
        seen.append(progress)
        if len(seen) == 1:
            cassandra_session.execute(
                "UPDATE user_content_consumption SET progress = 40 "
                "WHERE userid = 'u' AND courseid = 'c' AND batchid = 'b' AND contentid = 'do_000001'"
            )
        if progress < 30:
            yield Change(key(1), {"progress": 30, "status": 1})

    with store.unit(may) as unit:
        unit.settle(USER_CONTENT_CONSUMPTION, [key(1)], decide)
    assert seen == [10, 40]
    assert contents(store) == [content(1, progress=40, status=1)]


def test_a_write_that_was_stamped_before_our_read_loses_to_ours(
    store: CassandraStore, cassandra_session: Session
) -> None:
    stale = now()
    with store.unit(may) as unit:
        unit.settle(USER_CONTENT_CONSUMPTION, [key(1)], lambda _: [Change(key(1), {"progress": 30})])
    cassandra_session.execute(
        "INSERT INTO user_content_consumption (userid, courseid, batchid, contentid, progress) "
        "VALUES ('u', 'c', 'b', 'do_000001', 5) USING TIMESTAMP %s",
        [stale],
    )
    assert contents(store) == [content(1, progress=30)]


def test_someone_who_writes_as_fast_as_we_do_is_a_reason_to_try_again(
    store: CassandraStore, cassandra_session: Session
) -> None:
    def decide(current: Mapping[Key, Row]) -> list[Change]:
        progress = current.get(key(1), {}).get("progress", 0)
        cassandra_session.execute(
            "INSERT INTO user_content_consumption (userid, courseid, batchid, contentid, progress) "
            "VALUES ('u', 'c', 'b', 'do_000001', %s)",
            [progress + 1],
        )
        return [Change(key(1), {"progress": 1000})]

    with pytest.raises(Unsettled, match=r"'do_000001'\) \(progress\)"), store.unit(may) as unit:
        unit.settle(USER_CONTENT_CONSUMPTION, [key(1)], decide)


def test_a_row_that_needed_nothing_is_decided_about_again_when_somebody_has_changed_it(
    store: CassandraStore, cassandra_session: Session
) -> None:
    store.insert(USER_CONTENT_CONSUMPTION, [content(1, progress=10), content(2, progress=90)])
    wanted = [key(1), key(2), key(3)]
    live = (
        "UPDATE user_content_consumption SET progress = 20 "
        "WHERE userid = 'u' AND courseid = 'c' AND batchid = 'b' AND contentid = 'do_000002'"
    )
    once = iter([live])

    def decide(current: Mapping[Key, Row]) -> Iterator[Change]:
        for one, row in current.items():
            if row["progress"] < 50:
                yield Change(one, {"progress": 50})

    def write_beside() -> None:
        for statement in once:
            cassandra_session.execute(statement)

    with store.unit(write_beside) as unit:
        assert unit.settle(USER_CONTENT_CONSUMPTION, wanted, decide) == 2
    assert contents(store) == [content(1, progress=50), content(2, progress=50)]


def test_a_row_that_comes_to_stand_in_a_range_that_is_being_deleted_stays(
    store: CassandraStore, cassandra_session: Session
) -> None:
    store.insert(USER_CONTENT_CONSUMPTION, [content(i, progress=i) for i in (1, 2, 4, 5)])
    read = contents(store)

    def live() -> None:
        for number in (3, 4):
            cassandra_session.execute(
                "INSERT INTO user_content_consumption (userid, courseid, batchid, contentid, viewcount) "
                "VALUES ('u', 'c', 'b', %s, 7)",
                [f"do_{number:06}"],
            )

    with store.unit(live) as unit:
        assert unit.remove(USER_CONTENT_CONSUMPTION, read) == []
    assert contents(store) == [content(3, viewcount=7), content(4, viewcount=7)]


# --- lists, maps, nulls, tombstones


def test_a_list_that_is_written_by_two_attempts_is_not_doubled(store: CassandraStore) -> None:
    certificates = [{"token": "t1"}, {"token": "t2"}]
    for _ in range(3):
        with store.unit(may) as unit:
            written = iter([[Change(ENROLMENT_KEY, {"certificates": certificates})]])
            unit.settle(USER_ENROLMENTS, [ENROLMENT_KEY], lambda _, written=written: next(written, []))  # type: ignore[misc]
    assert store.rows(USER_ENROLMENTS, ("u",)) == [{**ENROLMENT, "certificates": certificates}]


def test_creating_a_row_erases_no_entry_that_a_live_writer_put_into_its_map(
    store: CassandraStore, cassandra_session: Session
) -> None:
    def decide(current: Mapping[Key, Row]) -> list[Change]:
        if not current:
            # Stamped by a clock a little behind ours: between our read and our write, with a time before it.
            cassandra_session.execute(
                "UPDATE user_enrolments USING TIMESTAMP %s SET contentstatus = contentstatus + {'live': 2} "
                "WHERE userid = 'u' AND courseid = 'c' AND batchid = 'b'",
                [now() - 5_000_000],
            )
        wanted = {"contentstatus": {"merged": 1}}
        return (
            []
            if current.get(ENROLMENT_KEY, {}).get("contentstatus", {}).get("merged")
            else [Change(ENROLMENT_KEY, wanted)]
        )

    with store.unit(may) as unit:
        unit.settle(USER_ENROLMENTS, [ENROLMENT_KEY], decide)
    assert store.rows(USER_ENROLMENTS, ("u",)) == [{**ENROLMENT, "contentstatus": {"live": 2, "merged": 1}}]


def test_absent_columns_are_not_written_as_nulls(store: CassandraStore, cassandra_session: Session) -> None:
    store.insert(USER_CONTENT_CONSUMPTION, [content(1, progress=1)])
    with store.unit(may) as unit:
        changes = [Change(key(1), {"status": 1}), Change(key(2), {"status": 2, "progress": 5})]
        unit.settle(USER_CONTENT_CONSUMPTION, [key(1), key(2)], lambda _: changes)
    assert tombstones(cassandra_session, "SELECT * FROM user_content_consumption WHERE userid = 'u'") == 0


def test_thousands_of_rows_are_deleted_by_one_tombstone(store: CassandraStore, cassandra_session: Session) -> None:
    store.insert(USER_CONTENT_CONSUMPTION, [content(i, progress=1) for i in range(2000)])
    rows = contents(store)
    store.insert(USER_CONTENT_CONSUMPTION, [content(1000, progress=2)])
    with store.unit(may) as unit:
        assert unit.remove(USER_CONTENT_CONSUMPTION, rows) == [content(1000, progress=2)]
    assert contents(store) == [content(1000, progress=2)]
    # Two ranges, each with a beginning and an end.
    assert tombstones(cassandra_session, "SELECT * FROM user_content_consumption WHERE userid = 'u'") <= 4


def test_rows_that_a_settlement_deletes_are_one_tombstone_too(
    store: CassandraStore, cassandra_session: Session
) -> None:
    store.insert(USER_CONTENT_CONSUMPTION, [content(i) for i in range(500)])
    keys = [key(i) for i in range(500) if i != 250]
    with store.unit(may) as unit:
        unit.settle(USER_CONTENT_CONSUMPTION, keys, lambda now: [Change(k, delete=True) for k in keys if k in now])
    assert contents(store) == [content(250)]
    assert tombstones(cassandra_session, "SELECT * FROM user_content_consumption WHERE userid = 'u'") <= 4


def test_results_come_without_a_description_of_their_columns(
    store: CassandraStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which for a learner of a few rows is more than the rows."""
    result = Protocol.message_types_by_opcode[ResultMessage.opcode]
    described: list[Any] = []

    def read(self: Any, file: Any, user_types: Any) -> None:
        original(self, file, user_types)
        described.append(self.column_metadata)

    original = result.recv_results_metadata
    monkeypatch.setattr(result, "recv_results_metadata", read)
    row: Row = {"user_id": "u", "course_id": "c", "batch_id": "b", "content_id": "d", "attempt_id": "a"}
    row["question"] = [{"id": "q", "max_score": 1.5, "params": [{"1": "x"}], "duration": Decimal("0.5")}]
    row["updated_on"] = 1_700_000_000_123
    store.insert(ASSESSMENT_AGGREGATOR, [row])
    assert store.rows(ASSESSMENT_AGGREGATOR, ("u", "c", "b")) == [row]
    assert store.read(ASSESSMENT_AGGREGATOR, [("u", "c", "b", "d", "a")]) == {("u", "c", "b", "d", "a"): row}
    assert described == [[], []]


def test_a_write_that_the_server_has_forgotten_is_prepared_again(
    store: CassandraStore, cassandra_session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.insert(USER_CONTENT_CONSUMPTION, [content(1), content(2)])
    connected = store._sessions.connected()
    shape = connected.shape(USER_CONTENT_CONSUMPTION)
    # Before we hear of the change, which makes the server forget.
    monkeypatch.setattr(connected, "shape", lambda _: shape)
    cassandra_session.execute("ALTER TABLE user_content_consumption ADD passing int")
    cassandra_session.execute("ALTER TABLE user_content_consumption DROP passing")
    store.insert(USER_CONTENT_CONSUMPTION, [content(3), content(4)])
    assert contents(store) == [content(number) for number in range(1, 5)]


def test_every_page_has_as_long_as_the_first_however_long_that_was_in_use(cassandra_url: str) -> None:
    store = CassandraStore(f"{cassandra_url}?request_timeout=2")
    store.insert(USER_CONTENT_CONSUMPTION, [content(number) for number in range(5)])
    store._sessions.connected().session.default_fetch_size = 2
    rows = iter(store.scan(USER_CONTENT_CONSUMPTION))
    read = [next(rows)]
    in_use_until = time.monotonic() + 2.1
    until(lambda: time.monotonic() > in_use_until, "the time of the first page is over")
    assert [*read, *rows] == [content(number) for number in range(5)]
    store.close()


def test_a_float_of_64_bits_settles_in_a_column_of_32(store: CassandraStore) -> None:
    calls = []

    def decide(current: Mapping[Key, Row]) -> list[Change]:
        calls.append(current)
        return [Change(key(1), {"completionpercentage": 33.3})]

    with store.unit(may) as unit:
        assert unit.settle(USER_CONTENT_CONSUMPTION, [key(1)], decide) == 1
        assert unit.settle(USER_CONTENT_CONSUMPTION, [key(1)], decide) == 0
    assert contents(store)[0]["completionpercentage"] == pytest.approx(33.3, abs=1e-5)


@pytest.mark.parametrize("moment", [-(2**63), -1, 0, 253_402_300_800_000, 2**63 - 1])
def test_a_time_that_no_calendar_reaches_comes_back_exactly(store: CassandraStore, moment: int) -> None:
    store.insert(USER_CONTENT_CONSUMPTION, [content(1, datetime=moment)])
    assert contents(store) == [content(1, datetime=moment)]
    aggregate = dict(zip(USER_ACTIVITY_AGG.key, ("Course", "c", "u", "cb:b"), strict=True))
    store.insert(USER_ACTIVITY_AGG, [{**aggregate, "agg_last_updated": {"completedCount": moment}}])
    assert store.rows(USER_ACTIVITY_AGG, ("Course", "c", "u"))[0]["agg_last_updated"] == {"completedCount": moment}


# --- clocks


def ahead_by(session: Session, minutes: int, number: int = 1) -> None:
    session.execute(
        "INSERT INTO user_content_consumption (userid, courseid, batchid, contentid, status) "
        "VALUES ('u', 'c', 'b', %s, 1) USING TIMESTAMP %s",
        [f"do_{number:06}", now() + minutes * MINUTE],
    )


def test_a_cell_from_a_clock_that_is_ahead_is_named_where_we_cannot_write(
    store: CassandraStore, cassandra_session: Session
) -> None:
    ahead_by(cassandra_session, minutes=5)
    with pytest.raises(ClockAhead) as caught, store.unit(may) as unit:
        unit.settle(USER_CONTENT_CONSUMPTION, [key(1)], lambda _: [Change(key(1), {"status": 2, "progress": 3})])
    assert (caught.value.key, caught.value.column) == (key(1), "status")
    assert "300 s ahead" in str(caught.value) or "299 s ahead" in str(caught.value)


def test_a_cell_that_is_ahead_is_nothing_to_those_who_do_not_write_it(
    store: CassandraStore, cassandra_session: Session
) -> None:
    ahead_by(cassandra_session, minutes=5)
    with store.unit(may) as unit:
        unit.settle(USER_CONTENT_CONSUMPTION, [key(1)], lambda _: [Change(key(1), {"progress": 3})])
    assert contents(store) == [content(1, status=1, progress=3)]


def test_a_clock_that_is_ahead_by_less_is_waited_for(cassandra_url: str, cassandra_session: Session) -> None:
    time_of_cell = now() + 5 * MINUTE
    ahead_by(cassandra_session, minutes=5)
    store = CassandraStore(cassandra_url, max_clock_ahead=600)
    with pytest.raises(TooEarly, match=r"'do_000001'\), column status") as settling, store.unit(may) as unit:
        unit.settle(USER_CONTENT_CONSUMPTION, [key(1)], lambda _: [Change(key(1), {"status": 2})])
    with pytest.raises(TooEarly, match=r"'do_000001'\), column status") as removing, store.unit(may) as unit:
        unit.remove(USER_CONTENT_CONSUMPTION, contents(store))
    # Not longer than until its time, and hardly shorter.
    for caught in (settling, removing):
        assert (time_of_cell - now()) / 1e6 <= caught.value.seconds <= 300
    assert contents(store) == [content(1, status=1)]
    store.close()


def test_nothing_is_deleted_where_a_row_would_stay_in_part(store: CassandraStore, cassandra_session: Session) -> None:
    store.insert(USER_CONTENT_CONSUMPTION, [content(i, progress=1) for i in (1, 2, 3)])
    ahead_by(cassandra_session, minutes=5, number=2)
    rows = contents(store)
    with pytest.raises(ClockAhead) as caught, store.unit(may) as unit:
        unit.remove(USER_CONTENT_CONSUMPTION, rows)
    assert caught.value.key == key(2)
    assert contents(store) == rows


# Before 5.0 Cassandra does not tell the times of collections: the row is named, and the reason only guessed at.
def told_or_guessed(session: Session) -> type[Exception]:
    version: str = session.execute("SELECT release_version FROM system.local").one()[0]
    return ClockAhead if version >= "5" else Unsettled


def test_an_entry_of_a_map_that_is_ahead_is_found_among_the_others(
    store: CassandraStore, cassandra_session: Session
) -> None:
    cassandra_session.execute(
        "UPDATE user_enrolments USING TIMESTAMP %s SET contentstatus = contentstatus + {'ahead': 1} "
        "WHERE userid = 'u' AND courseid = 'c' AND batchid = 'b'",
        [now() + 5 * MINUTE],
    )
    with store.unit(may) as unit:
        other, same = {"contentstatus": {"other": 1}}, {"contentstatus": {"ahead": 2}}
        assert unit.settle(USER_ENROLMENTS, [ENROLMENT_KEY], lambda _: [Change(ENROLMENT_KEY, other)]) == 1
        with pytest.raises(told_or_guessed(cassandra_session), match=r"\('u', 'c', 'b'\).*contentstatus"):
            unit.settle(USER_ENROLMENTS, [ENROLMENT_KEY], lambda _: [Change(ENROLMENT_KEY, same)])


def test_a_map_or_list_that_was_written_whole_by_a_clock_that_is_ahead_is_found(
    store: CassandraStore, cassandra_session: Session
) -> None:
    cassandra_session.execute(
        "INSERT INTO user_enrolments (userid, courseid, batchid, contentstatus, certificates) "
        "VALUES ('u', 'c', 'b', {'ahead': 1}, [{'token': 't'}]) USING TIMESTAMP %s",
        [now() + 5 * MINUTE],
    )
    changes: list[Row] = [{"contentstatus": {"other": 1}}, {"certificates": [{"token": "t"}, {"token": "u"}]}]
    for put in changes:
        with pytest.raises(told_or_guessed(cassandra_session), match=rf"{next(iter(put))}"), store.unit(may) as unit:
            unit.settle(USER_ENROLMENTS, [ENROLMENT_KEY], lambda _, put=put: [Change(ENROLMENT_KEY, put)])  # type: ignore[misc]


# --- key layouts


@pytest.fixture
def keyspace(cassandra_url: str, cassandra_session: Session) -> Iterator[tuple[str, str]]:
    """A keyspace without tables: its name, and the URL of a store in it."""
    name = f"layout_{uuid.uuid4().hex[:8]}"
    cassandra_session.execute(
        f"CREATE KEYSPACE {name} WITH replication = {{'class': 'SimpleStrategy', 'replication_factor': 1}}"
    )
    yield name, f"{cassandra_url.rpartition('/')[0]}/{name}"
    cassandra_session.execute(f"DROP KEYSPACE {name}", timeout=60)


LAYOUTS: Final = {
    "of the migration": "course_id, batch_id, user_id, content_id, attempt_id",
    "of the documents": "(user_id, course_id), batch_id, content_id, attempt_id",
}


def create_attempts(session: Session, keyspace: str, primary_key: str) -> None:
    session.execute(
        f"CREATE TABLE {keyspace}.assessment_aggregator (course_id text, batch_id text, user_id text, content_id text, "
        "attempt_id text, created_on timestamp, last_attempted_on timestamp, total_max_score double, grand_total text, "
        f"total_score double, updated_on timestamp, PRIMARY KEY ({primary_key}))"
    )


def attempt(user: str, batch: str, number: int, **values: Any) -> Row:
    place = {"course_id": "c", "batch_id": batch, "content_id": f"do_{number % 3}", "attempt_id": f"a{number:03}"}
    return {"user_id": user, **place, **values}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_attempts_are_read_settled_and_removed_in_both_key_layouts(
    keyspace: tuple[str, str], cassandra_session: Session, layout: str
) -> None:
    name, url = keyspace
    create_attempts(cassandra_session, name, layout)
    table, store = ASSESSMENT_AGGREGATOR, CassandraStore(url, tables=["assessment_aggregator"])
    store.check()
    rows = [attempt("u", "b", i, total_score=float(i)) for i in range(40)]
    others = [attempt("v", "b", 1), attempt("u", "b2", 1)]
    store.insert(table, [*rows, *others])
    in_order = sorted(rows, key=table.order_of)
    assert store.rows(table, ("u", "c", "b")) == in_order
    assert store.rows(table, ("u", "c", "b"), table.order_of(in_order[9]), 5) == in_order[10:15]
    # Cassandra has no empty partition key, and says so to whoever asks for one.
    nowhere = ("u", "", "b")
    assert store.rows(table, nowhere) == []
    assert store.slices(table, [nowhere, ("u", "c", "b")], 5) == [[], in_order[:5]]
    assert store.read(table, [(*nowhere, "do_0", "a000"), table.key_of(in_order[0])]).keys() == {
        table.key_of(in_order[0])
    }
    keys = [table.key_of(row) for row in [*rows, attempt("u", "b", 99)]]

    def decide(current: Mapping[Key, Row]) -> list[Change]:
        return [Change(k, {"total_score": 50.0}) for k in keys if current.get(k, {}).get("total_score") != 50.0]

    with store.unit(may) as unit:
        assert unit.settle(table, keys, decide) == 41
        standing = store.rows(table, ("u", "c", "b"))
        assert {row["total_score"] for row in standing} == {50.0}
        assert unit.remove(table, standing) == []
    assert sorted(map(table.key_of, store.scan(table))) == sorted(map(table.key_of, others))
    # The migration adds the questions, with a type of their own.
    assert store.layout_problems() == ["assessment_aggregator has no column question: Sunbird's migrations add them"]
    store.close()


def test_any_other_layout_is_refused_and_said(keyspace: tuple[str, str], cassandra_session: Session) -> None:
    name, url = keyspace
    create_attempts(cassandra_session, name, "(user_id, course_id, batch_id), content_id, attempt_id")
    store = CassandraStore(url, tables=["assessment_aggregator", "user_enrolments"])
    wrong, missing = store.layout_problems()[0], store.layout_problems()[-1]
    assert "has PRIMARY KEY ((user_id, course_id, batch_id), content_id, attempt_id)" in wrong
    assert "there is no table user_enrolments" in missing
    with pytest.raises(Refused, match=re.escape(wrong)):
        store.rows(ASSESSMENT_AGGREGATOR, ("u", "c", "b"))
    store.close()


def test_what_a_migration_adds_while_we_work_is_seen_and_what_we_do_not_know_is_refused(
    keyspace: tuple[str, str], cassandra_session: Session
) -> None:
    name, url = keyspace
    cassandra_session.execute(f"CREATE TYPE {name}.question (id text)")
    create_attempts(cassandra_session, name, LAYOUTS["of the documents"])
    table = ASSESSMENT_AGGREGATOR
    store = CassandraStore(url, tables=["assessment_aggregator"])
    before = attempt("u", "b", 1, total_score=1.0)
    store.insert(table, [before])
    assert store.rows(table, ("u", "c", "b")) == [before]

    cassandra_session.execute(f"ALTER TABLE {name}.assessment_aggregator ADD question list<frozen<question>>")
    until(lambda: store.layout_problems() == [], "the column is heard of")
    asked = attempt("u", "b", 4, question=[{"id": "q1"}])
    store.insert(table, [asked])
    assert store.rows(table, ("u", "c", "b")) == [before, asked]

    cassandra_session.execute(f"ALTER TYPE {name}.question ADD title text")
    titled = attempt("u", "b", 7, question=[{"id": "q1", "title": "one"}])
    until(lambda: "title" in store._sessions.connected().keyspace.user_types["question"].field_names, "the field, too")
    store.insert(table, [titled])
    assert store.rows(table, ("u", "c", "b")) == [before, asked, titled]

    cassandra_session.execute(f"ALTER TYPE {name}.question ADD hint text")
    until(store.layout_problems, "what we do not know is heard of")
    [problem] = store.layout_problems()
    assert (
        "assessment_aggregator has a field of type question that this version of Lern does not know, hint," in problem
    )
    with pytest.raises(Refused, match=re.escape(problem)):
        store.rows(table, ("u", "c", "b"))
    with pytest.raises(Refused, match=re.escape(problem)), store.unit(may) as unit:
        unit.remove(table, [before])
    store.close()


def test_a_column_that_we_do_not_know_is_no_hindrance_where_rows_stay(
    store: CassandraStore, cassandra_session: Session
) -> None:
    batch = {"courseid": "c", "batchid": "b", "name": "first"}
    cassandra_session.execute("ALTER TABLE course_batch ADD homemade text")
    try:
        until(lambda: "homemade" in store._sessions.connected().keyspace.tables["course_batch"].columns, "it is there")
        assert store.layout_problems() == []
        store.insert(COURSE_BATCH, [batch])
        assert store.rows(COURSE_BATCH, ("c",)) == [batch]
    finally:
        cassandra_session.execute("ALTER TABLE course_batch DROP homemade")


def test_a_keyspace_that_is_missing_is_said(cassandra_url: str) -> None:
    store = CassandraStore(f"{cassandra_url.rpartition('/')[0]}/nowhere")
    assert store.layout_problems() == [
        "there is no keyspace nowhere: Sunbird's migrations create it, or `lern migrate --create-tables`"
    ]
    with pytest.raises(Refused, match="the keyspace does not exist"):
        store.check()
    store.close()


def test_no_keyspace_is_made_in_a_data_centre_that_there_is_not(cassandra_url: str, cassandra_session: Session) -> None:
    store = CassandraStore(f"{cassandra_url.rpartition('/')[0]}/nowhere?dc=elsewhere")
    with pytest.raises(Unreachable, match="there is no data centre 'elsewhere'; the cluster has datacenter1"):
        store.create()
    store.close()
    made = cassandra_session.execute("SELECT keyspace_name FROM system_schema.keyspaces")
    assert "nowhere" not in {row[0] for row in made}


# --- size


def test_one_row_too_large_for_a_batch_with_others_is_written(store: CassandraStore) -> None:
    rows = [content(i, progressdetails="x" * 1_500_000) for i in range(8)]
    store.insert(USER_CONTENT_CONSUMPTION, rows)
    assert contents(store) == rows


# --- the server


def test_a_node_that_is_away_is_unreachable_and_found_again(store: CassandraStore, cassandra: Server) -> None:
    store.insert(USER_CONTENT_CONSUMPTION, [content(1, progress=1)])
    cassandra.kill()
    with pytest.raises(Unreachable, match=f"^store cannot be reached: {cassandra.address}: (connection lost|down)$"):
        contents(store)
    until(lambda: _told(store) == f"store cannot be reached: {cassandra.address}: down", "nobody asks it any more")
    with pytest.raises(Unreachable), store.unit(may) as unit:
        unit.settle(USER_CONTENT_CONSUMPTION, [key(1)], lambda _: [])
    with pytest.raises(Unreachable):
        CassandraStore(f"cassandra://{cassandra.address}/nowhere").check()
    cassandra.start()
    assert _when_reachable(store) == [content(1, progress=1)]


def _told(store: CassandraStore) -> str:
    with pytest.raises(Unreachable) as caught:
        contents(store)
    return str(caught.value)


@pytest.mark.parametrize(
    ("hosts", "said"),
    [
        ("127.0.0.1:1", "127.0.0.1:1: connection refused"),
        (
            ",".join(f"127.0.0.{number}:1" for number in range(1, 8)),
            "127.0.0.1:1, 127.0.0.2:1, 127.0.0.3:1, 127.0.0.4:1, 127.0.0.5:1 and 2 more: connection refused",
        ),
        ("nowhere.invalid:9042,127.0.0.1:1", "127.0.0.1:1: connection refused; nowhere.invalid:9042: {unknown}"),
    ],
)
def test_who_waits_for_a_cluster_reads_which_nodes_do_not_answer_and_why(hosts: str, said: str) -> None:
    with pytest.raises(socket.gaierror) as unknown:
        socket.getaddrinfo("nowhere.invalid", 9042)
    reason = str(unknown.value.strerror)
    store = CassandraStore(f"cassandra://lern:secret@{hosts}/lern")
    assert _told(store) == "store cannot be reached: " + said.format(unknown=reason[0].lower() + reason[1:])


def test_a_node_that_says_nothing_is_named(cassandra_url: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        silent_store = CassandraStore(f"cassandra://{address}/lern?connect_timeout=1")
        assert _told(silent_store) == f"store cannot be reached: {address}: no answer in time"
    impatient = CassandraStore(f"{cassandra_url}?request_timeout=0.000001")
    [node] = re.findall("//(.*)/", cassandra_url)
    assert _told(impatient) == f"store cannot be reached: {node}: no answer in time"
    impatient.close()


def test_what_cassandra_refuses_is_told_in_its_own_words(store: CassandraStore) -> None:
    with pytest.raises(Refused) as caught:
        store.rows(USER_CONTENT_CONSUMPTION, ("u" * 70_000,))
    assert str(caught.value) == "Cassandra refuses: Key length of 70000 is longer than maximum of 65535"


def _when_reachable(store: CassandraStore) -> Sequence[Row]:
    deadline = time.monotonic() + 60
    while True:
        try:
            return contents(store)
        except Unreachable:
            assert time.monotonic() < deadline
            time.sleep(0.1)


def test_small_packets_are_sent_at_once(store: CassandraStore) -> None:
    contents(store)
    assert all(c._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) for c in _connections(store))


def test_writes_are_sent_once_and_to_the_nodes_that_hold_them(store: CassandraStore) -> None:
    """A list that the driver wrote twice, to be faster or because nobody had answered, would be doubled."""
    manager = store._sessions.connected().cluster.profile_manager
    write, read = manager.profiles["write"], manager.default
    assert type(write.retry_policy) is FallthroughRetryPolicy
    assert type(read.retry_policy) is RetryPolicy
    for profile in (write, read):
        assert profile.speculative_execution_policy.new_plan(None, None).next_execution(None) < 0
        assert isinstance(profile.load_balancing_policy, TokenAwarePolicy)
        assert profile.consistency_level == ConsistencyLevel.LOCAL_QUORUM


def test_a_statement_knows_its_partition_and_none_filters(store: CassandraStore) -> None:
    """Token-aware routing needs the values of the partition key: from the statement, or from a batch's first."""
    sent: list[Any] = []
    session = store._sessions.connected().session
    execute_async = session.execute_async

    def noted(statement: Any, *arguments: Any, **options: Any) -> Any:
        sent.append(statement)
        return execute_async(statement, *arguments, **options)

    session.execute_async = noted
    row = {**ENROLMENT, "contentstatus": {"c1": 1}, "status": 1}
    store.insert(USER_ENROLMENTS, [row])
    with store.unit(may) as unit:
        put = Change(ENROLMENT_KEY, {"contentstatus": {"c2": 2}}, drop={"contentstatus": frozenset({"c1"})})
        assert unit.settle(USER_ENROLMENTS, [ENROLMENT_KEY], lambda now: [put] if "c1" in str(now) else []) == 1
        assert unit.remove(USER_ENROLMENTS, unit.rows(USER_ENROLMENTS, ("u",))) == []
    assert len(sent) >= 6
    assert {statement.routing_key for statement in sent} == {b"u"}
    texts = Path(lern.store.cassandra.__file__).with_name("statements.cql").read_text(encoding="utf-8")
    assert "FILTERING" not in texts.upper()


def _connections(store: CassandraStore) -> Iterable[Any]:
    session = store._sessions.connected().session
    return [connection for pool in session.get_pools() for connection in pool.get_connections()]


def test_the_schema_file_makes_what_the_tables_say(store: CassandraStore, cassandra_session: Session) -> None:
    assert store.layout_problems() == []
    cluster: Cluster = cassandra_session.cluster
    assert cluster.metadata.keyspaces[cassandra_session.keyspace].tables.keys() >= {"user_courses", "course_batch"}
