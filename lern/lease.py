"""How long a lock may be trusted and when it is renewed: frozen values, the time passed in."""

import time
from dataclasses import dataclass, replace
from typing import Final

# CLOCK_MONOTONIC stands still while a machine is suspended; the locks in Redis expire meanwhile.
CLOCK: Final = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def now() -> float:
    """Give the time that leases are counted in: seconds, never going back."""
    return time.clock_gettime(CLOCK)


@dataclass(frozen=True, slots=True)
class Lease:
    """What is known of a lock that was granted. Times in seconds of a clock that never goes back.

    `confirmed`: when the last request was sent that Redis said yes to. `tried`: when the last one was sent.
    `lost`: why the lock is ours no longer; None while nothing says so.
    """

    confirmed: float
    tried: float
    lost: str | None = None

    def renewed(self, asked: float) -> "Lease":
        """Give the lease after Redis said yes to a request sent at `asked`. What was lost stays lost."""
        return replace(self, confirmed=asked, tried=asked)

    def unanswered(self, asked: float) -> "Lease":
        """Give the lease after a request sent at `asked` had no answer."""
        return replace(self, tried=asked)

    def denied(self, reason: str) -> "Lease":
        """Give the lease after Redis said no."""
        return replace(self, lost=reason)


@dataclass(frozen=True, slots=True)
class LeasePolicy:
    """When to renew a lease and how long to trust it. `ttl`: seconds that a lock stands in Redis."""

    ttl: float

    @property
    def pulse(self) -> float:
        """Seconds between two looks at which leases are due; also the pause after a renewal had no answer."""
        return self.ttl / 12

    @property
    def patience(self) -> float:
        """Seconds to wait for Redis: an answer must leave time to ask once more before the lease runs out."""
        return self.ttl / 3

    @property
    def trust(self) -> float:
        """Seconds to trust a lease: less than it has, so that a write begun after the last look can end in time."""
        return self.ttl * 0.9

    def is_due(self, lease: Lease, now: float) -> bool:
        """Say whether to renew now: after a third of the TTL, and not at once again when there was no answer."""
        if lease.lost is not None:
            return False
        return now - lease.confirmed >= self.ttl / 3 and now - lease.tried >= self.pulse

    def problem(self, lease: Lease, now: float) -> str | None:
        """Say why the lease must not be trusted at `now`; None if it may be."""
        if lease.lost is not None:
            return lease.lost
        age = now - lease.confirmed
        return None if age < self.trust else f"not renewed for {age:.1f} s"
