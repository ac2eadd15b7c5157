"""The connections of the SQL store, and what their failures mean.

SQLAlchemy builds the statements and keeps the pool; the statements run on the driver's cursor. A chunk of a
few rows is a handful of statements, and describing each result anew would cost more than reading it.
"""

import os
import sqlite3
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, NoReturn

import sqlalchemy as sa
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from lern.errors import Damaged, LernError, Transient, Unreachable
from lern.postgresql import watched

# How long (s) a writer waits for another one's transaction on SQLite.
BUSY_TIMEOUT: Final = 30
# How long (s) until the next look where SQLite itself does not wait.
_LOOK_AGAIN: Final = 0.01

# What passes when somebody else is done or makes room, and is waited for.
_AWAY_SQLITE: Final = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_FULL}
# A file that SQLite cannot make sense of.
_DAMAGED_SQLITE: Final = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
# Connection lost; server shutting down or starting; too many connections, or no room; no writes for the time being.
_AWAY_SQLSTATES: Final = ("08", "57P", "53", "25006")
# Values that the server cannot keep; keys too long for an index.
_UNFIT_SQLSTATES: Final = ("22", "54")

# On PostgreSQL rows are locked as they are read, so that each write rests on what stands at that moment: the
# stronger isolation levels would add failures, not safety.
_BEGIN: Final = {"sqlite": "BEGIN IMMEDIATE", "postgresql": "BEGIN ISOLATION LEVEL READ COMMITTED"}
_PARAMSTYLE: Final = {"sqlite": "qmark", "postgresql": "format"}


class UnfitError(Exception):
    """The database refused a value, and does not say of which row."""


class _UndecodableError(Exception):
    """SQLite holds text that is not UTF-8, and does not say in which row."""


class Connection:
    """A connection for the length of a unit or of one read. Every method raises `Unreachable` or `Transient`."""

    def __init__(self, pooled: sa.PoolProxiedConnection, engine: sa.Engine) -> None:
        """Take a connection of the engine's pool."""
        self._pooled = pooled
        self._engine = engine
        self._error = engine.dialect.loaded_dbapi.Error

    def run(self, text: str) -> None:
        """Run one statement without parameters."""
        cursor = self._pooled.cursor()
        try:
            cursor.execute(text)
        except self._error as error:
            self._failed(error)
        finally:
            cursor.close()

    def fetch(self, text: str, parameters: Sequence[Any]) -> list[Any]:
        """Run one query and give its tuples. Text that is not UTF-8, which SQLite stores as well, comes as bytes."""
        try:
            return self._fetch(text, parameters)
        except _UndecodableError:
            driver: Any = self._pooled.driver_connection
            driver.text_factory = _text_or_bytes
            try:
                return self._fetch(text, parameters)
            finally:
                driver.text_factory = str

    def _fetch(self, text: str, parameters: Sequence[Any]) -> list[Any]:
        cursor = self._pooled.cursor()
        try:
            cursor.execute(text, parameters)
            return cursor.fetchall()  # type: ignore[return-value]  # every driver gives a list
        except self._error as error:
            self._failed(error)
        finally:
            cursor.close()

    def run_many(self, text: str, parameters: Sequence[Sequence[Any]]) -> int:
        """Run one statement for each tuple and give the number of rows changed. Raises `UnfitError`."""
        cursor = self._pooled.cursor()
        try:
            cursor.executemany(text, parameters)
        except (UnicodeEncodeError, OverflowError) as error:
            raise UnfitError(str(error)) from error
        except self._error as error:
            self._failed(error)
        else:
            return cursor.rowcount
        finally:
            cursor.close()

    def _failed(self, error: Exception) -> NoReturn:
        if "Could not decode" in str(error):
            raise _UndecodableError(str(error)) from error
        if (getattr(error, "sqlstate", None) or "").startswith(_UNFIT_SQLSTATES) or _is_nul(error):
            raise UnfitError(str(error)) from error
        if self._engine.dialect.is_disconnect(error, self._pooled.dbapi_connection, None):  # type: ignore[arg-type]
            self._pooled.invalidate(error)
        raise meaning(error, self._engine) from error


