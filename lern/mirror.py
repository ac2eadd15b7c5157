"""A run's state in Redis, for services that know only the broker's address.

Key `{lern}:run:<id>`: a JSON object with `state` and, where there is one, `step`, `reason`; kept 7 days.
The ledger is the truth; this is its shadow, written after it.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

from lern.errors import Unreachable

if TYPE_CHECKING:
    from redis import Redis

    from lern.redis_line import RedisLine

KEPT_SECONDS: Final = 7 * 24 * 3600
ENDED: Final = frozenset({"succeeded", "failed", "undone"})


@dataclass(frozen=True)
class RunState:
    """What is known of a run from outside."""

    state: str
    step: str | None = None
    reason: str | None = None

    @property
    def ended(self) -> bool:
        """Whether the run has come to its end."""
        return self.state in ENDED


class Mirror:
    """Writes and reads the shadow of runs' states."""

    def __init__(self, client: "Redis") -> None:
        """Use a client of the broker's Redis."""
        self._client = client
        self._line: RedisLine | None = None

    def show(self, run_id: str, state: RunState) -> None:
        """Write a state. Its answer is waited for only if the run has ended: that is what others wait to hear."""
        from redis import RedisError

        from lern.redis_line import RedisLine

        if self._line is None:
            self._line = RedisLine(self._client.connection_pool)
        try:
            say = self._line.ask if state.ended else self._line.tell
            say("SET", _key(run_id), _written(state), "EX", KEPT_SECONDS)
        except RedisError as error:
            raise Unreachable("broker", str(error)) from error

    def show_all(self, run_ids: Sequence[str], state: RunState) -> None:
        """Write the same state for many runs, in one round trip."""
        from redis import RedisError

        try:
            with self._client.pipeline(transaction=False) as pipeline:
                for run_id in run_ids:
                    pipeline.set(_key(run_id), _written(state), ex=KEPT_SECONDS)
                pipeline.execute()
        except RedisError as error:
            raise Unreachable("broker", str(error)) from error

    def seen(self, run_id: str) -> RunState | None:
        """Read a run's state; None if nothing was written yet, or it has been forgotten."""
        raw = self._call("get", _key(run_id))
        return RunState(**json.loads(raw)) if raw else None

    def _call(self, command: str, *args: Any, **options: Any) -> Any:
        from redis import RedisError

        try:
            return getattr(self._client, command)(*args, **options)
        except RedisError as error:
            raise Unreachable("broker", str(error)) from error


def _written(state: RunState) -> str:
    return json.dumps({name: value for name, value in asdict(state).items() if value is not None})


def _key(run_id: str) -> str:
    return f"{{lern}}:run:{run_id}"
