"""What the SQL stores promise beyond the contract: one transaction a unit, durable files, bad rows named."""

import multiprocessing
import os
import re
import signal
import sqlite3
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from lern.errors import BadRow, Damaged, Refused, Unreachable
from lern.settings import Settings
from lern.store import open_store
from lern.store import sql_engine as engine
from lern.store.base import Change
from lern.store.sql import SqlStore
from lern.store.tables import (
    ASSESSMENT_AGGREGATOR,
    TABLES,
    USER_ACTIVITY_AGG,
    USER_CONTENT_CONSUMPTION,
    USER_ENROLMENTS,
    Key,
    Row,
)
from tests.servers.postgres import PostgresServer

KEY = ("u1", "c1", "b1", "do_1")
CONTENT = dict(zip(USER_CONTENT_CONSUMPTION.key, KEY, strict=True))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "not yet there" / "learners.sqlite"


@pytest.fixture
def store(file: Path) -> Iterator[SqlStore]:
    opened = SqlStore(f"sqlite:///{file}")
    opened.create()
    yield opened
    opened.close()


def may() -> None:
    """Allow every write."""


def test_a_file_that_is_damaged_is_named(tmp_path: Path) -> None:
    (tmp_path / "learners.sqlite").write_bytes(b"no database" * 1000)
    store = SqlStore(f"sqlite:///{tmp_path}/learners.sqlite")
    for call in (store.check, store.create, lambda: list(store.scan(USER_ENROLMENTS))):
        with pytest.raises(Damaged, match=r"learners\.sqlite, the store's file, is damaged"):
            call()


def test_nothing_of_a_unit_is_seen_before_it_ends(store: SqlStore) -> None:
    with store.unit(may) as unit:
        unit.settle(USER_CONTENT_CONSUMPTION, [KEY], lambda _: [Change(KEY, {"status": 1})])
        assert store.read(USER_CONTENT_CONSUMPTION, [KEY]) == {}
        assert unit.rows(USER_CONTENT_CONSUMPTION, KEY[:1]) == [{**CONTENT, "status": 1}]
    assert store.read(USER_CONTENT_CONSUMPTION, [KEY]) == {KEY: {**CONTENT, "status": 1}}


def write_and_fail(store: SqlStore) -> None:
    with store.unit(may) as unit:
        unit.settle(USER_CONTENT_CONSUMPTION, [KEY], lambda _: [Change(KEY, {"status": 1})])
        assert unit.remove(USER_CONTENT_CONSUMPTION, [{**CONTENT, "status": 1}]) == []
        raise RuntimeError("in the middle")


def test_a_unit_that_fails_leaves_nothing(store: SqlStore) -> None:
    store.insert(USER_CONTENT_CONSUMPTION, [CONTENT])
    with pytest.raises(RuntimeError, match="in the middle"):
        write_and_fail(store)
    assert store.rows(USER_CONTENT_CONSUMPTION, KEY[:1]) == [CONTENT]


def test_a_load_that_fails_leaves_nothing(store: SqlStore) -> None:
    rows: list[Row] = [{**CONTENT, "contentid": f"do_{i}"} for i in range(2500)]
    with pytest.raises(BadRow):
        store.insert(USER_CONTENT_CONSUMPTION, [*rows, {**CONTENT, "status": "two"}])
    assert list(store.scan(USER_CONTENT_CONSUMPTION)) == []


def test_the_guard_is_asked_again_before_a_unit_that_wrote_is_committed(store: SqlStore) -> None:
    asked: list[Mapping[Key, Row]] = []

    def guard() -> None:
        asked.append(store.read(USER_CONTENT_CONSUMPTION, [KEY]))

    with store.unit(guard) as unit:
        unit.settle(USER_CONTENT_CONSUMPTION, [KEY], lambda _: [Change(KEY)])
    assert asked == [{}, {}]


def write_and_hang(url: str, ready: Connection) -> None:
    with SqlStore(url).unit(may) as unit:
        unit.settle(USER_CONTENT_CONSUMPTION, [KEY], lambda _: [Change(KEY)])
        ready.send(os.getpid())
        signal.pause()


