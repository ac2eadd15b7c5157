"""Every call that a process makes to the outside, counted, and death at one of them.

A call is a statement to SQLite (opening, BEGIN and COMMIT included, but not what says how long it may wait), a command
to Redis (locks, relations, messages, the mirror; those of one pipeline are one), or an operation on a file of outgoing
events. Counted is what the main thread does.
"""

import os
import signal
import sqlite3
import threading
from collections.abc import Callable, Iterable
from typing import Any, Final

import redis.connection

from lern import outgoing


class Calls:
    """The calls so far. `fatal`: the number of the call, from 1, that is never made."""

    def __init__(self) -> None:
        """Count from 0; nobody is to die yet."""
        self.made: list[str] = []
        self.fatal: int | None = None
        self.counting = False

    def begin(self, fatal: int | None = None) -> None:
        """Count from here, and die at call `fatal`."""
        self.made, self.fatal, self.counting = [], fatal, True

    def end(self) -> list[str]:
        """Count no more; gives the calls that were made."""
        self.counting = False
        return self.made

    def make(self, what: str, last_act: Callable[[], object] = int) -> None:
        """Count a call. Whoever dies here does `last_act` before."""
        if not self.counting or threading.current_thread() is not threading.main_thread():
            return
        self.made.append(what)
        if len(self.made) == self.fatal:
            last_act()
            os.kill(os.getpid(), signal.SIGKILL)


CALLS = Calls()
_GREETINGS: Final = ("HELLO", "AUTH", "CLIENT", "PING", "SELECT")


class _Cursor(sqlite3.Cursor):
    def execute(self, sql: str, parameters: Any = ()) -> "_Cursor":
        if not sql.startswith("PRAGMA busy_timeout"):
            CALLS.make(f"sqlite {_short(sql)}")
        super().execute(sql, parameters)
        return self

    def executemany(self, sql: str, parameters: Iterable[Any]) -> "_Cursor":
        CALLS.make(f"sqlite {_short(sql)}")
        super().executemany(sql, parameters)
        return self


class _Connection(sqlite3.Connection):
    def cursor(self, factory: Any = _Cursor) -> Any:
        return super().cursor(factory)

    def execute(self, sql: str, parameters: Any = ()) -> sqlite3.Cursor:
        """Go by the cursor that counts: the method inherited makes one of its own."""
        cursor: sqlite3.Cursor = self.cursor().execute(sql, parameters)
        return cursor


def _short(sql: str) -> str:
    return " ".join(sql.split())[:60]


class _CountedOs:
    """The module `os`, with the operations that write counted."""

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def open(self, path: Any, *arguments: Any) -> int:
        CALLS.make("file open")
        return os.open(path, *arguments)

    def write(self, file: int, line: bytes) -> int:
        CALLS.make("file write")
        CALLS.make("file write, torn", lambda: os.write(file, line[: len(line) // 2]))
        return os.write(file, line)

    def fsync(self, file: int) -> None:
        CALLS.make("file fsync")
        os.fsync(file)

    def ftruncate(self, file: int, size: int) -> None:
        CALLS.make("file truncate")
        os.ftruncate(file, size)


def count_everything() -> None:
    """Have every call of this process counted from now on; connections that are open already are not."""
    connect = sqlite3.dbapi2.connect

    def counted(database: Any, *arguments: Any, **options: Any) -> sqlite3.Connection:
        CALLS.make("sqlite open")
        made: sqlite3.Connection = connect(database, *arguments, **{"factory": _Connection, **options})
        return made

    sqlite3.dbapi2.connect = sqlite3.connect = counted  # type: ignore[assignment]
    send: Any = redis.connection.AbstractConnection.send_packed_command

    def sent(self: Any, command: Any, *arguments: Any, **options: Any) -> Any:
        what = _command(command)
        # What a new connection says first changes nothing anywhere.
        if not what.startswith(_GREETINGS):
            CALLS.make(f"redis {what}")
        return send(self, command, *arguments, **options)

    redis.connection.AbstractConnection.send_packed_command = sent  # type: ignore[method-assign]
    vars(outgoing)["os"] = _CountedOs()


def _command(packed: Any) -> str:
    """Name a command, or the commands of a pipeline, from what is sent."""
    whole = packed if isinstance(packed, bytes) else b"".join(bytes(part) for part in packed)
    words = [line for line in whole.split(b"\r\n") if line and not line.startswith((b"*", b"$"))]
    return b" ".join(words[:3])[:60].decode("utf-8", "replace")
