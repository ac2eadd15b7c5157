"""Connections to the ledger's database, and what its errors mean.

All connections are in autocommit mode: a read is one statement, a write says BEGIN and COMMIT itself.
So no transaction can be left open by a read, and SQLite takes its write lock at the start (BEGIN
IMMEDIATE): a transaction that reads first and writes later could otherwise find that it may not.
"""

import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy import exc
from sqlalchemy.pool import ConnectionPoolEntry, QueuePool

from lern.errors import Damaged, SchemaMissing, Transient, Unreachable
from lern.postgresql import watched
from lern.sqlite import begin_immediate
from lern.urls import redacted, redacted_url, sqlalchemy_url, sqlite_file

_BUSY_SECONDS: Final = 30.0
_IDLE_SECONDS: Final = 5.0

# SQLite's, of a file that it cannot make sense of. The low byte of its code is the error.
_DAMAGED: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})

# PostgreSQL's SQLSTATE: the first two characters are the class.
_UNDEFINED: Final = frozenset({"42P01", "42703"})
# A server that takes no writes, as one that follows another and has not been told yet to go on by itself, is away too.
_GONE: Final = ("08", "53", "57P", "58", "25006")
_REPEATABLE: Final = ("40", "55P03", "57014")

_engines_of_parents: list[sa.Engine] = []
"""Engines that were copied by a fork. Kept for ever: closing them would end the parent's connections."""


@dataclass(frozen=True)
class _Kept:
    """The connections that a thread keeps and does not use just now, by their patience."""

    engine: sa.Engine
    free: dict[float, sa.Connection] = field(default_factory=dict)


class _Thread(threading.local):
    """What a thread keeps; None where it keeps nothing."""

    kept: _Kept | None = None


class Database:
    """The ledger's database, from any number of threads and forked processes. Opened when first used."""

    def __init__(self, url: str) -> None:
        """Remember the URL. Raises ValueError for SQLite without a file: every connection would see its own."""
        self.url = sqlalchemy_url(url)
        self.file = sqlite_file(self.url)
        self.is_sqlite = self.url.startswith("sqlite")
        if self.is_sqlite and self.file is None:
            raise ValueError("a ledger in SQLite needs a file")
        self._lock = threading.Lock()
        self._pid = 0
        self._engine: sa.Engine | None = None
        self._thread = _Thread()

    @property
    def name(self) -> str:
        """Where the ledger is, for messages: without passwords."""
        return redacted_url(self.url)

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """Give a connection for reading. Each statement is a snapshot of its own."""
        with self._translated(), self._connected(_BUSY_SECONDS) as connection:
            yield connection

    @contextmanager
    def write(self, *, durable: bool = True) -> Iterator[sa.Connection]:
        """Give a connection within one transaction, committed at the end, rolled back by any exception.

        `durable=False`: the transaction may be lost by a power failure (never by the end of a process),
        whole, and nothing that a durable one was based on: a durable commit saves all before it.
        """
        with self._translated(), self._connected(0) as connection:
            driver = connection.connection.dbapi_connection
            try:
                self._begin(driver, connection.info, durable=durable)
                yield connection
                _run(driver, "COMMIT")
            except BaseException:
                self._abandon(connection)
                raise

    @contextmanager
    def keep(self) -> Iterator[None]:
        """Have what this thread reads within the block share a connection, and what it writes another in SQLite.

        In PostgreSQL, where each is a process of the server, it is one for both. To take one out of the pool and give
        it back takes as long as most of what is asked of it.
        """
        before, engine = self._thread.kept, self.engine
        mine = self._thread.kept = _Kept(engine)
        try:
            yield
        finally:
            self._thread.kept = before
            # In a child that was forked meanwhile they are the parent's.
            if engine is self.engine:
                for connection in mine.free.values():
                    connection.close()

    @contextmanager
    def _connected(self, patience: float) -> Iterator[sa.Connection]:
        """Lend a connection to nobody else meanwhile. `patience`: seconds that SQLite itself waits for others."""
        if not self.is_sqlite:
            patience = 0
        engine, kept = self.engine, self._thread.kept
        if kept is None or kept.engine is not engine:
            with engine.connect() as connection:
                self._wait_for(connection, patience)
                yield connection
            return
        connection = kept.free.pop(patience) if patience in kept.free else engine.connect()
        try:
            self._wait_for(connection, patience)
            yield connection
        except BaseException:
            # Nobody knows what state it is in, but the pool does.
            connection.close()
            raise
        if patience in kept.free:
            # Somebody within this block has asked as well.
            connection.close()
        else:
            kept.free[patience] = connection

    def _wait_for(self, connection: sa.Connection, patience: float) -> None:
        if self.is_sqlite and connection.info.get("patience") != patience:
            driver: Any = connection.connection.dbapi_connection
            driver.execute(f"PRAGMA busy_timeout={round(patience * 1000)}")
            connection.info["patience"] = patience

    @property
    def engine(self) -> sa.Engine:
        """The engine of this process: a forked child makes its own."""
        if self._engine is None or self._pid != os.getpid():
            self._open()
        assert self._engine is not None  # noqa: S101 - for the type checker: _open has just set it
        return self._engine

    def close(self) -> None:
        """Close the connections of this process."""
        if self._engine is not None and self._pid == os.getpid():
            self._engine.dispose()
            self._engine = None

    def _open(self) -> None:
        # The lock may have been held by another thread of the parent at the fork, so a child makes a new one.
        if self._pid != os.getpid():
            self._lock = threading.Lock()
        with self._lock:
            if self._engine is not None and self._pid == os.getpid():
                return
            if self._engine is not None:
                _engines_of_parents.append(self._engine)
            self._engine = _sqlite_engine(self.url) if self.is_sqlite else _postgresql_engine(self.url)
            self._pid = os.getpid()

    def _begin(self, driver: Any, info: dict[Any, Any], *, durable: bool) -> None:
        if self.is_sqlite:
            # The pragma is no part of a transaction and stays with the connection.
            if info.get("durable") != durable:
                driver.execute(f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}")
                info["durable"] = durable
            begin_immediate(driver, _BUSY_SECONDS)
            return
        driver.execute("BEGIN")
        if not durable:
            driver.execute("SET LOCAL synchronous_commit TO off")

    def _abandon(self, connection: sa.Connection) -> None:
        """Roll back; a connection that cannot is thrown away, which rolls back as well."""
        try:
            _run(connection.connection.dbapi_connection, "ROLLBACK")
        except self._driver_errors as error:
            # SQLite has rolled back by itself after some errors (a full disk): then there is nothing to do.
            if "no transaction is active" not in str(error):
                connection.invalidate(error)

    @property
    def _driver_errors(self) -> tuple[type[Exception], ...]:
        return (exc.DBAPIError, exc.InvalidRequestError, self.engine.dialect.loaded_dbapi.Error)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Turn the errors of a database that is away or damaged into the system's own. Others are bugs and pass."""
        try:
            yield
        except exc.TimeoutError as error:
            raise Unreachable("ledger", "no connection became free") from error
        except exc.DBAPIError as error:
            self._raise(error.orig or error, error)
        except sqlite3.Error as error:
            self._raise(error, error)
        except Exception as error:
            if not isinstance(error, self.engine.dialect.loaded_dbapi.Error):
                raise
            self._raise(error, error)

    def _raise(self, error: BaseException, cause: Exception) -> None:
        """Raise what `error`, the driver's, means for the caller."""
        problem = redacted(" ".join(str(error).split()))
        if isinstance(error, sqlite3.Error):
            # What the module itself finds wrong (a closed connection) has no code of SQLite's.
            if getattr(error, "sqlite_errorcode", 0) & 0xFF in _DAMAGED:
                raise Damaged("ledger", self.file, problem) from cause
            if not isinstance(error, sqlite3.OperationalError):
                raise cause
            if "no such table" in problem or "no such column" in problem:
                raise SchemaMissing(problem) from cause
            raise Unreachable("ledger", problem) from cause
        state = getattr(error, "sqlstate", None)
        if state in _UNDEFINED:
            raise SchemaMissing(problem) from cause
        if state is not None and state.startswith(_REPEATABLE):
            raise Transient(f"ledger: {problem}") from cause
        driver = self.engine.dialect.loaded_dbapi
        # A connection that broke has no SQLSTATE, nor one that was never answered (an error of a kind of its own): the
        # server could not say anything.
        if state.startswith(_GONE) if state else isinstance(error, driver.OperationalError | driver.InterfaceError):
            raise Unreachable("ledger", problem) from cause
        raise cause


