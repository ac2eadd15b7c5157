"""Intake: an event becomes a run in the ledger, and the run's chain is sent. In that order.

The ledger comes first, so a kill at any point repeats work and loses none: what was entered and not
sent is sent by the next delivery of the same event, or by the sweeper.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from lern import events
from lern.events import BadEvent
from lern.ledger import Entered, NewDeadLetter, NewRun
from lern.mirror import RunState
from lern.services import Services
from lern.settings import Settings
from tasks.app import app, services
from tasks.step import now_ms
from workflows import workflow_for


@dataclass(frozen=True)
class Message:
    """One message as it came: from Kafka, from a line of a file (`offset` is its number), or from the API."""

    topic: str | None
    partition: int | None
    offset: int | None
    key: bytes | None
    value: bytes | None


@dataclass(frozen=True)
class Taken:
    """What became of a bunch of messages, in numbers and by run."""

    entered: tuple[Entered, ...]
    dead: int


def take_in(parts: Services, messages: Iterable[Message]) -> Taken:
    """Enter messages in the ledger, then send the chains of the runs that are queued."""
    runs: list[NewRun] = []
    dead: list[NewDeadLetter] = []
    for message in messages:
        judged = judge(message, parts.settings)
        if isinstance(judged, NewRun):
            runs.append(judged)
        else:
            dead.append(judged)
    entered = parts.ledger.enter(runs, dead, now_ms())
    send(parts, entered, {run.id: run.steps for run in runs})
    return Taken(tuple(entered), len(dead) + sum(e.refused is not None for e in entered))


def judge(message: Message, settings: Settings) -> NewRun | NewDeadLetter:
    """Make of a message the run that it starts, or the dead letter that it is."""
    try:
        event = events.parse(message.value)
        workflow = workflow_for(event, message.topic, settings)
        starting = workflow.read(event)
    except BadEvent as bad:
        return NewDeadLetter(
            topic=message.topic or "",
            partition=message.partition,
            offset=message.offset,
            key=message.key,
            value=message.value or b"",
            code=bad.code,
            field=bad.field,
            reason=bad.reason,
        )
    value = message.value or b""
    users = (starting.source, starting.target)
    return NewRun(
        id=events.run_id(workflow.name, value, starting.mid, users),
        workflow=workflow.name,
        steps=workflow.steps,
        source=starting.source,
        target=starting.target,
        event=value,
        event_time=starting.time or now_ms(),
        mid=starting.mid,
        topic=message.topic or settings.topic(workflow.topic),
        partition=message.partition,
        offset=message.offset,
        merge=workflow.name == "merge",
    )


def send(parts: Services, entered: Sequence[Entered], steps: Mapping[str, tuple[str, ...]]) -> None:
    """Send the chains of queued runs and show their state to other services."""
    for entry in entered:
        if entry.refused is not None:
            parts.mirror.show(entry.run_id, RunState("failed", reason=entry.refused.reason))
        elif entry.state == "queued":
            # Shown before it is sent: a quick worker's "running" must not be painted over.
            if entry.new:
                parts.mirror.show(entry.run_id, RunState("queued"))
            names = steps[entry.run_id]
            first = names.index(entry.first_step) if entry.first_step else 0
            parts.queue.send_chain(entry.run_id, entry.generation, names[first:])


@app.task(name="lern.intake")
def intake(value: str, topic: str | None, run_id: str | None) -> None:
    """Take in an event that another service sent through the Python API."""
    parts = services()
    taken = take_in(parts, [Message(topic, None, None, None, value.encode("utf-8"))])
    if taken.dead and not taken.entered and run_id is not None:
        parts.mirror.show(run_id, RunState("failed", reason="the event was refused; see the dead letters"))
