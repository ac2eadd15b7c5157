"""What now? A pure function from an error to a decision. Nothing here sleeps, logs or talks to a server."""

from dataclasses import dataclass
from typing import Final

from lern.errors import BadRow, Busy, LernError, Refused, Stopping, TooEarly, TooLarge, Unreachable, WorkerLost

# Seconds. Looking whether a server is back costs little, and learners wait for it too.
LONGEST_WAIT: Final = 15.0


@dataclass(frozen=True)
class Wait:
    """Wait `seconds` for a server or a user; no attempt is used up."""

    seconds: float
    reason: str


@dataclass(frozen=True)
class Retry:
    """Try again after `seconds`; an attempt is used up."""

    seconds: float
    reason: str


@dataclass(frozen=True)
class GiveUp:
    """The run fails, with a stable code and the reason."""

    code: str
    reason: str


Decision = Wait | Retry | GiveUp


@dataclass(frozen=True)
class RetryPolicy:
    """Capped exponential delays with full jitter: `base` and `cap` in seconds, `attempts` in all."""

    attempts: int
    base: float
    cap: float

    def decide(self, error: Exception, attempt: int, waited: float, chance: float) -> Decision:
        """Decide on an error in the `attempt`-th attempt (from 1).

        `waited`: seconds since the run was entered, so that a long wait is looked at less often.
        `chance`: a number in [0, 1), the jitter.
        """
        reason = describe(error)
        if isinstance(error, Stopping):
            return Wait(0.0, reason)
        if isinstance(error, TooEarly):
            return Wait(error.seconds, reason)
        if isinstance(error, Busy | Unreachable):
            patience = min(self.cap, LONGEST_WAIT, max(self.base, waited / 4))
            return Wait(patience * (0.5 + chance / 2), reason)
        if isinstance(error, BadRow | Refused | TooLarge | WorkerLost):
            return GiveUp(error.code, reason)
        if attempt >= self.attempts:
            code = error.code if isinstance(error, LernError) else "UNEXPECTED"
            return GiveUp(code, f"gave up after {attempt} attempts: {reason}")
        return Retry(min(self.cap, self.base * 2 ** (attempt - 1)) * chance, reason)


def describe(error: BaseException) -> str:
    """Say what went wrong; an error that is not ours is named by its type as well."""
    return str(error) if isinstance(error, LernError) else f"{type(error).__name__}: {error}"
