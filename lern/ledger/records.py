"""What goes into the ledger and what comes out, as frozen values.

Every time is an int of milliseconds since 1970 UTC and is passed in: the ledger reads no clock.
"""

import json
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, Final, Literal

import msgpack

from lern.store.tables import Key

RunState = Literal["queued", "running", "waiting", "succeeded", "failed", "undone"]
StepState = Literal["pending", "queued", "running", "waiting", "succeeded", "failed"]
Outcome = Literal["succeeded", "retry", "waiting", "failed", "lost"]
ChunkState = Literal["open", "done"]
DeadState = Literal["open", "replayed"]

ACTIVE: Final[frozenset[RunState]] = frozenset({"queued", "running", "waiting"})
"""The states of a run that has not ended."""

Json = dict[str, Any]

Contributions = Mapping[tuple[str, Key], Mapping[str, int] | None]
"""Counters that source rows have given, by (table, identity); None: nothing is to be remembered."""

MERGE_CIRCLE: Final = "MERGE_CIRCLE"
ALREADY_MERGED: Final = "ALREADY_MERGED"
UNKNOWN_RUN: Final = "UNKNOWN_RUN"
NOT_ENDED: Final = "NOT_ENDED"
LATER_MERGE: Final = "LATER_MERGE"
NOT_STANDING: Final = "NOT_STANDING"


@dataclass(frozen=True, slots=True)
class NewRun:
    """A run to be entered.

    `id` is deterministic (uuid5 of workflow, mid and users): entering it again is no new run. `merge`:
    the source is merged away, so circles are refused and the account is remembered as merged. A workflow
    of one account names it as source and target. `topic` is "" and `partition`, `offset`, `key` are None
    for an event that did not come from Kafka. `undo_of`: the run that this one takes back. `sweeps`: the
    merge whose late rows this one brings along; it is entered only while that merge stands.
    """

    id: str
    workflow: str
    steps: tuple[str, ...]
    source: str
    target: str
    event: bytes
    event_time: int
    mid: str | None = None
    topic: str = ""
    partition: int | None = None
    offset: int | None = None
    key: bytes | None = None
    merge: bool = False
    undo_of: str | None = None
    sweeps: str | None = None


@dataclass(frozen=True, slots=True)
class NewDeadLetter:
    """An event that can never become a run. `field` names what is wrong in it, as `edata.toAccountId`."""

    topic: str
    value: bytes
    code: str
    reason: str
    field: str | None = None
    key: bytes | None = None
    partition: int | None = None
    offset: int | None = None


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a run was not entered. `field` is the event's field that is to blame ("" for an undo)."""

    code: str
    field: str
    reason: str


@dataclass(frozen=True, slots=True)
class Entered:
    """What became of a `NewRun`, or of a retry.

    `new`: this call entered it. `first_step`: the step to publish next, None when the run has ended.
    `refused`: then there is no run of this id, `state` is "refused", and (but for an undo) the event has
    become a dead letter.
    """

    run_id: str
    state: RunState | Literal["refused"]
    generation: int
    first_step: str | None
    new: bool
    refused: Refusal | None = None


@dataclass(frozen=True, slots=True)
class Run:
    """One run. `step` is the step at work or to come next; None once the last has succeeded.

    Of that step: its state, `attempts` (failed ones that count), `lost` (times its worker died), `token`
    of the execution that holds it, when it was queued, when it began, when it is due (waiting).
    `reason` (a code) and `error` (text) say why the run waits or has failed.
    """

    number: int
    id: str
    workflow: str
    steps: tuple[str, ...]
    state: RunState
    generation: int
    step: str | None
    step_state: StepState | None
    attempts: int
    lost: int
    token: str | None
    queued_at: int | None
    started_at: int | None
    next_at: int | None
    reason: str | None
    error: str | None
    source: str
    target: str
    merge: bool
    undo_of: str | None
    event_time: int
    mid: str | None
    topic: str
    partition: int | None
    offset: int | None
    warnings: tuple[str, ...]
    created_at: int
    updated_at: int
    ended_at: int | None

    @property
    def position(self) -> int:
        """How many steps are done."""
        return len(self.steps) if self.step is None else self.steps.index(self.step)

    @property
    def remaining(self) -> tuple[str, ...]:
        """The steps still to do, the current one first."""
        return self.steps[self.position :]

    def state_of(self, step: str) -> StepState:
        """Give the state of one of the run's steps. Raises ValueError for a step that is none of its."""
        place, at = self.steps.index(step), self.position
        if place != at:
            return "succeeded" if place < at else "pending"
        return self.step_state or "pending"