def meaning(error: Exception, engine: sa.Engine) -> LernError:
    """Say what an error of the driver means: the database is away or damaged, or what failed may be repeated."""
    problem = " ".join(str(error).split())
    if _sqlite_code(error) in _DAMAGED_SQLITE:
        return Damaged("store", engine.url.database, problem)
    if _is_away(error, engine.dialect):
        return Unreachable("store", problem)
    return Transient(f"store: {problem}")


def _text_or_bytes(raw: bytes) -> str | bytes:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw


def _sqlite_code(error: Exception) -> int | None:
    """Give SQLite's code: the low byte is the error, the rest says more about it."""
    code: int | None = getattr(error, "sqlite_errorcode", None)
    return None if code is None else code & 0xFF


def _is_away(error: Exception, dialect: sa.Dialect) -> bool:
    sqlite_code = _sqlite_code(error)
    if sqlite_code is not None:
        return sqlite_code in _AWAY_SQLITE
    sqlstate: str | None = getattr(error, "sqlstate", None)
    if sqlstate is not None:
        return sqlstate.startswith(_AWAY_SQLSTATES)
    # psycopg gives no SQLSTATE where there was no server to give one.
    return isinstance(error, dialect.loaded_dbapi.OperationalError)


def _is_nul(error: Exception) -> bool:
    # psycopg finds this one itself, before the server could give it a SQLSTATE.
    return "NUL" in str(error) and type(error).__name__ == "DataError"


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
        self._begin = _BEGIN[self.backend]
        self._by_process: dict[int, sa.Engine] = {}
        _ALL.add(self)

    @property
    def backend(self) -> str:
        """Either sqlite or postgresql."""
        return self.url.get_backend_name()

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """Lend a connection on which each statement is a transaction of its own."""
        engine = self._engine()
        pool = engine.pool
        pooled = self._taken(engine)
        try:
            yield Connection(pooled, engine)
        finally:
            if engine.pool is not pool:
                # A fork came in between, and the pool that this connection is of is no longer used.
                pooled.detach()
            # The pool rolls back what is still open.
            pooled.close()

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """Lend a connection in a transaction, which is committed when the block ends well and rolled back if not."""
        with self.reading() as connection:
            connection.run(self._begin)
            yield connection
            connection.run("COMMIT")

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
        process = os.getpid()
        # Two threads may both open an engine; the first to be kept is used by both.
        return self._by_process.get(process) or self._by_process.setdefault(process, _open(self.url))

    def _taken(self, engine: sa.Engine) -> sa.PoolProxiedConnection:
        try:
            return engine.raw_connection()
        except PoolTimeoutError as error:
            raise Unreachable("store", str(error)) from error
        except engine.dialect.loaded_dbapi.Error as error:
            raise meaning(error, engine) from error


_ALL: Final[weakref.WeakSet[Engines]] = weakref.WeakSet()


def _give_back_all_idle() -> None:
    for engines in list(_ALL):
        engines.give_back_idle()


os.register_at_fork(before=_give_back_all_idle)


def dialect_of(url: sa.URL) -> sa.Dialect:
    """Give the dialect to compile statements for, with parameters by position."""
    dialect: Callable[..., sa.Dialect] = url.get_dialect()
    return dialect(paramstyle=_PARAMSTYLE[url.get_backend_name()])


def _open(url: sa.URL) -> sa.Engine:
    if url.get_backend_name() == "sqlite":
        engine = sa.create_engine(url, connect_args={"timeout": BUSY_TIMEOUT})
        sa.event.listen(engine, "connect", _prepare_sqlite)
    else:
        engine = sa.create_engine(url, connect_args={**watched(url), "autocommit": True})
    return engine


def _prepare_sqlite(connection: sqlite3.Connection, _record: object) -> None:
    # Transactions begin where we say: the driver would begin them late, and not as IMMEDIATE.
    connection.isolation_level = None
    cursor = connection.cursor()
    _log_ahead(cursor)
    cursor.execute("PRAGMA synchronous = FULL")
    cursor.close()


def _log_ahead(cursor: sqlite3.Cursor) -> None:
    # Who turns the log of a new file on has read it first. SQLite lets no reader wait that becomes a writer while
    # another one writes, since that could last forever; here the other one is at the same, and soon done.
    patience = time.monotonic() + BUSY_TIMEOUT
    while True:
        try:
            cursor.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > patience:
                raise
            time.sleep(_LOOK_AGAIN)
        else:
            return
