"""What every step shares: locks, ledger, rolling forward, events, and what happens when it goes wrong.

`perform` shows the whole order. It knows nothing of Celery, so that a step can be run, and killed at
every call, without a broker; `tasks.app.step_task` turns its outcome into Celery's words.
"""

import logging
import random
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import structlog

from lern import chunks, events, metrics, sending
from lern.chunks import Carried, Chunk, ownership
from lern.errors import BadRow, Busy, LernError, Unreachable, Unsettled, WorkerLost
from lern.ledger import Chunk as SavedChunk
from lern.ledger import Concerned, Finished, LostTooOften, NewChunk, Stale
from lern.ledger import Run as LedgerRun
from lern.ledger.records import ACTIVE
from lern.locks import Held
from lern.mirror import RunState
from lern.outgoing import OutgoingEvent, Sent
from lern.retry import GiveUp, Retry, RetryPolicy, describe
from lern.services import Services
from lern.stopping import STOP

log = structlog.get_logger()

SEND_AT_ONCE: Final = 500
SHORTER: Final = 0.1
Result = dict[str, Any]
# Course → batch → contents: what a chunk touched, for the steps that come after the rows are gone.
Scope = dict[str, dict[str, list[str]]]
# A message can be delivered twice. The copy that comes to nothing must not touch what the other is doing.
_OVERTAKEN: Final = "another execution of this step is at work, or the run has moved on"


@dataclass(frozen=True)
class Done:
    """The step is done, now or before: the chain goes on."""

    result: Result


@dataclass(frozen=True)
class Ended:
    """The message has nothing to do here: the run has moved on. The chain ends."""

    reason: str


@dataclass(frozen=True)
class Aside:
    """The step comes back later, sent by the sweeper when `next_at` (ms) is due."""

    reason: str
    next_at: int


@dataclass(frozen=True)
class Failed:
    """The run has failed, for a reason that trying again cannot mend."""

    code: str
    reason: str


Outcome = Done | Ended | Aside | Failed


@dataclass
class Tally:
    """What the chunks that one execution has carried out add up to."""

    counts: Counter[str] = field(default_factory=Counter)
    warnings: dict[str, None] = field(default_factory=dict)

    def add(self, carried: Carried) -> None:
        """Add one chunk's counts and warnings."""
        self.counts.update(carried.counts)
        self.warnings.update(dict.fromkeys(carried.warnings))