@dataclass(frozen=True, slots=True)
class Attempt:
    """One execution of a step that has ended. `number` counts 1, 2, 3 … by the attempts that count."""

    step: str
    generation: int
    number: int
    token: str | None
    started_at: int | None
    ended_at: int
    outcome: Outcome
    reason: str | None
    error: str | None
    result: Json | None


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a run, as `lern runs show` prints it. `result` is that of its last success."""

    name: str
    position: int
    state: StepState
    attempts: int
    lost: int
    queued_at: int | None
    started_at: int | None
    ended_at: int | None
    next_at: int | None
    reason: str | None
    error: str | None
    result: Json | None

    @property
    def tries(self) -> int:
        """How often it was begun: attempts that failed, workers that died, and the one at work or done."""
        return self.attempts + self.lost + (self.state in {"running", "succeeded"})


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """Who did what and when, to a run or to a dead letter."""

    id: int
    at: int
    who: str
    action: str
    run_id: str | None
    dead_id: int | None
    detail: str | None


@dataclass(frozen=True, slots=True)
class RunDetail:
    """A run with all that belongs to it. `undo_runs`: the ids of the runs that take it back."""

    run: Run
    event: bytes
    steps: tuple[Step, ...]
    attempts: tuple[Attempt, ...]
    audit: tuple[AuditEntry, ...]
    undo_runs: tuple[str, ...]

    def record(self) -> dict[str, Any]:
        """Give all of it as one JSON object, as `lern runs show --json` and Flower's API have it; bytes stay bytes."""
        return {
            **asdict(self.run),
            "event": self.event,
            "steps": [asdict(step) for step in self.steps],
            "attempts_of_steps": [asdict(attempt) for attempt in self.attempts],
            "audit": [asdict(entry) for entry in self.audit],
            "undo_runs": list(self.undo_runs),
        }


@dataclass(frozen=True, slots=True)
class Started:
    """The step is this token's now. `attempt` counts from 1 by the attempts that count.

    `first`: nobody has ever begun this step of this run before, so that nothing of it is in journal or outbox.
    """

    run: Run
    attempt: int
    lost: int
    first: bool


@dataclass(frozen=True, slots=True)
class Finished:
    """The step has succeeded before, and the run stands at a later one. The message goes on to that."""

    run: Run
    result: Json


@dataclass(frozen=True, slots=True)
class Stale:
    """The message is of no use any more; `run` is None when the ledger does not know it."""

    reason: str
    run: Run | None


@dataclass(frozen=True, slots=True)
class LostTooOften:
    """The step is this token's now, but its workers died more often than allowed: it is to be failed."""

    run: Run
    attempt: int
    lost: int


Begin = Started | Finished | Stale | LostTooOften


@dataclass(frozen=True, slots=True)
class Pending:
    """A step that the sweeper may have to send. `remaining` starts with it."""

    run_id: str
    workflow: str
    step: str
    generation: int
    token: str | None
    source: str
    target: str
    queued_at: int | None
    started_at: int | None
    next_at: int | None
    remaining: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class NewChunk:
    """A chunk to be journalled. `payload` and `scope` are anything that JSON can hold (NaN included)."""

    run_id: str
    step: str
    number: int
    kind: str
    source: str
    target: str
    payload: Any
    scope: Any = None


@dataclass(frozen=True)
class Chunk:
    """A journalled chunk.

    `new`: the call that returned it has written it; otherwise it was there, and its payload counts, not
    the one that the caller has planned. Payload and scope stay compressed until they are asked for.
    """

    id: int
    run_id: str
    step: str
    number: int
    kind: str
    source: str
    target: str
    state: ChunkState
    counts: Json
    created_at: int
    ended_at: int | None
    packed_payload: bytes = field(repr=False)
    packed_scope: bytes | None = field(repr=False)
    new: bool = False

    @cached_property
    def payload(self) -> Any:
        """What the chunk read and is about to do."""
        return unpacked(self.packed_payload)

    @cached_property
    def scope(self) -> Any:
        """What later steps need to know of its rows; None if it was given none."""
        return None if self.packed_scope is None else unpacked(self.packed_scope)


@dataclass(frozen=True, slots=True)
class MergedAccount:
    """An account that was merged away. `target` is where it went then; that one may have gone on since."""

    source: str
    target: str
    run_id: str
    merged_at: int


@dataclass(frozen=True, slots=True)
class Pruned:
    """How many runs and replayed dead letters the ledger has let go of."""

    runs: int
    letters: int


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """An event that became no run. `count`: how often it came. `hash`: SHA-256 of its bytes, in hex."""

    id: int
    topic: str
    hash: str
    partition: int | None
    offset: int | None
    key: bytes | None
    value: bytes
    code: str
    field: str | None
    reason: str
    count: int
    first_at: int
    last_at: int
    state: DeadState
    run_id: str | None


# How an object of JSON begins; msgpack's begin otherwise.
_OBJECT: Final = b"{"


def packed(value: Any) -> bytes:
    """Compress a value that JSON could keep, NaN included. Level 1: nearly as small as 6, in a third of the time."""
    return zlib.compress(msgpack.packb(value, unicode_errors="surrogatepass"), 1)


def unpacked(blob: bytes) -> Any:
    """Give back what `packed` compressed, in this version or in the first ones, which wrote objects of JSON."""
    data = zlib.decompress(blob)
    if data.startswith(_OBJECT):
        return json.loads(data)
    return msgpack.unpackb(data, unicode_errors="surrogatepass")


def text_of(value: Any) -> str:
    """Give a value as JSON text, in ASCII alone, so that no database refuses a character of it."""
    return json.dumps(value, separators=(",", ":"))


_LONGEST_TEXT: Final = 8_000


def safe(text: str | None) -> str | None:
    """Make free text storable: PostgreSQL refuses NUL, every encoder refuses half a surrogate pair."""
    if text is None:
        return None
    return text[:_LONGEST_TEXT].replace("\x00", "\\x00").encode("utf-8", "backslashreplace").decode("utf-8")
