"""Per-user locks in Redis: two steps never hold one user.

What that rests on, and where it ends:

- A lock is a key with a time to live, set by `locks.lua` together with the step's other users or not at all.
  A lease is trusted for less than that time, counted from before the request was sent, on a clock that goes on
  while the machine sleeps. So a step that was stopped, or cut off from Redis, distrusts its lease before Redis
  gives the user to somebody else.
- One daemon thread per process renews. If it is late or dies, leases run out: nobody writes on a stale one.
- A Redis that was emptied, restarted or failed over may have forgotten locks whose holders are at work. It grants
  nothing for one TTL, in which those leases run out. All processes must therefore share one TTL.
- A lock belongs to the process that took it. A forked child neither holds nor frees it.
- Not covered: a lock key deleted by hand (or evicted: Redis must run with `noeviction`), and a Redis host whose
  wall clock jumps forward. Its holder learns of that at the next renewal, a third of the TTL later.

Keys and values: see `locks.lua`.
"""

import os
import random
import re
import secrets
import threading
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import redis
import structlog

from lern.errors import Busy, LockLost, Unreachable
from lern.lease import Lease, LeasePolicy, now
from lern.lock_script import LockScript, impatient, text

PREFIX: Final = "{lern}:user:"
POLL: Final = (0.010, 0.050)
_SCAN: Final = 500
_TOKEN: Final = re.compile(r"[\w-]{1,100}", re.ASCII)

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds a user: the token of the execution, and the run and step in words."""

    token: str
    holder: str


@dataclass(frozen=True, slots=True)
class _Refusal:
    """Why Redis said no, in words."""

    reason: str


class Held:
    """Users held by this process until `release`. Made by `Locks.hold`."""

    def __init__(self, locks: "Locks", users: frozenset[str], token: str, nonce: str, lease: Lease) -> None:
        """Take note of a lease that was granted. `token` and `nonce` are what the locks' values begin with."""
        self.users = users
        self.token = token
        self.name = f"{token} {nonce}"
        self.lease = lease
        self.pid = os.getpid()
        self.heart: _Heart | None = None
        self._locks = locks
        self._released = False

    def check(self) -> None:
        """Raise `LockLost` unless the users are certainly still ours. Asks nobody: cheap enough before every write."""
        if self._released:
            raise LockLost(f"the locks on {_listed(self.users)} have been released")
        if self.pid != os.getpid():
            raise LockLost(f"the locks on {_listed(self.users)} belong to the parent process {self.pid}")
        problem = self._locks.policy.problem(self.lease, now())
        if problem is not None:
            raise LockLost(f"the locks on {_listed(self.users)} are lost: {problem}")

    def release(self) -> None:
        """Free what is still ours of the users. Doing it again, or in a forked child, does nothing.

        If Redis cannot be reached the locks expire by themselves: a step that is done is not undone by that.
        """
        if self._released or self.pid != os.getpid():
            return
        self._released = True
        self._locks.let_go(self)