@dataclass
class Work:
    """What a step's body has in hand while it holds its users."""

    services: Services
    run: LedgerRun
    step: str
    target: str
    held: Held
    # Nobody has begun this step before: what the ledger has of it is what we gave it, and need not be asked for.
    first: bool
    warnings: list[str] = field(default_factory=list)
    announced: bool = False
    _last_number: int | None = None
    _tally: Tally = field(default_factory=Tally)

    @property
    def source(self) -> str:
        """The account that is merged away."""
        return self.run.source

    def guard(self) -> None:
        """Stop here if the users are no longer ours. Called before every write."""
        self.held.check()

    def go_on(self) -> None:
        """Stop here if the worker is to stop: between two chunks, where nothing is half done."""
        STOP.check()

    def journal(
        self,
        kind: str,
        chunk: Chunk,
        scope: Scope | None = None,
        outgoing: tuple[OutgoingEvent, ...] = (),
        number: int | None = None,
    ) -> Carried:
        """Journal a chunk with its events, carry it out and mark it. Without a number it gets the next one."""
        return self.carry_out(self.plan(kind, chunk, scope, outgoing, number), chunk)

    def carry_out(self, saved: SavedChunk, chunk: Chunk) -> Carried:
        """Carry out and mark a chunk that was journalled just now."""
        # Somebody may have been there first; then that chunk counts, and ours was never written down.
        carried = self._carry_out(saved.id, chunk if saved.new else chunks.read(saved.kind, saved.payload))
        self._tally.add(carried)
        return carried

    def plan(
        self,
        kind: str,
        chunk: Chunk,
        scope: Scope | None = None,
        outgoing: tuple[OutgoingEvent, ...] = (),
        number: int | None = None,
    ) -> SavedChunk:
        """Journal a chunk and leave it to `carry_out_planned`, or to whoever finds it unfinished."""
        self.go_on()
        self.guard()
        ledger = self.services.ledger
        new = NewChunk(
            run_id=self.run.id,
            step=self.step,
            number=self._next_number() if number is None else number,
            kind=kind,
            source=self.run.source,
            target=self.target,
            payload=chunk.to_payload(),
            scope=scope,
        )
        saved = ledger.journal(new, outgoing, now_ms(), token=self.held.token)
        self.first = self.first and saved.new
        self.announced = self.announced or bool(outgoing)
        return saved

    def carry_out_planned(self) -> None:
        """Carry out the chunks of this step that are not marked yet, a few at a time in memory.

        One with a row that cannot be written does not keep the others: the first such error is raised at the end.
        """
        error: LernError | None = None
        for saved in self.services.ledger.chunks(self.run.id, self.step):
            if saved.state == "open":
                self.go_on()
                try:
                    self._tally.add(self._carry_out(saved.id, chunks.read(saved.kind, saved.payload)))
                except (BadRow, Unsettled) as caught:
                    error = error or caught
        if error is not None:
            raise error

    def tally(self) -> tuple[dict[str, int], list[str]]:
        """Add up the counts of the step's chunks, whichever attempt carried them out, and list their warnings."""
        if self.first:
            return dict(self._tally.counts), list(self._tally.warnings)
        return self.services.ledger.tally(self.run.id, self.step)

    def _next_number(self) -> int:
        """Count chunks: the ledger is asked once at most, since nobody else journals for this step now."""
        if self._last_number is None:
            self._last_number = 0 if self.first else self.services.ledger.next_number(self.run.id, self.step) - 1
        self._last_number += 1
        return self._last_number

    def roll_forward(self) -> None:
        """Settle what an earlier attempt, of this run or another, journalled and did not finish.

        Nothing may be planned over an unfinished chunk: its target rows are not yet where they belong,
        and its counters would be counted from the wrong place.
        """
        for saved in self.services.ledger.open_chunks(self.users, _kinds(self.services, self.run)):
            self.go_on()
            if saved.kind == ownership.KIND and saved.run_id == self.run.undo_of:
                # To be taken back, a transfer need not be carried out first; perhaps that is what has failed.
                continue
            log.info("rolls forward", chunk=saved.id, of_run=saved.run_id, of_step=saved.step)
            self._carry_out(saved.id, chunks.read(saved.kind, saved.payload))

    @property
    def users(self) -> frozenset[str]:
        """Everybody whom the step holds."""
        return self.held.users

    def _carry_out(self, chunk_id: int, chunk: Chunk) -> Carried:
        carried = chunk.carry_out(self.services.store, self.guard)
        for table, counts in carried.rows.items():
            metrics.rows_done(table, counts)
        self.guard()
        self.services.ledger.mark(
            chunk_id, {**carried.counts, "warnings": list(carried.warnings)}, carried.contributed, now_ms()
        )
        return carried


Body = Callable[[Work], Result]


def new_token() -> str:
    """Give a token for one execution of a step; a redelivered message gets another."""
    return uuid.uuid4().hex


def perform(
    services: Services, name: str, body: Body, run_id: str, generation: int, token: str | None = None
) -> Outcome:
    """Carry out one step of one run: lock, ask the ledger, roll forward, work, send, mark.

    `token`: of this execution, for one that begins again because the ledger could not be reached. Raises
    `Unreachable` and `Transient` of the ledger alone.
    """
    token = token or new_token()
    # The users are known when the run has been read, and stay on the step's last line.
    logged_with = structlog.contextvars.bound_contextvars(run=run_id, step=name, users=[])
    with logged_with, services.ledger.keep_connection():
        begun = time.monotonic()
        outcome, workflow = _attempt(services, name, body, run_id, generation, token)
        if isinstance(outcome, Failed):
            _announce_failure(services, run_id)
        seconds = time.monotonic() - begun
        metrics.step_ended(workflow, name, _word(outcome), seconds)
        _tell(services, name, run_id, outcome, seconds)
        return outcome


