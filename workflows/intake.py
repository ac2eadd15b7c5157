"""Intake: an event becomes a run in the ledger, the run's chain is sent, dead letters are announced. In that order.

The ledger comes first, so a kill at any point repeats work and loses none: what was entered and not
sent is sent by the next delivery of the same event, or by the sweeper.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NoReturn, TypeVar

import structlog
from redis import RedisError

from lern import events, metrics, sending
from lern.client import Chain
from lern.errors import SchemaMissing, Transient, Unreachable
from lern.events import BadEvent, Place
from lern.ledger import Entered, NewDeadLetter, NewRun
from lern.mirror import RunState
from lern.outgoing import OutgoingEvent
from lern.services import Services
from lern.settings import Settings
from tasks.app import app, give_back_when_stopping, services
from tasks.step import now_ms
from workflows import Skipped, workflow_for

log = structlog.get_logger()

T = TypeVar("T")

PAUSE: Final = 1.0
# Away, about to be well again, or to be mended by somebody: the same is tried once more.
PASSING: Final = (Unreachable, Transient, SchemaMissing, RedisError)

Wait = Callable[[Exception], None]
"""What is done about a server that is away: returns when it is to be asked again, or raises."""


def impatient(error: Exception) -> NoReturn:
    """Wait for nobody."""
    raise error


def insist(call: Callable[[], T], wait: Wait) -> T:
    """Do something, again and again as long as what keeps it from going right is passing."""
    while True:
        try:
            return call()
        except PASSING as error:
            wait(error)


@dataclass(frozen=True, slots=True)
class Message:
    """One message as it came: from Kafka, from a line of a file (`offset` is its number), or from the API."""

    topic: str | None
    partition: int | None
    offset: int | None
    key: bytes | None
    value: bytes | None


@dataclass
class Judged:
    """What a bunch of messages is: runs to be entered, dead letters, and what is meant for others."""

    runs: list[NewRun] = field(default_factory=list)
    dead: list[NewDeadLetter] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)


@dataclass(frozen=True)
class Taken:
    """What became of a bunch of messages: by run, in the order in which they came; dead letters with the refused."""

    entered: tuple[Entered, ...]
    letters: tuple[NewDeadLetter, ...]
    steps: Mapping[str, tuple[str, ...]]

    @property
    def dead(self) -> int:
        """How many messages became no run."""
        return len(self.letters)


def take_in(parts: Services, messages: Iterable[Message], wait: Wait = impatient) -> Taken:
    """Take in messages that are not Kafka's. The order is the guarantee; each part is done until it is, and then is.

    Were all of it begun anew, a dead letter would count as one that has come again.
    """
    judged = judge_all(messages, parts.settings)
    taken = insist(lambda: enter(parts, judged), wait)
    insist(lambda: send(parts, taken.entered, taken.steps), wait)
    insist(lambda: announce_or_leave(parts, taken), wait)
    count(judged, taken)
    return taken


def judge_all(messages: Iterable[Message], settings: Settings) -> Judged:
    """Decode and validate messages."""
    judged = Judged()
    for message in messages:
        match judge(message, settings):
            case NewRun() as run:
                judged.runs.append(run)
            case NewDeadLetter() as letter:
                judged.dead.append(letter)
            case skipped:
                judged.skipped.append(skipped)
    return judged


def judge(message: Message, settings: Settings) -> NewRun | NewDeadLetter | Skipped:
    """Make of a message the run that it starts, the dead letter that it is, or nothing of ours."""
    try:
        return _judged(message, settings)
    except BadEvent as bad:
        return _letter(message, bad)
    except Exception as error:
        # One event that nobody foresaw must not hold up all that come after it: its bytes are kept.
        log.exception("an event could not be judged", topic=message.topic, offset=message.offset)
        return _letter(message, BadEvent("UNEXPECTED", "", f"{type(error).__name__}: {error}"))


def _judged(message: Message, settings: Settings) -> NewRun | Skipped:
    event = events.parse(message.value)
    workflow = workflow_for(event, message.topic, settings)
    if isinstance(workflow, Skipped):
        return workflow
    starting = workflow.read(event)
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
        key=message.key,
        merge=workflow.name == "merge",
    )


def _letter(message: Message, bad: BadEvent) -> NewDeadLetter:
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


def enter(parts: Services, judged: Judged) -> Taken:
    """Enter runs and dead letters in the ledger, and tell what is to be sent."""
    entered = parts.ledger.enter(judged.runs, judged.dead, now_ms())
    refused = [_refused(run, entry) for run, entry in zip(judged.runs, entered, strict=True) if entry.refused]
    return Taken(tuple(entered), (*judged.dead, *refused), {run.id: run.steps for run in judged.runs})


def _refused(run: NewRun, entry: Entered) -> NewDeadLetter:
    """Give the dead letter that the ledger has made of a run that it refused."""
    refusal = entry.refused
    assert refusal is not None  # noqa: S101 - for the type checker: the caller has looked
    return NewDeadLetter(
        topic=run.topic,
        partition=run.partition,
        offset=run.offset,
        key=run.key,
        value=run.event,
        code=refusal.code,
        field=refusal.field,
        reason=refusal.reason,
    )


def send(parts: Services, entered: Sequence[Entered], steps: Mapping[str, tuple[str, ...]]) -> None:
    """Send the chains of queued runs and show their state to other services. `steps`: those of each run."""
    # Shown before they are sent: a quick worker's "running" must not be painted over.
    new = [entry.run_id for entry in entered if entry.new and entry.state == "queued"]
    if new:
        parts.mirror.show_all(new, RunState("queued"))
    for entry in entered:
        if entry.refused is not None:
            parts.mirror.show(entry.run_id, RunState("failed", reason=entry.refused.reason))
    # By the run's id: an event that comes twice in a bunch is one run and one chain.
    queued = {entry.run_id: entry for entry in entered if entry.state == "queued"}
    if queued:
        parts.queue.send_chains([_chain(entry, steps[entry.run_id]) for entry in queued.values()])


def _chain(entry: Entered, steps: tuple[str, ...]) -> Chain:
    first = steps.index(entry.first_step) if entry.first_step else 0
    return Chain(entry.run_id, entry.generation, steps[first:])


def announce(parts: Services, taken: Taken) -> None:
    """Send dead letters to the topic of failed events, confirmed. One that it takes in no form stays in the ledger."""
    if not taken.letters:
        return
    topic = parts.settings.topic("learning_events_failed")
    sent = sending.send(parts.sender, _announcements(parts, taken))
    metrics.event_sent(topic, len(sent.confirmed))
    for event in sent.too_large:
        log.warning("a dead letter is not announced, the ledger has it", topic=topic, bytes=len(event.value))
    sent.without_too_large().check()


def announce_or_leave(parts: Services, taken: Taken) -> None:
    """Send dead letters, or leave them to the sweeper: nobody else has to wait for a Kafka that is away."""
    try:
        announce(parts, taken)
    except (Unreachable, Transient) as error:
        log.warning("dead letters are announced later", reason=str(error))
        parts.ledger.leave(_announcements(parts, taken), now_ms())


def _announcements(parts: Services, taken: Taken) -> list[OutgoingEvent]:
    topic = parts.settings.topic("learning_events_failed")
    return [_announcement(topic, letter) for letter in taken.letters]


def _announcement(topic: str, letter: NewDeadLetter) -> OutgoingEvent:
    place = Place(letter.topic, letter.partition, letter.offset)
    return events.dead_letter(
        topic, place, letter.key, letter.value, BadEvent(letter.code, letter.field or "", letter.reason)
    )


def count(judged: Judged, taken: Taken) -> None:
    """Count what became of the messages."""
    for run, entry in zip(judged.runs, taken.entered, strict=True):
        if entry.refused is None:
            metrics.event_taken(run.topic, "run" if entry.new else "repeated")
    for letter in taken.letters:
        metrics.event_taken(letter.topic, "dead")
        metrics.dead_letter(letter.topic, letter.code)
    for skipped in judged.skipped:
        metrics.event_taken(skipped.topic, "skipped")


@app.task(name="lern.intake")
def intake(value: str, topic: str | None, run_id: str | None) -> None:
    """Take in an event that another service sent through the Python API.

    Until it stands in the ledger this message is all there is of it: what is away is waited for here.
    """
    give_back_when_stopping()
    parts = services()
    taken = take_in(parts, [Message(topic, None, None, None, value.encode("utf-8"))], patient)
    if taken.dead and not taken.entered and run_id is not None:
        state = RunState("failed", reason="the event was refused; see the dead letters")
        insist(lambda: parts.mirror.show(run_id, state), patient)


def patient(error: Exception) -> None:
    """Wait in a worker; if that is to stop, another one waits."""
    log.warning("waits to take an event in", reason=str(error))
    time.sleep(PAUSE)
    give_back_when_stopping()
