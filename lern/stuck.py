"""Locks that nobody seems to need: held under a token that no running step has, look after look.

A step locks before the ledger says that it runs, and unlocks after it says that it is done, so a lock may
be without its step for a moment. A holder that died is gone within the lock's time to live. What stands
longer is renewed by a process that hangs, or was set by hand: somebody has to look.

Redis key `{lern}:suspects`: HASH of "<token> <user>" → when it was first seen so (ms), kept an hour.
"""

from dataclasses import dataclass
from typing import Any, Final

from redis import Redis

from lern.ledger import Ledger
from lern.locks import Locks

SUSPECTS: Final = "{lern}:suspects"
_KEPT_SECONDS: Final = 3_600
_AT_ONCE: Final = 500


@dataclass(frozen=True, slots=True)
class StuckLock:
    """A user who is held by a step that does not run. `holder`: run and step in words; `since`: first seen so (ms)."""

    user: str
    token: str
    holder: str
    since: int


@dataclass(frozen=True)
class LockWatch:
    """Looks at all locks. What it suspects stands in Redis, so any process may look next."""

    locks: Locks
    ledger: Ledger
    memory: Redis
    patience: int
    """How long (ms) a lock may be without its step: more than a lock's life."""

    def look(self, now: int) -> list[StuckLock]:
        """Give the locks that have been without their step for too long at `now` (ms). Raises `Unreachable`."""
        # In this order: a step that begins in between is found running, one that ends is no suspect the next time.
        held = list(self.locks.all_held())
        running = self._running()
        idle = {f"{holder.token} {user}": (user, holder) for user, holder in held if holder.token not in running}
        since = self._remembered(set(idle), now)
        return [
            StuckLock(user, holder.token, holder.holder, since[name])
            for name, (user, holder) in sorted(idle.items())
            if now - since[name] >= self.patience
        ]

    def _running(self) -> set[str | None]:
        tokens: set[str | None] = set()
        after = ""
        while page := self.ledger.running(limit=_AT_ONCE, after=after):
            tokens.update(pending.token for pending in page)
            after = page[-1].run_id
        return tokens

    def _remembered(self, names: set[str], now: int) -> dict[str, int]:
        """Remember the suspects, forget those that are none any more; give since when each is one."""
        raw: Any = self.memory.hgetall(SUSPECTS)
        known = {name.decode(): int(at) for name, at in raw.items()}
        since = {name: known.get(name, now) for name in names}
        with self.memory.pipeline() as pipeline:
            pipeline.delete(SUSPECTS)
            if since:
                pipeline.hset(SUSPECTS, mapping={name: str(at) for name, at in since.items()})
                pipeline.expire(SUSPECTS, _KEPT_SECONDS)
            pipeline.execute()
        return since