def _attempt(
    services: Services, name: str, body: Body, run_id: str, generation: int, token: str
) -> tuple[Outcome, str]:
    """Carry it out, and give the run's workflow besides, empty where the run could not be read."""
    workflow = ""
    with ExitStack() as until_decided:
        try:
            run = services.ledger.peek(run_id)
            if run is None:
                return Ended("no such run"), workflow
            workflow = run.workflow
            structlog.contextvars.bind_contextvars(users=sorted({run.source, run.target}))
            held, concerned = until_decided.enter_context(_hold(services, run, name, token))
            return _carry_on(services, name, body, run, generation, token, held, concerned), workflow
        except Exception as error:  # noqa: BLE001 - every error becomes a decision; the ledger's own is handed on
            # While the users are still held: a step that the ledger calls running and that holds nobody counts as dead.
            return _decide(services, name, run_id, generation, token, error), workflow


def _carry_on(
    services: Services,
    name: str,
    body: Body,
    run: LedgerRun,
    generation: int,
    token: str,
    held: Held,
    concerned: Concerned,
) -> Outcome:
    """Work while the users are held. The order is the guarantee."""
    ledger = services.ledger
    beginning = ledger.begin(run.id, name, generation, token, now_ms(), services.settings.max_lost)
    if isinstance(beginning, Stale):
        _show_end(services, beginning.run)
        return Ended(beginning.reason)
    if isinstance(beginning, Finished):
        return Done(beginning.result)
    if isinstance(beginning, LostTooOften):
        raise WorkerLost(f"workers died {beginning.lost} times in this step")
    # Between two steps nothing is new, unless the run was seen to wait, or to have ended, before.
    if beginning.run.position == 0 or run.reason is not None or run.generation > 1:
        show(services, run.id, RunState("running", name))
    work = Work(services, beginning.run, name, concerned.final, held, beginning.first)
    if concerned.unfinished:
        work.roll_forward()
    result = body(work)
    if work.warnings:
        result["warnings"] = work.warnings
    if work.announced or not work.first:
        deliver(services, run.id)
    held.check()
    is_last = name == run.steps[-1]
    following = ledger.finish(run.id, name, generation, token, result, now_ms(), durable=is_last)
    if following is None:
        show(services, run.id, RunState("succeeded"))
        metrics.run_ended(run.workflow, "succeeded")
    return Done(result)


@contextmanager
def _hold(services: Services, run: LedgerRun, name: str, token: str) -> Iterator[tuple[Held, Concerned]]:
    """Hold everybody concerned: source, named target, where that account went, and whoever an unfinished chunk names.

    Whom that is can only be known for sure while they are held, so look then, and take more until it fits.
    """
    users = {run.source, run.target}
    kinds = _kinds(services, run)
    # Who has waited before looks in only shortly: many runs that wait for one user must not fill the workers.
    wait = services.settings.lock_wait * (SHORTER if run.reason == Busy.code else 1)
    while True:
        with ExitStack() as until_here:
            with metrics.lock_wait(name):
                held = until_here.enter_context(services.locks.hold(users, token, wait, f"{run.id} {name}"))
            concerned = services.ledger.concerned(users, run.target, kinds)
            wanted = users | {concerned.final} | concerned.unfinished
            if wanted == users:
                yield held, concerned
                return
        users = wanted


def _kinds(services: Services, run: LedgerRun) -> frozenset[str]:
    """Give the kinds of chunks that may stand in a run's way: a merge touches no batch, a transfer nothing else."""
    about = services.ledger.peek(run.undo_of) if run.undo_of is not None else run
    return chunks.kinds(of_batches=about is not None and about.workflow == "ownership")


def deliver(services: Services, run_id: str | None, created_before: int | None = None) -> None:
    """Send what the outbox holds and mark what has arrived. Killed in between, it is sent again: recognisable by `mid`.

    A topic in trouble holds up no other; what the trouble was is raised when all the others are through.
    """
    trouble, troubled = Sent(), set[str]()
    while events_ := services.ledger.undelivered(run_id, SEND_AT_ONCE, created_before, but=troubled):
        sent = sending.send(services.sender, events_)
        services.ledger.delivered([event.mid for event in sent.confirmed], now_ms())
        for topic, number in Counter(event.topic for event in sent.confirmed).items():
            metrics.event_sent(topic, number)
        trouble += Sent(failed=sent.failed)
        troubled |= {event.topic for event, _ in sent.failed}
    trouble.check()


