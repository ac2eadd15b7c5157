"""What people do about runs and dead letters: retry, try now, undo, replay. Each once, whoever else asks for it.

The ledger comes first, by compare-and-set, with the name of who did it; the message to the workers after that.
What is killed or loses the broker in between is in the ledger, and sent by the sweeper.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from lern import events
from lern import undo as undoing
from lern.client import Chain
from lern.errors import Refused, Unreachable
from lern.ledger import DeadLetter, Pending, Run
from lern.ledger.audit import Act
from lern.ledger.records import AuditEntry
from lern.mirror import RunState
from lern.services import Services

# What a worker writes into a letter's audit when it becomes no run this time either; the reason is the detail.
REFUSED_AGAIN: Final = "refused again"


@dataclass(frozen=True, slots=True)
class Started:
    """A run that somebody has set going. `sent`: its message is in the queue; else the sweeper will send it."""

    run: Run
    sent: bool = True


@dataclass(frozen=True, slots=True)
class Asked:
    """A dead letter, as it stood, that is to be taken in again. `since`: the last entry of its audit before that."""

    letter: DeadLetter
    since: int


def retry(parts: Services, run_id: str, who: str, now: int, step: str | None = None) -> Started:
    """Try a run again where it failed, or from a step on. Raises `Refused` with the reason, `now` in ms."""
    return send(parts, [retried(parts, run_id, who, now, step)])[0]


def retried(parts: Services, run_id: str, who: str, now: int, step: str | None = None) -> Run:
    """Note in the ledger that a run is to be tried again; it is still to be sent. Raises `Refused`."""
    parts.ledger.retry(run_id, now, who, step)
    return _run(parts, run_id)


def hurry(parts: Services, run_id: str, who: str, now: int) -> Started:
    """Try a waiting run at once instead of when it is due. Raises `Refused` if it does not wait (any more)."""
    return send(parts, [hurried(parts, run_id, who, now)])[0]


def hurried(parts: Services, run_id: str, who: str, now: int) -> Run:
    """Note in the ledger that a waiting run is tried now; it is still to be sent. Raises `Refused`."""
    run = _run(parts, run_id)
    if run.state != "waiting" or run.step is None:
        raise Refused(f"run {run_id} is {run.state}: only a waiting one can be tried now")
    if not parts.ledger.requeue(_pending(run, run.step), now, Act(now, who, "try now", run_id=run_id, detail=run.step)):
        raise Refused(f"run {run_id} has gone on by itself in this moment")
    return _run(parts, run_id)


def undo(parts: Services, run_id: str, who: str, now: int) -> Started:
    """Take a merge or a transfer back, by a run of its own, which is given. Raises `Refused` with the reason."""
    run = _run(parts, run_id)
    if run.state == "undone":
        raise Refused(f"run {run_id} is undone already")
    entered = undoing.request(parts.ledger, run_id, now, who)
    if not entered.new:
        raise Refused(f"run {run_id} is being undone by run {entered.run_id}, which is {entered.state}")
    return send(parts, [_run(parts, entered.run_id)])[0]


def send(parts: Services, runs: Sequence[Run]) -> list[Started]:
    """Send the chains of queued runs, and tell whether the workers have them."""
    try:
        # Shown before they are sent: what waits for the run must not read how it ended the last time.
        parts.mirror.show_all([run.id for run in runs], RunState("queued"))
        parts.queue.send_chains([Chain(run.id, run.generation, run.remaining) for run in runs])
    except Unreachable:
        return [Started(run, sent=False) for run in runs]
    return [Started(run) for run in runs]


def replay(parts: Services, dead_id: int, who: str, corrected: bytes | None = None) -> Asked:
    """Have a dead letter taken in again, or an event that was made of it; a worker does it, once, and marks it.

    `became` tells what has come of it. Raises `Refused`, `Unreachable`. Sent again before a worker has come to it,
    it is still taken in once.
    """
    letter = parts.ledger.dead_letter(dead_id)
    if letter is None:
        raise Refused(f"there is no dead letter {dead_id}")
    if letter.state != "open":
        raise Refused(f"dead letter {dead_id} was replayed already, as run {letter.run_id}")
    if corrected is not None:
        _require_json(corrected)
    done = parts.ledger.audit_of_dead(dead_id)
    parts.queue.send_replay(dead_id, who, corrected)
    return Asked(letter, done[-1].id if done else 0)


def became(parts: Services, asked: Asked) -> DeadLetter | None:
    """Give a letter that was taken in again, None while no worker has come to it. Raises `Refused` with the reason."""
    letter = parts.ledger.dead_letter(asked.letter.id)
    if letter is None or letter.state == "replayed":
        return letter or asked.letter
    if (entry := refused_since(parts.ledger.audit_of_dead(letter.id), asked.since)) is not None:
        raise Refused(f"it was refused again: {entry.detail}")
    return None


def refused_since(done: Sequence[AuditEntry], since: int) -> AuditEntry | None:
    """Find among what was done about a letter that it was refused again, after entry `since`."""
    return next((entry for entry in reversed(done) if entry.id > since and entry.action == REFUSED_AGAIN), None)


def _require_json(event: bytes) -> None:
    """Refuse at once what is no event whatever it is about; the rest is the worker's to judge."""
    try:
        events.parse(event)
    except events.BadEvent as bad:
        raise Refused(f"this is no event: {bad}") from bad


def _run(parts: Services, run_id: str) -> Run:
    run = parts.ledger.peek(run_id)
    if run is None:
        raise Refused(f"there is no run {run_id}")
    return run


def _pending(run: Run, step: str) -> Pending:
    return Pending(
        run.id,
        run.workflow,
        step,
        run.generation,
        run.token,
        run.source,
        run.target,
        run.queued_at,
        run.started_at,
        run.next_at,
        run.remaining,
    )
