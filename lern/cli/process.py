"""`lern process EVENTS.jsonl`: every event of a file carried out, from its line to the end of its run."""

import json
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.text import Text

from lern import phrases
from lern.cli import console, dead, runs
from lern.cli.bridge import Topic
from lern.cli.children import Child, interruptible
from lern.cli.options import existing
from lern.cli.problems import FAILED, WorkFailed
from lern.cli.stack import Stack, stack
from lern.cli.waiting import PAUSE, Look, now_ms, until_ended, what_it_does
from lern.ledger import DeadLetter, Ledger, Run
from lern.settings import Settings

app = typer.Typer()

SHOWN_AT_MOST: Final = 10
COUNTED: Final = ("read", "copied", "merged", "deleted", "left")


@dataclass(frozen=True)
class Summary:
    """What became of a file. `rows`: the counts of all steps together; `milliseconds`: from start to end."""

    lines: int
    repeated: int
    runs: Sequence[Run]
    rows: Counter[str]
    dead: Sequence[DeadLetter]
    dead_lines: int
    milliseconds: int

    @property
    def well(self) -> bool:
        """Whether every line became a run that succeeded."""
        return not self.dead_lines and all(run.state == "succeeded" for run in self.runs)


@app.command()
def process(
    file: Annotated[str, typer.Argument(metavar="EVENTS.jsonl", help="- for standard input.", show_default=False)],
    *,
    topic: Topic = None,
) -> None:
    """Carry out every event of a file: bridge and worker run until every run has ended.

    A line is an event, or [bold]{"topic": …, "key": …, "value": …}[/bold] around one. An event that was carried out
    before is not carried out again. The exit code is 1 if a run failed or a line became a dead letter.
    """
    settings = Settings.load()
    settings.require_shared_ledger()
    began = now_ms()
    with interruptible(), _readable(file) as events, stack(settings) as running:
        summary = _carried_out(running, events, topic, began)
        # Within the block: nobody has to wait for the end of the worker to see this.
        _print(summary)
    if not summary.well:
        raise typer.Exit(FAILED)


@contextmanager
def _readable(file: str) -> Iterator[Path]:
    """Give a path that another process can read. Our standard input is copied: it does not reach the bridge."""
    if file != "-":
        yield existing(file).resolve()
        return
    with tempfile.NamedTemporaryFile(suffix=".jsonl") as copy:
        shutil.copyfileobj(sys.stdin.buffer, copy)
        copy.flush()
        yield Path(copy.name)


def _carried_out(running: Stack, events: Path, topic: str | None, began: int) -> Summary:
    ledger = Ledger(running.settings.ledger_url_or_default)
    running.start_worker()
    report = _taken_in(running, events, topic)
    ids: list[str] = report["runs"]
    ended = _ended(running, ledger, ids)
    rows: Counter[str] = Counter()
    for run_id in ids:
        rows.update(row_counts(ledger, run_id))
    return Summary(
        lines=report["lines"],
        repeated=report["repeated"],
        runs=[ended[run_id] for run_id in ids],
        rows=rows,
        dead=_dead_since(ledger, began),
        dead_lines=report["dead"],
        milliseconds=now_ms() - began,
    )


def _taken_in(running: Stack, events: Path, topic: str | None) -> dict[str, Any]:
    """Let the bridge take the file in, and give its report. Raises `WorkFailed` if it ends without one."""
    with tempfile.TemporaryDirectory() as directory, console.progress() as bar:
        report = Path(directory) / "report.json"
        bar.add_task("reading", total=None, note="the bridge enters the events in the ledger")
        child = running.start_bridge(events, topic, report)
        _wait_for(child, running)
        if not report.exists():
            raise WorkFailed(f"the bridge has ended with code {child.exit_code}; {running.end_of_log()}")
        found: dict[str, Any] = json.loads(report.read_text())
        return found


def _wait_for(child: Child, running: Stack) -> None:
    while child.wait(PAUSE) is None:
        running.check()


def _ended(running: Stack, ledger: Ledger, ids: Sequence[str]) -> dict[str, Run]:
    with console.progress() as bar:
        task = bar.add_task("steps", total=len(ids), note="")

        def tick(look: Look) -> None:
            running.check()
            if look.run is not None:
                # Runs go through the queue side by side: what advances is steps.
                total = len(ids) * len(look.run.steps)
                bar.update(task, total=total, completed=look.steps, note=what_it_does(look.run))

        return until_ended(ledger, ids, tick)


def row_counts(ledger: Ledger, run_id: str) -> Counter[str]:
    """Add up the row counts of a run's steps."""
    detail = ledger.run(run_id)
    return Counter(
        {name: sum(step.result.get(name, 0) for step in detail.steps if step.result is not None) for name in COUNTED}
        if detail is not None
        else {}
    )


def _dead_since(ledger: Ledger, began: int) -> list[DeadLetter]:
    return [letter for letter in ledger.dead_letters(limit=SHOWN_AT_MOST + 1) if letter.last_at >= began]


def _print(summary: Summary) -> None:
    screen = console.out()
    screen.print(_sentence(summary))
    states = Counter(run.state for run in summary.runs)
    table = console.table("", "")
    table.show_header = False
    for state, number in states.most_common():
        table.add_row(console.state(state), phrases.many(number, "run"))
    if summary.dead_lines:
        table.add_row(Text("dead letters", "bold red"), phrases.many(summary.dead_lines, "line"))
    rows = [f"{name} {summary.rows[name]:,}" for name in COUNTED if summary.rows[name]]
    table.add_row(Text("learner rows", "dim"), console.text(" · ".join(rows) or "nothing to do"))
    screen.print(table)
    bad = [run for run in summary.runs if run.state != "succeeded" or run.warnings]
    if bad:
        screen.print(Text("\nruns to look at", "bold"), runs.table(bad[:SHOWN_AT_MOST], short=screen.is_terminal))
        _more(len(bad), "lern runs list")
    if summary.dead:
        screen.print(Text("\ndead letters", "bold"), dead.table(list(summary.dead[:SHOWN_AT_MOST])))
        _more(summary.dead_lines, "lern dead list")


def _sentence(summary: Summary) -> Text:
    text = f"{phrases.many(summary.lines, 'event')} in {phrases.span(summary.milliseconds)}"
    if summary.repeated:
        text += f", {summary.repeated:,} of them seen before"
    return Text(text, "bold green" if summary.well else "bold red")


def _more(number: int, command: str) -> None:
    if number > SHOWN_AT_MOST:
        console.remark(f"and {number - SHOWN_AT_MOST:,} more: {command}")
