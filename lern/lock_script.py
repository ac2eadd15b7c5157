"""`locks.lua` in one Redis, asked by a client that waits no longer than a lease allows."""

from collections.abc import Collection
from importlib import resources
from typing import Any, Final

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from lern.errors import Unreachable
from lern.redis_line import RedisLine

Answer = int | list[Any]
OWN_KEYS: Final = ("{lern}:locks:server", "{lern}:locks:grace")
SOURCE: Final = resources.files("lern").joinpath("locks.lua").read_text(encoding="utf-8")


class LockScript:
    """The script's verbs; see `locks.lua` for their arguments and answers. Every one of them may be repeated."""

    def __init__(self, client: redis.Redis) -> None:
        """Use a client's connections; nothing is sent yet."""
        self._line = RedisLine(client.connection_pool)
        self._sha = ""

    def __call__(self, verb: str, keys: Collection[str], *args: str) -> Answer:
        """Carry out one verb on the users' keys. Raises `Unreachable`."""
        try:
            return self._run(_all_of(verb, keys, args))
        except redis.RedisError as error:
            raise Unreachable("locks", str(error)) from error

    def tell(self, verb: str, keys: Collection[str], *args: str) -> None:
        """Have one verb carried out and wait for no answer; before any later verb of this process it is.

        Raises `Unreachable` if it cannot be sent. A Redis that dies just then may not have carried it out.
        """
        try:
            self._line.tell("EVALSHA", self._sha or self._load(), *_all_of(verb, keys, args))
        except redis.RedisError as error:
            raise Unreachable("locks", str(error)) from error

    def _run(self, everything: tuple[str | int, ...]) -> Answer:
        try:
            answer: Answer = self._line.ask("EVALSHA", self._sha or self._load(), *everything)
        except redis.exceptions.NoScriptError:
            # A restarted Redis does not know the script any more.
            answer = self._line.ask("EVALSHA", self._load(), *everything)
        return answer

    def _load(self) -> str:
        self._sha = text(self._line.ask("SCRIPT LOAD", SOURCE))
        return self._sha


def _all_of(verb: str, keys: Collection[str], args: tuple[str, ...]) -> tuple[str | int, ...]:
    return (len(keys) + len(OWN_KEYS), *OWN_KEYS, *keys, verb, *args)


def impatient(client: redis.Redis, patience: float) -> redis.Redis:
    """Give a client of the same Redis that waits `patience` seconds at most for an answer, and asks twice at most.

    The second time is for a connection that a restart of Redis has broken. A client whose pool is of a special kind
    (Sentinel, blocking) stays as it is.
    """
    pool = client.connection_pool
    if type(pool) is not redis.ConnectionPool:
        return client
    own = {name: value for name, value in pool.connection_kwargs.items() if not name.startswith(("maint_", "orig_"))}
    timeouts = {name: min(own.get(name) or patience, patience) for name in ("socket_timeout", "socket_connect_timeout")}
    if issubclass(pool.connection_class, redis.UnixDomainSocketConnection):
        del timeouts["socket_connect_timeout"]
    options = {**own, **timeouts, "retry": Retry(NoBackoff(), 1)}
    return redis.Redis(connection_pool=redis.ConnectionPool(connection_class=pool.connection_class, **options))


def text(value: bytes | str) -> str:
    """Give text, whether the client decodes answers or not."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value
