"""One run: what it is, how far it came, what it changed, and what can be done about it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from tornado.web import HTTPError, authenticated

from lern import actions, undo
from lern.errors import Refused
from lern.flower import changes, words
from lern.flower.page import Page, now_ms, number
from lern.ledger import Attempt, ChunkHead, Ledger, Run, RunDetail, Step
from lern.ledger.records import ACTIVE

CHUNKS: Final = 100
ROWS: Final = 25
_SMALLEST: Final = 0.4


@dataclass(frozen=True, slots=True)
class Bar:
    """An execution of a step on the time line: where it begins and how wide it is, in per cent."""

    left: float
    width: float
    outcome: str
    title: str


@dataclass(frozen=True, slots=True)
class Line:
    """A step on the time line."""

    step: Step
    task_id: str
    bars: tuple[Bar, ...]
    milliseconds: int | None


@dataclass(frozen=True, slots=True)
class Seen:
    """All that the page shows of a run."""

    detail: RunDetail
    lines: tuple[Line, ...]
    chunks: Sequence[ChunkHead]
    more_chunks: bool
    later: Sequence[Run]
    waiting_since: int | None

    @property
    def run(self) -> Run:
        """The run."""
        return self.detail.run

    @property
    def active(self) -> bool:
        """Whether it has not ended."""
        return self.run.state in ACTIVE

    @property
    def stays(self) -> str | None:
        """Say why it cannot be taken back as things stand; None if it can."""
        run = self.run
        reasons = {
            f"It is a run of {run.workflow}: only a merge or an ownership transfer can be undone.": (
                run.workflow not in undo.UNDOABLE
            ),
            "It is undone already.": run.state == "undone",
            f"It is {run.state}: only a run that has ended can be undone.": self.active,
            "Another run takes it back. If that one has failed, retry it.": (
                undo.run_id_of(run) in self.detail.undo_runs
            ),
            "A later merge of these accounts stands: it would have to be undone first.": bool(self.later),
            "It failed before it changed a row: there is nothing to undo.": run.state == "failed" and not self.chunks,
        }
        return next((reason for reason, holds in reasons.items() if holds), None)

    @property
    def repeatable(self) -> tuple[str, ...]:
        """The steps that can be done again by name."""
        run = self.run
        return run.steps[: run.position + (run.state == "failed")] if run.state in {"succeeded", "failed"} else ()


def seen(ledger: Ledger, run_id: str, now: int) -> Seen | None:
    """Read all that the page shows; None if the ledger does not know the run."""
    detail = ledger.run(run_id)
    if detail is None:
        return None
    heads = ledger.chunk_heads(run_id, limit=CHUNKS + 1)
    run = detail.run
    return Seen(
        detail,
        timeline(detail, now),
        heads[:CHUNKS],
        len(heads) > CHUNKS,
        ledger.later_merges(run_id) if run.merge else (),
        ledger.waiting_since([run]).get(run_id) if run.state == "waiting" else None,
    )


def timeline(detail: RunDetail, now: int) -> tuple[Line, ...]:
    """Put every execution of every step where it belongs between the run's entry and its end (or now)."""
    run = detail.run
    times = [time for attempt in detail.attempts for time in (attempt.started_at, attempt.ended_at) if time]
    start = min([run.created_at, *times])
    end = max([run.ended_at or (now if run.state in ACTIVE else run.updated_at), *times, start + 1])

    def bar(began: int, ended: int, outcome: str) -> Bar:
        left = 100 * (began - start) / (end - start)
        width = max(_SMALLEST, 100 * (ended - began) / (end - start))
        title = f"{outcome}, {words.moment(began)}, {words.span(max(0, ended - began))}"
        return Bar(round(min(left, 100 - _SMALLEST), 2), round(width, 2), outcome, title)

    def line(step: Step) -> Line:
        own = [attempt for attempt in detail.attempts if attempt.step == step.name]
        bars = [bar(a.started_at or a.ended_at, a.ended_at, a.outcome) for a in own]
        spent = None
        if step.state == "running" and step.started_at is not None:
            bars.append(bar(step.started_at, now, "running"))
            spent = now - step.started_at
        elif step.started_at is not None and step.ended_at is not None:
            spent = step.ended_at - step.started_at
        return Line(step, words.task_id(run.id, _generation(own, run), step.name), tuple(bars), spent)

    return tuple(line(step) for step in detail.steps)


