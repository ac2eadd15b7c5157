"""A connection to Redis on which what needs no answer is not waited for.

A step asks little of Redis, and mostly waits: for the other process to be woken and to be heard again. What is only
told (a lock is given back, a state is shown) is sent, and its answer is read before the next one is sent.
"""

import os
import threading
from collections.abc import Callable
from typing import Any

import redis

# One connection that was broken is found out and made anew; a second one means that Redis is away.
_TRIES = 2


class RedisLine:
    """One connection for each process, made at its first use; for any number of threads, one after the other.

    What is said on it takes effect in the order in which it was said. All of it must bear repeating.
    """

    def __init__(self, pool: redis.ConnectionPool) -> None:
        """Take the connection out of a pool, for good. The pool's timeouts hold; nothing is opened yet."""
        self._pool = pool
        self._begin()

    def ask(self, *command: str | int) -> Any:
        """Send a command and give its answer. Raises `redis.RedisError`, as Redis has answered or as it is away."""
        return self._repeatedly(lambda connection: self._asked(connection, command))

    def tell(self, *command: str | int) -> None:
        """Send a command. Whether Redis minds is not told; raises `redis.RedisError` if it cannot be sent."""
        self._repeatedly(lambda connection: self._told(connection, command))

    def _begin(self) -> None:
        # A child of a fork leaves its parent's connection alone, and its mutex, which may be held for ever.
        self._pid = os.getpid()
        self._mutex = threading.Lock()
        self._connection: Any = None
        self._owed = 0

    def _repeatedly(self, say: Callable[[Any], Any]) -> Any:
        if self._pid != os.getpid():
            self._begin()
        with self._mutex:
            for last in range(1, _TRIES + 1):
                try:
                    if self._connection is None:
                        self._connection = self._pool.get_connection()
                    return say(self._connection)
                except (redis.ConnectionError, redis.TimeoutError):
                    self._hang_up()
                    if last == _TRIES:
                        raise
                except BaseException as error:
                    # Interrupted halfway, nobody could tell any more whose answer comes next.
                    if not isinstance(error, redis.ResponseError):
                        self._hang_up()
                    raise
        raise AssertionError

    def _asked(self, connection: Any, command: tuple[str | int, ...]) -> Any:
        connection.send_command(*command)
        self._hear_out(connection)
        return connection.read_response()

    def _told(self, connection: Any, command: tuple[str | int, ...]) -> None:
        self._hear_out(connection)
        # What is sent to somebody who has hung up meanwhile is lost without a word.
        if connection.can_read():
            raise redis.ConnectionError("Redis has closed the connection")
        connection.send_command(*command)
        self._owed += 1

    def _hear_out(self, connection: Any) -> None:
        while self._owed:
            self._owed -= 1
            try:
                connection.read_response()
            except redis.ResponseError:
                # Of something that nobody waits for: what it was about expires, or is shown by the next one.
                continue

    def _hang_up(self) -> None:
        self._owed = 0
        if self._connection is not None:
            self._connection.disconnect()
