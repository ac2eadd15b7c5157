"""Taking turns at SQLite's write lock."""

import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lern.sqlite import begin_immediate

Open = Callable[[], sqlite3.Connection]


@pytest.fixture
def connect(tmp_path: Path) -> Iterator[Open]:
    made: list[sqlite3.Connection] = []

    def opened() -> sqlite3.Connection:
        made.append(sqlite3.connect(tmp_path / "x.db", isolation_level=None, timeout=0, check_same_thread=False))
        return made[-1]

    first = opened()
    first.execute("PRAGMA journal_mode = WAL")
    first.execute("CREATE TABLE t (x)")
    yield opened
    for connection in made:
        connection.close()


def test_who_finds_the_lock_free_writes(connect: Open) -> None:
    one = connect()
    begin_immediate(one, 30)
    one.execute("INSERT INTO t VALUES (1)")
    one.execute("COMMIT")
    assert connect().execute("SELECT x FROM t").fetchall() == [(1,)]


def test_writers_take_turns_and_nobody_writes_beside_another(connect: Open) -> None:
    connect().execute("INSERT INTO t VALUES (0)")

    def count(connection: sqlite3.Connection) -> None:
        for _ in range(200):
            begin_immediate(connection, 30)
            [number] = connection.execute("SELECT x FROM t").fetchone()
            connection.execute("UPDATE t SET x = ?", (number + 1,))
            connection.execute("COMMIT")

    threads = [threading.Thread(target=count, args=(connect(),)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert connect().execute("SELECT x FROM t").fetchall() == [(800,)]


def test_who_waits_for_longer_than_soon_waits_on_and_no_longer_than_its_patience(connect: Open) -> None:
    holder, other = connect(), connect()
    holder.execute("BEGIN IMMEDIATE")
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        begin_immediate(other, 0.05)
    free = threading.Timer(0.1, lambda: holder.execute("COMMIT"))
    free.start()
    begin_immediate(other, 30)
    assert other.in_transaction
    assert not holder.in_transaction


def test_what_is_wrong_otherwise_is_said_at_once(connect: Open) -> None:
    one = connect()
    one.execute("BEGIN")
    with pytest.raises(sqlite3.OperationalError, match="within a transaction"):
        begin_immediate(one, 30)