class Locks:
    """The locks on users in one Redis. May be made before a fork and used after it."""

    def __init__(self, client: redis.Redis, ttl: float) -> None:
        """Use a client's address, with timeouts of our own. `ttl`: seconds after which a dead holder's users are free.

        Opens no connection yet.
        """
        self.policy = LeasePolicy(ttl)
        self._client = impatient(client, self.policy.patience)
        self._script = LockScript(self._client)
        self._ttl_ms = str(round(ttl * 1000))
        self._heart = _Heart(self)

    @contextmanager
    def hold(self, users: Collection[str], token: str, wait: float, holder: str = "") -> Iterator[Held]:
        """Hold all of `users` for the length of a `with` block; they are renewed meanwhile.

        `token`: unlike any other execution's; letters, digits, `-`. `wait`: seconds to try for before it raises `Busy`,
        which names a user in the way and its holder; 0 tries once. `holder`: run and step, for who looks at Redis.
        Raises `Unreachable`. Losing a lock raises nothing by itself: call `Held.check` before every write.
        """
        held = self._wait(frozenset(users), token, wait, holder)
        try:
            yield held
        finally:
            held.release()

    def tokens(self, users: Collection[str]) -> dict[str, str]:
        """Give the tokens of those of `users` that are held. Raises `Unreachable`."""
        return {user: found.token for user, found in self.holders(users).items()}

    def holders(self, users: Collection[str]) -> dict[str, Holder]:
        """Say who holds those of `users` that are held, in one call. Raises `Unreachable`."""
        asked = list(users)
        if not asked:
            return {}
        try:
            values: Any = self._client.mget([PREFIX + user for user in asked])
        except redis.RedisError as error:
            raise Unreachable("locks", str(error)) from error
        return {user: _holder(value) for user, value in zip(asked, values, strict=True) if value is not None}

    def all_held(self) -> Iterator[tuple[str, Holder]]:
        """Go through every user that is held, and who holds it. In bounded memory. Raises `Unreachable`."""
        cursor = 0
        while True:
            try:
                scanned: Any = self._client.scan(cursor, match=f"{PREFIX}*", count=_SCAN)
            except redis.RedisError as error:
                raise Unreachable("locks", str(error)) from error
            cursor, keys = scanned
            yield from self.holders([text(key).removeprefix(PREFIX) for key in keys]).items()
            if not cursor:
                return

    def vouch(self) -> None:
        """Grant locks at once, though this Redis may look as if it had forgotten some.

        Only for one who knows that it has not: who has just made it, or whose stop and start of it nobody else has
        lived through. Otherwise two steps may hold one user. Locks that stand are left alone. Raises `Unreachable`.
        """
        self._script("vouch", ())

    def renew(self, held: Held) -> None:
        """Renew a lease and note the outcome on it. For the thread that does so."""
        asked = now()
        try:
            answer = self._script("renew", _keys(held.users), held.name, self._ttl_ms)
        except Unreachable as error:
            held.lease = held.lease.unanswered(asked)
            log.warning("locks not renewed", users=sorted(held.users), problem=str(error))
            return
        if isinstance(answer, int):
            held.lease = held.lease.renewed(asked)
        else:
            held.lease = held.lease.denied(_taken(held.users, answer))

    def let_go(self, held: Held) -> None:
        """Stop renewing and free the users. For `Held.release`."""
        if held.heart is not None:
            held.heart.remove(held)
        try:
            # Not waited for: that a step is done does not hang on it, and a lock that stays expires.
            self._script.tell("release", _keys(held.users), held.name)
        except Unreachable as error:
            log.warning("locks not released, they expire", users=sorted(held.users), problem=str(error))

    def _wait(self, users: frozenset[str], token: str, wait: float, holder: str) -> Held:
        # A nonce of its own for each hold: a request that a network delivers late, for an earlier hold of the same
        # token, can then neither free nor renew this one.
        nonce = secrets.token_hex(4)
        until = now() + wait
        while True:
            asked = now()
            refusal = self._ask(users, token, nonce, holder)
            if refusal is None:
                held = Held(self, users, token, nonce, Lease(asked, asked))
                self._begin(held)
                return held
            if now() >= until:
                raise Busy(refusal.reason)
            time.sleep(random.uniform(*POLL))  # noqa: S311 - jitter, no secret

    def _begin(self, held: Held) -> None:
        """Begin to renew a lease. One that was granted so late that it is worth nothing is given back."""
        held.heart = self._beating()
        held.heart.add(held)
        problem = self.policy.problem(held.lease, now())
        if problem is not None:
            held.release()
            raise Unreachable("locks", f"answered too late, {problem}")

    def _beating(self) -> "_Heart":
        # After a fork the parent's thread is not there, and its mutex may be held by a thread that is not there.
        if self._heart.pid != os.getpid():
            self._heart = _Heart(self)
        return self._heart

    def _ask(self, users: Collection[str], token: str, nonce: str, holder: str) -> _Refusal | None:
        if not users or not _TOKEN.fullmatch(token):
            raise ValueError(f"locks need users, and a token of letters and digits: {users!r}, {token!r}")
        answer = self._script("acquire", _keys(users), f"{token} {nonce}", holder, self._ttl_ms)
        if isinstance(answer, int):
            return None
        if text(answer[0]) == "grace":
            left = f"nobody gets a lock for {answer[1]} ms more"
            return _Refusal(f"the locks' Redis is new, or was emptied or restarted: {left}")
        return _Refusal(_taken(users, answer))


class _Heart:
    """Renews the leases of one process in one daemon thread, which lives while anything is held."""

    def __init__(self, locks: Locks) -> None:
        self.pid = os.getpid()
        self._locks = locks
        self._mutex = threading.Lock()
        self._held: set[Held] = set()
        self._thread: threading.Thread | None = None

    def add(self, held: Held) -> None:
        """Renew a lease from now on. A thread that died is replaced."""
        with self._mutex:
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._beat, name="lern-locks", daemon=True)
                self._thread.start()
            self._held.add(held)

    def remove(self, held: Held) -> None:
        """Renew it no more."""
        with self._mutex:
            self._held.discard(held)

    def _beat(self) -> None:
        while True:
            time.sleep(self._locks.policy.pulse)
            with self._mutex:
                if not self._held:
                    self._thread = None
                    return
                every = list(self._held)
            for held in every:
                if self._locks.policy.is_due(held.lease, now()):
                    self._locks.renew(held)


def _keys(users: Collection[str]) -> list[str]:
    """Give the users' keys in the one order that the script's answers count in."""
    return [PREFIX + user for user in sorted(users)]


def _taken(users: Collection[str], answer: list[Any]) -> str:
    place, value = answer
    user = sorted(users)[int(place) - 1]
    if not value:
        return f"user {user}: the lock is gone from Redis"
    found = _holder(value)
    return f"user {user} is held by {found.holder or 'another step'} (token {found.token})"


def _holder(value: bytes | str) -> Holder:
    token, _, rest = text(value).partition(" ")
    return Holder(token, rest.partition(" ")[2])


def _listed(users: Collection[str]) -> str:
    return ", ".join(sorted(users))
