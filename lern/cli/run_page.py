"""One run as `lern runs show` prints it."""

from collections.abc import Iterator, Sequence
from typing import Final

from rich.console import RenderableType
from rich.padding import Padding
from rich.text import Text

from lern import phrases
from lern.cli import console
from lern.ledger import Attempt, Run, RunDetail, Step
from lern.undo import UNDOABLE

SHORT: Final = 8


def page(detail: RunDetail, later: Sequence[Run], now: int) -> Iterator[RenderableType]:
    """Give the parts of the page. `later`: merges that stand in the way of an undo; `now` in ms."""
    run = detail.run
    head = Text.assemble(("run ", "bold"), (run.id, "bold"), "  ", run.workflow, "  ", console.state(run.state))
    yield head
    yield Padding(_facts(detail), (0, 0, 1, 2), expand=False)
    yield _steps(detail.steps, now)
    yield from _section("warnings", [console.text(f"• {warning}") for warning in run.warnings], "yellow")
    yield from _section("error", [console.text(run.error)] if run.error else [], "red")
    yield from _history([attempt for attempt in detail.attempts if attempt.outcome != "succeeded"])
    yield from _done_by(detail)
    yield from _next(run, later)


def _facts(detail: RunDetail) -> RenderableType:
    run = detail.run
    grid = console.table("", "")
    grid.show_header = False
    facts = {
        "accounts": f"{run.source} → {run.target}",
        "entered": f"{console.moment(run.created_at)} {console.zone()}",
        "took": phrases.span(None if run.ended_at is None else run.ended_at - run.created_at),
        "event": _event(run),
        "tried": f"{phrases.many(run.generation - 1, 'time')} again" if run.generation > 1 else "",
        "undoes": f"run {run.undo_of}" if run.undo_of else "",
        "undone by": ", ".join(f"run {other}" for other in detail.undo_runs),
    }
    for name, value in facts.items():
        if value:
            grid.add_row(Text(name, "dim"), console.text(value))
    return grid


def _event(run: Run) -> str:
    place = "" if run.partition is None else f", partition {run.partition} offset {run.offset}"
    named = f"{run.mid or 'without a mid'} from {run.topic or 'a file'}{place}"
    return f"{named}, of {console.moment(run.event_time)}" if run.event_time else named


def _steps(steps: Sequence[Step], now: int) -> RenderableType:
    table = console.table("step", "state", "tries>", "took>", "rows")
    for step in steps:
        table.add_row(
            step.name,
            console.state(step.state),
            str(step.tries) if step.started_at is not None else "",
            phrases.span(_took(step, now)),
            console.text(phrases.counts(step.result) or _why(step)),
        )
    return table


def _took(step: Step, now: int) -> int | None:
    if step.started_at is None or step.state in {"pending", "queued", "waiting"}:
        return None
    return (step.ended_at or now) - step.started_at


def _why(step: Step) -> str:
    due = f", again at {console.moment(step.next_at)}" if step.next_at is not None else ""
    return f"{step.reason or step.error}{due}" if step.reason or step.error else ""


def _section(title: str, lines: Sequence[Text], style: str) -> Iterator[RenderableType]:
    if lines:
        yield Text(f"\n{title}", f"bold {style}")
        for line in lines:
            yield Padding(line, (0, 0, 0, 2), expand=False)


def _history(attempts: Sequence[Attempt]) -> Iterator[RenderableType]:
    if not attempts:
        return
    table = console.table(f"ended ({console.zone()})", "step", "outcome", "generation>", "why")
    for attempt in attempts:
        outcome = console.state(attempt.outcome)
        reason = ": ".join(filter(None, (attempt.reason, attempt.error)))
        number = str(attempt.generation)
        table.add_row(console.moment(attempt.ended_at), attempt.step, outcome, number, console.text(reason))
    yield Text("\nattempts that did not get through", "bold")
    yield Padding(table, (0, 0, 0, 2), expand=False)


def _done_by(detail: RunDetail) -> Iterator[RenderableType]:
    lines = [
        console.text(f"{console.moment(act.at)} {act.who}: {act.action} {act.detail or ''}".rstrip())
        for act in detail.audit
    ]
    yield from _section("done by hand", lines, "")


def _next(run: Run, later: Sequence[Run]) -> Iterator[RenderableType]:
    """Say what can be done about the run."""
    short = run.id[:SHORT]
    if run.state == "failed":
        yield Text(f"\nonce the cause is mended: lern runs retry {short}", "dim")
    if run.state == "succeeded" and run.workflow in UNDOABLE and not later:
        yield Text(f"\nto take it back: lern runs undo {short}", "dim")