def _decide(services: Services, name: str, run_id: str, generation: int, token: str, error: Exception) -> Outcome:
    """Turn an error into a decision and enter that in the ledger. Raises what the ledger's own calls do."""
    if isinstance(error, Unreachable) and error.server == "ledger":
        raise error
    settings, ledger = services.settings, services.ledger
    run = ledger.peek(run_id)
    if run is None or run.step != name:
        return Ended(_OVERTAKEN)
    # Before the ledger said that the step is ours, nobody may be spoken for but a step that nobody has.
    mine = token if run.token == token else None
    if not isinstance(error, LernError):
        log.error("nobody foresaw this", exc_info=error)
    at = now_ms()
    policy = RetryPolicy(settings.max_attempts, settings.retry_base, settings.retry_cap)
    waited = (at - run.created_at) / 1000
    decision = policy.decide(error, run.attempts + 1, waited, random.random())  # noqa: S311 - jitter, no secret
    if isinstance(decision, GiveUp):
        announcement = _announcement(services, run_id, generation, decision)
        if not ledger.fail(run_id, name, generation, mine, at, decision.code, decision.reason, announcement):
            return Ended(_OVERTAKEN)
        metrics.run_ended(run.workflow, "failed")
        return Failed(decision.code, decision.reason)
    next_at = at + round(decision.seconds * 1000)
    counts = isinstance(decision, Retry)
    if not ledger.step_aside(run_id, name, generation, mine, at, next_at, _code(error), decision.reason, counts=counts):
        return Ended(_OVERTAKEN)
    metrics.retried(run.workflow, name, type(decision).__name__.lower())
    return Aside(decision.reason, next_at)


def _code(error: Exception) -> str:
    return error.code if isinstance(error, LernError) else "UNEXPECTED"


def _announcement(services: Services, run_id: str, generation: int, decision: GiveUp) -> OutgoingEvent | None:
    detail = services.ledger.run(run_id)
    topic = services.settings.topic("learning_events_failed")
    if detail is None:
        return None
    return events.failed(topic, run_id, generation, detail.event, decision.code, decision.reason)


def _announce_failure(services: Services, run_id: str) -> None:
    """Send what the ledger has planned with the failure. Nobody is held meanwhile: Kafka may be away."""
    try:
        deliver(services, run_id)
    except Exception as problem:  # noqa: BLE001 - the decision stands, whatever keeps it from being announced
        # The run has failed all the same, and whoever waits for it is told; the sweeper sends it later.
        log.warning("the failure is announced later", reason=describe(problem))


def _tell(services: Services, name: str, run_id: str, outcome: Outcome, seconds: float) -> None:
    """Say what came of it: one line, and the run's shadow for other services."""
    level = logging.ERROR if isinstance(outcome, Failed) else logging.INFO
    log.log(level, "step ended", outcome=_word(outcome), seconds=round(seconds, 4), **_details(outcome))
    if isinstance(outcome, Aside):
        show(services, run_id, RunState("waiting", name, outcome.reason))
    elif isinstance(outcome, Failed):
        show(services, run_id, RunState("failed", name, outcome.reason))


def _word(outcome: Outcome) -> str:
    return type(outcome).__name__.lower()


def show(services: Services, run_id: str, state: RunState) -> None:
    """Show a run's state to other services. It is a shadow of the ledger: that it fails stops nothing."""
    try:
        services.mirror.show(run_id, state)
    except Unreachable as error:
        log.warning("state not shown", reason=str(error))


def _show_end(services: Services, run: LedgerRun | None) -> None:
    """Show how a run has ended: who ended it may have died before it did, and this is its message once more."""
    if run is None or run.state in ACTIVE:
        return
    step, reason = (run.step, run.error) if run.state == "failed" else (None, None)
    show(services, run.id, RunState(run.state, step, reason))


def _details(outcome: Outcome) -> dict[str, Any]:
    match outcome:
        case Done(result):
            return {"rows": result}
        case Failed(code, reason):
            return {"code": code, "reason": reason}
        case Ended(reason) | Aside(reason, _):
            return {"reason": reason}


def now_ms() -> int:
    """Give the time, in milliseconds since 1970 UTC."""
    return time.time_ns() // 1_000_000
