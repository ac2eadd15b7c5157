"""A private Redis for one data directory, so that nothing has to be installed or configured.

Files in `<data_dir>/redis/` (0700):

    redis.json    port and password (0600), written before the server starts: whoever crashes, it can be adopted
    redis.conf    what it was started with (0600: the password is in it, not in the process list)
    start.lock    held while somebody starts, joins or leaves: one at a time
    users.lock    held, shared, by every process that uses the server; who leaves last ends it
    server.lock   held by the server itself as long as it lives: two never write one directory
    redis.log, redis.pid, appendonly.aof    the server's own

All three locks end with the processes that hold them, so a crash leaves nothing to clear away.
"""

import atexit
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from lern.locks import Locks
from lern.redis_server import Address, EmbeddedError, RedisServer, open_lock, try_lock

__all__ = ["EmbeddedError", "EmbeddedRedis", "ensure_redis"]


class EmbeddedRedis:
    """This process's use of the private Redis of a data directory.

    As a context manager, or by `join` and `leave`. The server is started by who comes first (and adopted, where a
    crash has left it running) and ended by who leaves last, whoever started it. Every process that works with the
    server must join: after a restart of the server the only user concludes that no lock has been forgotten whose
    holder is at work. A forked child shares its parent's use; a process that is started joins by itself.
    """

    def __init__(self, data_dir: Path) -> None:
        """Name the data directory; it is made when joining."""
        self.directory = data_dir.resolve() / "redis"
        self._server = RedisServer(self.directory)
        self._address: Address | None = None
        self._using: int | None = None
        self._pid = os.getpid()

    @property
    def users_lock(self) -> Path:
        """The file that every user of the server holds, shared."""
        return self.directory / "users.lock"

    @property
    def url(self) -> str:
        """The server's address. Raises `EmbeddedError` before joining and after leaving."""
        if self._address is None:
            raise EmbeddedError(f"{self.directory}: this process does not use the private Redis")
        return self._address.url

    def join(self) -> str:
        """Use the server, starting it if need be; returns its URL. Again: only a server that died is started anew.

        Raises `EmbeddedError` if it cannot be started.
        """
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self._one_at_a_time():
            alone = self._begin_use()
            try:
                self._address = self._server.running() or self._started(alone=alone)
            except BaseException:
                self._end_use()
                raise
            return self._address.url

    def leave(self) -> None:
        """Use the server no more; the last user ends it. Again, or in a forked child, this does nothing."""
        if self._using is None or self._pid != os.getpid():
            return
        with self._one_at_a_time():
            if try_lock(self._using):
                self._server.stop()
            self._end_use()

    def end_unused(self) -> bool:
        """End a server that a crash has left without users; tells whether there was one."""
        if not self.directory.exists():
            return False
        with self._one_at_a_time():
            users = open_lock(self.users_lock)
            try:
                return try_lock(users) and self._server.stop()
            finally:
                os.close(users)

    def __enter__(self) -> Self:
        """Join."""
        self.join()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave."""
        self.leave()

    @contextmanager
    def _one_at_a_time(self) -> Iterator[None]:
        lock = open_lock(self.directory / "start.lock")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)

    def _begin_use(self) -> bool:
        """Become a user; True if nobody else is one."""
        if self._using is not None:
            return False
        self._using = open_lock(self.users_lock)
        alone = try_lock(self._using)
        fcntl.flock(self._using, fcntl.LOCK_SH)
        return alone

    def _end_use(self) -> None:
        if self._using is not None:
            os.close(self._using)
        self._using = self._address = None

    def _started(self, *, alone: bool) -> Address:
        address = self._server.start()
        if alone:
            with address.client() as client:
                Locks(client, ttl=1.0).vouch()
        return address


def ensure_redis(data_dir: Path) -> str:
    """Use the private Redis of a data directory until this process ends; returns its URL, database 0.

    Raises `EmbeddedError`. A server that has died meanwhile is started anew.
    """
    directory = data_dir.resolve()
    if directory not in _used:
        _used[directory] = EmbeddedRedis(directory)
        atexit.register(_used[directory].leave)
    return _used[directory].join()


_used: dict[Path, EmbeddedRedis] = {}
