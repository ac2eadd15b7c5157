"""When to stop reading events because the workers lag behind, and when to go on."""

from dataclasses import dataclass


@dataclass(frozen=True)
class BackpressurePolicy:
    """Stop at `pause_at` messages in the queue, go on at `resume_at` or fewer; until then look every `look_every` s.

    Far apart, so that a queue that hovers around one of them does not switch with every message.
    """

    pause_at: int
    resume_at: int
    look_every: float


@dataclass
class Backpressure:
    """Where one reader stands. It reads no clock: `now` is passed in, in seconds, of any monotonic clock."""

    policy: BackpressurePolicy
    paused: bool = False
    looked_at: float | None = None

    def should_look(self, now: float) -> bool:
        """Whether the queue's length is to be looked up again: before every batch, and while paused now and then."""
        return not self.paused or self.looked_at is None or now - self.looked_at >= self.policy.look_every

    def looked(self, now: float, length: int) -> bool:
        """Take note of the queue's length and tell whether reading is paused."""
        self.looked_at = now
        self.paused = length > self.policy.resume_at if self.paused else length >= self.policy.pause_at
        return self.paused