def _run(driver: Any, statement: str) -> None:
    driver.execute(statement)


def _sqlite_engine(url: str) -> sa.Engine:
    engine = sa.create_engine(
        url,
        isolation_level="AUTOCOMMIT",
        poolclass=QueuePool,
        pool_reset_on_return=None,
        pool_size=4,
        max_overflow=16,
        connect_args={"timeout": _BUSY_SECONDS},
    )

    @sa.event.listens_for(engine, "connect")
    def _connect(driver: sqlite3.Connection, _entry: ConnectionPoolEntry) -> None:
        # FULL is what a commit promises; whoever needs less says so for each transaction.
        driver.execute("PRAGMA synchronous=FULL")
        _entry.info["durable"] = True

    return engine


def _postgresql_engine(url: str) -> sa.Engine:
    engine = sa.create_engine(
        url,
        isolation_level="AUTOCOMMIT",
        pool_reset_on_return=None,
        pool_size=2,
        max_overflow=8,
        connect_args={**watched(url), "application_name": "lern-ledger"},
    )

    @sa.event.listens_for(engine, "checkin")
    def _checkin(_driver: object, entry: ConnectionPoolEntry) -> None:
        entry.info["used"] = time.monotonic()

    @sa.event.listens_for(engine, "checkout")
    def _checkout(driver: Any, entry: ConnectionPoolEntry, _proxy: object) -> None:
        # A connection that has been idle may be dead since (server restarted, firewall): asking costs a
        # round trip, so one that was used a moment ago is not asked.
        if time.monotonic() - entry.info.get("used", time.monotonic()) < _IDLE_SECONDS:
            return
        try:
            driver.execute("SELECT 1")
        except Exception as error:
            raise exc.DisconnectionError from error

    return engine


def directory_of(file: Path) -> Path:
    """Make the directory of an SQLite file if it is not there, and give it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    return file.parent
