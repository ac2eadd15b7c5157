"""The connections of the SQL store, and what their failures mean."""

import os
import sqlite3
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from lern.errors import LernError, Transient, Unreachable

# How long (s) a writer waits for another one's transaction on SQLite.
BUSY_TIMEOUT: Final = 30

# What passes when somebody else is done or makes room, and is waited for.
_AWAY_SQLITE: Final = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_FULL}
# Connection lost; server shutting down or starting; too many connections, or no room.
_AWAY_SQLSTATES: Final = ("08", "57P", "53")


class Engines:
    """One engine per process, opened at its first use.

    A connection must not cross a fork. SQLite's locks belong to a process, but its memory of them is
    inherited, so a child of a process with an open file would believe that it holds locks that it does
    not; the idle connections are therefore closed before every fork. What is in use by another thread
    at that moment stays the parent's: the child keeps it unused, as closing it would end it for both.
    """

    def __init__(self, url: str) -> None:
        """Remember where the database is. Nothing is opened yet."""
        made = sa.make_url(url)
        self.url = made.set(drivername="postgresql+psycopg") if made.drivername == "postgresql" else made
        self._by_process: dict[int, sa.Engine] = {}
        _ALL.add(self)

    @property
    def reader(self) -> sa.Engine:
        """The engine of single reads: each statement is a transaction of its own."""
        return self._engine().execution_options(**_READER[self.url.get_backend_name()])

    @property
    def writer(self) -> sa.Engine:
        """The engine of transactions that write."""
        return self._engine().execution_options(**_WRITER[self.url.get_backend_name()])

    def give_back_idle(self) -> None:
        """Close the connections that nobody uses at the moment."""
        engine = self._by_process.get(os.getpid())
        if engine is not None:
            engine.dispose()

    def close(self) -> None:
        """Close this process's connections."""
        engine = self._by_process.pop(os.getpid(), None)
        if engine is not None:
            engine.dispose()

    def _engine(self) -> sa.Engine:
        engine = self._by_process.get(os.getpid())
        # Two threads may both open one; the first to be kept is used by both.
        return engine or self._by_process.setdefault(os.getpid(), _open(self.url))


_ALL: Final[weakref.WeakSet[Engines]] = weakref.WeakSet()


def _give_back_all_idle() -> None:
    for engines in list(_ALL):
        engines.give_back_idle()


os.register_at_fork(before=_give_back_all_idle)

_READER: Final[dict[str, dict[str, Any]]] = {
    "sqlite": {},
    "postgresql": {"isolation_level": "AUTOCOMMIT"},
}
# On PostgreSQL rows are locked as they are read, so that each write rests on what stands at that moment: the
# stronger isolation levels would add failures, not safety.
_WRITER: Final[dict[str, dict[str, Any]]] = {
    "sqlite": {"lern_begin": "BEGIN IMMEDIATE"},
    "postgresql": {"isolation_level": "READ COMMITTED"},
}


def dialect_of(url: sa.URL) -> sa.Dialect:
    """Give the dialect to compile statements for, with parameters by position."""
    dialect: Callable[..., sa.Dialect] = url.get_dialect()
    return dialect(paramstyle=_PARAMSTYLE[url.get_backend_name()])


_PARAMSTYLE: Final = {"sqlite": "qmark", "postgresql": "format"}


def _open(url: sa.URL) -> sa.Engine:
    if url.get_backend_name() != "sqlite":
        return sa.create_engine(url, paramstyle=_PARAMSTYLE[url.get_backend_name()])
    engine = sa.create_engine(url, connect_args={"timeout": BUSY_TIMEOUT})
    sa.event.listen(engine, "connect", _prepare_sqlite)
    sa.event.listen(engine, "begin", _begin_sqlite)
    return engine


def _prepare_sqlite(connection: sqlite3.Connection, _record: object) -> None:
    # Transactions begin where we say: the driver would begin them late, and not as IMMEDIATE.
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode = WAL")
    cursor.execute("PRAGMA synchronous = FULL")
    cursor.close()


def _begin_sqlite(connection: sa.Connection) -> None:
    begin = connection.get_execution_options().get("lern_begin")
    if begin is not None:
        connection.exec_driver_sql(begin)


@contextmanager
def translated() -> Iterator[None]:
    """Raise what the database says as this system's errors: `Unreachable` or `Transient`."""
    try:
        yield
    except PoolTimeoutError as error:
        raise Unreachable("store", str(error)) from error
    except SQLAlchemyError as error:
        raise _meaning(error) from error


def _meaning(error: SQLAlchemyError) -> LernError:
    problem = str(error.orig) if isinstance(error, DBAPIError) else str(error)
    if isinstance(error, DBAPIError) and (error.connection_invalidated or _is_away(error)):
        return Unreachable("store", problem)
    return Transient(f"store: {problem}")


def _is_away(error: DBAPIError) -> bool:
    sqlite_code: int | None = getattr(error.orig, "sqlite_errorcode", None)
    if sqlite_code is not None:
        # The low byte is the error; the rest says more about it.
        return sqlite_code & 0xFF in _AWAY_SQLITE
    sqlstate: str | None = getattr(error.orig, "sqlstate", None)
    if sqlstate is not None:
        return sqlstate.startswith(_AWAY_SQLSTATES)
    # psycopg gives no SQLSTATE where there was no server to give one.
    return isinstance(error, OperationalError)