def _generation(attempts: Sequence[Attempt], run: Run) -> int:
    """Give the generation in which a step was last at work: it is part of the task's id."""
    return attempts[-1].generation if attempts else run.generation


class RunPage(Page):
    """One run."""

    tab = "runs"

    @authenticated
    async def get(self, run_id: str) -> None:
        """Show it."""
        found = await self.ask(seen, self.ledger, run_id, now_ms())
        if found is None:
            raise HTTPError(404, f"The ledger knows no run {run_id}")
        self.show("lern_run.html", seen=found, run=found.run, may_act=self.may_act)


class RunAct(Page):
    """What a button on a run's page does. What became of it stands on the page that follows."""

    async def act(self, run_id: str) -> tuple[actions.Started, str]:
        """Do it; give the run that was set going, and what to say."""
        raise NotImplementedError

    @authenticated
    async def post(self, run_id: str) -> None:
        """Do it once, and lead to the run."""
        try:
            started, text = await self.act(run_id)
        except Refused as refused:
            self.say(str(refused), "warning")
            self.go("run", run_id)
            return
        if not started.sent:
            text += " The broker does not answer now; the message is sent as soon as it does."
        self.say(text, "success" if started.sent else "warning")
        self.go("run", started.run.id)

    def body(self, name: str) -> str | None:
        """Give a field of the form."""
        return self.get_body_argument(name, "") or None


class Retry(RunAct):
    """Retry a failed run, or do a step of an ended one again."""

    async def act(self, run_id: str) -> tuple[actions.Started, str]:
        """Retry."""
        started = await self.ask(actions.retry, self.parts, run_id, self.who, now_ms(), self.body("step"))
        return started, f"Retry started at {started.run.step}."


class Hurry(RunAct):
    """Try a waiting run at once."""

    async def act(self, run_id: str) -> tuple[actions.Started, str]:
        """Send it."""
        started = await self.ask(actions.hurry, self.parts, run_id, self.who, now_ms())
        return started, f"{started.run.step} is being tried now."


class Undo(RunAct):
    """Take a merge or a transfer back, after a page that asks."""

    @authenticated
    async def get(self, run_id: str) -> None:
        """Ask."""
        found = await self.ask(seen, self.ledger, run_id, now_ms())
        if found is None:
            raise HTTPError(404, f"The ledger knows no run {run_id}")
        self.require_actor()
        self.show("lern_undo.html", seen=found, run=found.run, transfer=found.run.workflow == "ownership")

    async def act(self, run_id: str) -> tuple[actions.Started, str]:
        """Undo."""
        started = await self.ask(actions.undo, self.parts, run_id, self.who, now_ms())
        return started, f"This run takes run {words.short(run_id)} back: everything as it was before."


class ChunkPage(Page):
    """The rows of one chunk, before and after."""

    tab = "runs"

    @authenticated
    async def get(self, run_id: str, chunk_id: str) -> None:
        """Show some of them."""
        chunk = await self.ask(self.ledger.chunk, number(chunk_id))
        run = await self.ask(self.ledger.peek, run_id)
        if chunk is None or run is None or chunk.run_id != run_id:
            raise HTTPError(404, "The journal has no such chunk")
        start = self._start()
        page = await self.ask(changes.page, chunk, start, ROWS)
        self.show("lern_chunk.html", chunk=chunk, run=run, page=page, start=start, size=ROWS)

    def _start(self) -> int:
        given: Any = self.one("from") or "0"
        return int(given[:9]) if given.isascii() and given.isdigit() else 0