def test_a_process_killed_in_a_unit_leaves_nothing_and_holds_nobody_up(store: SqlStore, file: Path) -> None:
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=write_and_hang, args=(f"sqlite:///{file}", there))
    process.start()
    assert here.poll(60)
    process.kill()
    process.join()
    assert store.read(USER_CONTENT_CONSUMPTION, [KEY]) == {}
    store.insert(USER_CONTENT_CONSUMPTION, [CONTENT])
    assert store.read(USER_CONTENT_CONSUMPTION, [KEY]) == {KEY: CONTENT}
    for end in (here, there):
        end.close()


def test_the_file_survives_a_loss_of_power(store: SqlStore) -> None:
    with store._engines.reading() as connection:
        assert connection.fetch("PRAGMA journal_mode", ()) == [("wal",)]
        assert connection.fetch("PRAGMA synchronous", ()) == [(2,)]  # FULL


def test_a_first_use_waits_for_another_process_first_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # SQLite's own patience is not asked where a reader turns writer, as who turns the log on does.
    file = tmp_path / "new.sqlite"
    other = sqlite3.connect(file, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    looks: list[float] = []

    def the_other_is_done_while_we_wait(seconds: float) -> None:
        looks.append(seconds)
        if len(looks) == 3:
            other.close()

    monkeypatch.setattr(time, "sleep", the_other_is_done_while_we_wait)
    opened = SqlStore(f"sqlite:///{file}")
    opened.create()
    opened.close()
    assert len(looks) == 3


def test_a_writer_waits_for_another_ones_unit(store: SqlStore) -> None:
    began = threading.Event()

    def write() -> None:
        began.set()
        store.insert(USER_CONTENT_CONSUMPTION, [{**CONTENT, "progress": 7}])

    writer = threading.Thread(target=write)
    with store.unit(may) as unit:
        unit.settle(USER_CONTENT_CONSUMPTION, [KEY], lambda _: [Change(KEY, {"status": 1})])
        writer.start()
        assert began.wait(60)
    writer.join(60)
    assert store.read(USER_CONTENT_CONSUMPTION, [KEY]) == {KEY: {**CONTENT, "status": 1, "progress": 7}}


def test_slices_are_read_in_the_order_of_bytes_whatever_the_database_speaks(postgres_server: PostgresServer) -> None:
    database = f"swedish_{uuid.uuid4().hex}"
    with postgres_server.connection() as connection:
        connection.execute(
            f"CREATE DATABASE {database} TEMPLATE template0 ENCODING UTF8 LOCALE_PROVIDER icu ICU_LOCALE 'sv-SE'"
        )
    store = SqlStore(postgres_server.url(database))
    store.create()
    contents = ["a", "B", "é", "z", "-c"]
    store.insert(USER_CONTENT_CONSUMPTION, [{**CONTENT, "contentid": name} for name in contents])
    first = store.rows(USER_CONTENT_CONSUMPTION, ("u1",), limit=2)
    rest = store.rows(USER_CONTENT_CONSUMPTION, ("u1",), USER_CONTENT_CONSUMPTION.order_of(first[-1]))
    store.close()
    assert [row["contentid"] for row in [*first, *rest]] == ["-c", "B", "a", "z", "é"]


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="only /proc tells which files a process has open")
def test_a_child_inherits_no_open_file(store: SqlStore, file: Path) -> None:
    store.insert(USER_CONTENT_CONSUMPTION, [CONTENT])
    child = os.fork()
    if child == 0:
        # The child must not go on as a second pytest.
        os._exit(1 if any(opened.resolve() == file for opened in Path("/proc/self/fd").iterdir()) else 0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


# --- servers that do not answer


def test_a_file_that_stays_locked_is_a_server_that_does_not_answer(
    store: SqlStore, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "BUSY_TIMEOUT", 0)
    other = SqlStore(f"sqlite:///{file}")
    with store.unit(may), pytest.raises(Unreachable, match=r"store cannot be reached: .*locked"):
        other.insert(USER_CONTENT_CONSUMPTION, [CONTENT])
    other.insert(USER_CONTENT_CONSUMPTION, [CONTENT])
    other.close()


def test_a_file_in_no_directory_is_a_server_that_does_not_answer(tmp_path: Path) -> None:
    with pytest.raises(Unreachable):
        SqlStore(f"sqlite:///{tmp_path}/nowhere/learners.sqlite").check()


@pytest.mark.parametrize(
    "call",
    [
        lambda store: store.rows(USER_CONTENT_CONSUMPTION, ("u1",)),
        lambda store: store.read(USER_CONTENT_CONSUMPTION, [KEY]),
        lambda store: store.insert(USER_CONTENT_CONSUMPTION, [CONTENT]),
        lambda store: list(store.scan(USER_CONTENT_CONSUMPTION)),
        lambda store: store.unit(may).__enter__(),
        lambda store: store.create(),
        lambda store: store.check(),
    ],
)
def test_a_server_that_refuses_connections_is_waited_for(call: Callable[[SqlStore], object]) -> None:
    # Port 1 is reserved: nobody listens there.
    store = SqlStore("postgresql://nobody@127.0.0.1:1/nothing?connect_timeout=5")
    with pytest.raises(Unreachable, match="store cannot be reached"):
        call(store)


def test_a_server_that_ended_our_connections_is_waited_for_and_found_again(postgres_url: str) -> None:
    names = {name: f"{name}_{uuid.uuid4().hex[:8]}" for name in TABLES}
    store, other = SqlStore(postgres_url, names), SqlStore(postgres_url, names)
    store.create()
    store.insert(USER_CONTENT_CONSUMPTION, [CONTENT])
    with store._engines.reading() as connection:
        [(process,)] = connection.fetch("SELECT pg_backend_pid()", ())
    with other._engines.reading() as connection:
        connection.fetch("SELECT pg_terminate_backend(%s, 10000)", (process,))
    with pytest.raises(Unreachable):
        store.rows(USER_CONTENT_CONSUMPTION, ("u1",))
    assert store.rows(USER_CONTENT_CONSUMPTION, ("u1",)) == [CONTENT]
    for opened in (store, other):
        opened.close()


def test_a_server_that_takes_no_writes_is_waited_for(postgres_server: PostgresServer) -> None:
    """As one that follows another, until it is told to go on by itself."""
    url = postgres_server.new_database()
    store = SqlStore(url)
    store.create()
    store.close()
    postgres_server.read_only(url, on=True)
    with pytest.raises(Unreachable, match="read-only"):
        store.insert(USER_CONTENT_CONSUMPTION, [CONTENT])
    store.close()


# --- bad rows


@pytest.mark.parametrize(
    ("column", "value", "problem"),
    [
        ("status", "two", "'two' is not of kind int"),
        ("status", 2.5, "2.5 is not of kind int"),
        ("completionpercentage", "much", "'much' is not a number"),
        ("datetime", "yesterday", "'yesterday' is not of kind timestamp"),
        ("progressdetails", b"\x00", r"b'\x00' is not of kind text"),
    ],
)
def test_a_value_of_the_wrong_kind_is_named_by_row_and_column(
    store: SqlStore, file: Path, column: str, value: object, problem: str
) -> None:
    store.insert(USER_CONTENT_CONSUMPTION, [CONTENT, {**CONTENT, "contentid": "do_2", "status": 1}])
    spoil(file, f"UPDATE user_content_consumption SET {column} = ? WHERE contentid = 'do_1'", value)  # noqa: S608
    for read in (
        lambda: store.rows(USER_CONTENT_CONSUMPTION, ("u1",)),
        lambda: store.read(USER_CONTENT_CONSUMPTION, [KEY]),
        lambda: list(store.scan(USER_CONTENT_CONSUMPTION)),
    ):
        with pytest.raises(BadRow) as caught:
            read()
        assert (caught.value.table, caught.value.key, caught.value.column) == ("user_content_consumption", KEY, column)
        assert caught.value.problem == problem


@pytest.mark.parametrize(
    "text", ["{", "[1]", '{"x": "y"}', '{"x": null}', '{"x": true}', '"x"', "[" * 100_000, r'{"\ud800": 1}']
)
def test_a_broken_map_is_named_by_row_and_column(store: SqlStore, file: Path, text: str) -> None:
    store.insert(USER_ENROLMENTS, [{"userid": "u", "courseid": "c", "batchid": "b"}])
    spoil(file, "UPDATE user_enrolments SET contentstatus = ?", text)
    with pytest.raises(BadRow) as caught:
        store.rows(USER_ENROLMENTS, ("u",))
    assert (caught.value.key, caught.value.column) == (("u", "c", "b"), "contentstatus")
    assert re.search(r"is not JSON: |is not of kind map<text, int>$|half of a surrogate", caught.value.problem)


@pytest.mark.parametrize("text", ['[{"score": "1"}]', '[{"scroe": 1}]', '[{"duration": "long"}]', '[{"params": [1]}]'])
def test_a_broken_question_is_named_by_row_and_column(store: SqlStore, file: Path, text: str) -> None:
    key = ("u", "c", "b", "d", "a")
    store.insert(ASSESSMENT_AGGREGATOR, [dict(zip(ASSESSMENT_AGGREGATOR.key, key, strict=True))])
    spoil(file, "UPDATE assessment_aggregator SET question = ?", text)
    with pytest.raises(BadRow) as caught:
        store.read(ASSESSMENT_AGGREGATOR, [key])
    assert (caught.value.key, caught.value.column) == (key, "question")


def test_text_that_is_no_utf8_is_named_by_row_and_column(store: SqlStore, file: Path) -> None:
    store.insert(USER_CONTENT_CONSUMPTION, [CONTENT, {**CONTENT, "contentid": "do_2"}])
    spoil(
        file, "UPDATE user_content_consumption SET progressdetails = CAST(? AS TEXT) WHERE contentid = 'do_2'", b"\xff"
    )
    with pytest.raises(BadRow) as caught:
        store.rows(USER_CONTENT_CONSUMPTION, ("u1",))
    assert (caught.value.key, caught.value.column) == (("u1", "c1", "b1", "do_2"), "progressdetails")
    assert store.read(USER_CONTENT_CONSUMPTION, [KEY]) == {KEY: CONTENT}


def test_a_scan_goes_on_after_rows_that_cannot_be_read(store: SqlStore, file: Path) -> None:
    """Also where they end a page, and where their keys are no text, beyond which SQLite cannot be asked to go on."""
    rows: list[Row] = [{**CONTENT, "contentid": f"{number:05}"} for number in range(4000)]
    store.insert(USER_CONTENT_CONSUMPTION, rows)
    spoilt = [0, 998, 999, 1000, 2500, 3999]
    for number in spoilt:
        spoil(file, "UPDATE user_content_consumption SET status = 'two' WHERE contentid = ?", f"{number:05}")
    # They keep their places in the order: where the second page ends.
    for number in (1999, 2000):
        key = f"{number:05}".encode() + b"\xff"
        place = f"{number:05}"
        spoil(file, "UPDATE user_content_consumption SET contentid = CAST(? AS TEXT) WHERE contentid = ?", key, place)
    for where in ((), ("u1",)):
        bad: list[BadRow] = []
        read = list(store.scan(USER_CONTENT_CONSUMPTION, where, bad.append))
        unreadable = {*spoilt, 1999, 2000}
        assert read == [row for number, row in enumerate(rows) if number not in unreadable]
        assert [error.column for error in bad] == [*["status"] * 4, *["contentid"] * 2, *["status"] * 2]
        assert [error.problem for error in bad[3:5]] == [
            "'two' is not of kind int",
            "b'01999\\xff' is not of kind text",
        ]


def test_whole_numbers_among_doubles_are_doubles(store: SqlStore, file: Path) -> None:
    key = ("Course", "c", "u", "cb:b")
    store.insert(USER_ACTIVITY_AGG, [dict(zip(USER_ACTIVITY_AGG.key, key, strict=True))])
    spoil(file, "UPDATE user_activity_agg SET aggregates = ?", '{"completedCount": 3}')
    value = store.read(USER_ACTIVITY_AGG, [key])[key]["aggregates"]["completedCount"]
    assert type(value) is float


def spoil(file: Path, statement: str, *values: object) -> None:
    """Write what no store would write."""
    connection = sqlite3.connect(file)
    with connection:
        assert connection.execute(statement, values).rowcount == 1
    connection.close()


# --- settings


def test_the_settings_name_the_place_and_the_tables(tmp_path: Path) -> None:
    names = {f"LERN_TABLE_{name.upper()}": f"old_{name}" for name in TABLES}
    opened = open_store(Settings.load({"LERN_DATA_DIR": str(tmp_path), **names}))
    opened.create()
    opened.insert(USER_CONTENT_CONSUMPTION, [CONTENT])
    opened.close()
    connection = sqlite3.connect(tmp_path / "learners.sqlite")
    assert connection.execute("SELECT contentid FROM old_user_content_consumption").fetchall() == [("do_1",)]
    connection.close()


def test_a_url_that_no_store_speaks_is_refused() -> None:
    class Elsewhere(Settings):
        @property
        def store_url_or_default(self) -> str:
            return "mysql://h/d"

    with pytest.raises(Refused, match="no store speaks mysql"):
        open_store(Elsewhere.load({}))
