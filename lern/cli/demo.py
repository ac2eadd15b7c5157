"""`lern demo`: one learner's two accounts become one, with everything that a real merge has."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import as_file
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from lern import phrases
from lern.cli import console, rows, sample
from lern.cli.account import Course, courses_of
from lern.cli.children import interruptible
from lern.cli.demo_transfer import handed_over
from lern.cli.problems import WrongUse
from lern.cli.stack import Stack, stack
from lern.cli.waiting import Look, require_success, until_ended
from lern.client import Lern
from lern.ledger import Run, RunDetail
from lern.services import Services
from lern.settings import Settings

app = typer.Typer()

WIDTH: Final = 100
NARROW: Final = 80
OLD: Final = "Asha at her old school"
NEW: Final = "Asha at her state's portal"
MEANING: Final = {
    "merge.content": "lessons",
    "merge.enrolments": "courses, certificates",
    "merge.aggregates": "best scores",
    "merge.assessments": "all quiz attempts",
    "merge.batch_enrolment_sync": "progress, counted anew",
}
TWICE: Final = 2
ANNOUNCED: Final = {
    "issue-certificate": "a certificate is asked for",
    "batch-enrolment-sync": "progress to be checked",
    "enrol-complete": "course completed",
}


@dataclass(frozen=True)
class Accounts:
    """What the two accounts hold."""

    old: list[Course]
    new: list[Course]


@app.command()
def demo(
    *,
    keep: Annotated[
        str | None, typer.Option("--keep", metavar="DIR", help="Keep everything in this new directory, to look into.")
    ] = None,
) -> None:
    """Merge a sample learner's two accounts and show them before and after.

    Everything is real: a private Redis, a worker with two processes, the ledger. Settings of yours and their data are
    not touched.
    """
    with interruptible(), _directory(keep) as directory:
        # Nothing of the environment: it may name somebody's production.
        settings = Settings.load({"LERN_DATA_DIR": str(directory), "LERN_LOG_LEVEL": "INFO"})
        with stack(settings) as running:
            before, detail, after = _merged(running)
            batches = handed_over(running)
            # Within the block: nobody has to wait for the end of the worker to see this.
            _print(before, detail, after, _announcements(settings.out_dir), batches, keep)


@contextmanager
def _directory(keep: str | None) -> Iterator[Path]:
    if keep is None:
        with tempfile.TemporaryDirectory(prefix="lern-demo-") as name:
            yield Path(name)
        return
    directory = Path(keep)
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise WrongUse(f"--keep {keep}: it is there already; name a directory that is not")
    directory.mkdir(parents=True, exist_ok=True)
    try:
        yield directory
    except BaseException:
        shutil.rmtree(directory, ignore_errors=True)
        raise


def _merged(running: Stack) -> tuple[Accounts, RunDetail, Accounts]:
    """Load the sample, merge the accounts, and wait for the end."""
    parts = Services(running.settings)
    running.start_worker()
    with as_file(sample.ROWS) as file:
        rows.load_file(str(file), running.settings)
    before = _accounts(parts)
    with console.err().status("[dim]merging, with a private Redis and a worker …[/dim]"):
        run = Lern(settings=running.settings).merge_accounts(sample.SOURCE, sample.TARGET)

        def tick(_: Look) -> None:
            running.check()

        require_success(until_ended(parts.ledger, [run.id], tick)[run.id])
    detail = parts.ledger.run(run.id)
    if detail is None:
        raise LookupError(run.id)
    return before, detail, _accounts(parts)


def _accounts(parts: Services) -> Accounts:
    return Accounts(*(courses_of(parts.store, parts.relations, user) for user in (sample.SOURCE, sample.TARGET)))


def _announcements(directory: Path) -> list[str]:
    """Give what other services are told, in words."""
    events = [json.loads(line) for file in sorted(directory.glob("*.jsonl")) for line in file.read_text().splitlines()]
    kinds = [event["edata"].get("action") or event["edata"].get("type") for event in events]
    return [
        f"{words} (twice)" if kinds.count(kind) == TWICE else words
        for kind, words in ANNOUNCED.items()
        if kind in kinds
    ]


def _print(
    before: Accounts, detail: RunDetail, after: Accounts, told: Sequence[str], batches: Sequence[Text], keep: str | None
) -> None:
    screen = console.out()
    screen.width = min(screen.width, WIDTH)
    screen.print(
        Text.assemble(
            ("One learner, two accounts. ", "bold"),
            "Asha has learned at her old school and at her state's portal. Each account knows a part: "
            "neither gives her the certificate for Fractions. Lern makes them one.\n",
        )
    )
    screen.print(_side_by_side(before, screen, "before", "yellow"))
    screen.print(Text("■ lesson done  □ not yet", "dim"), justify="right")
    screen.print(_steps(detail, screen))
    screen.print(Text.assemble(("Told to other services: ", "dim"), ", ".join(told), "\n"))
    screen.print(_side_by_side(after, screen, "after", "green"))
    screen.print(*batches, sep="\n")
    screen.print(Text("Try next", "bold"), _next(detail.run, keep), sep="\n")


def _side_by_side(accounts: Accounts, screen: Console, when: str, style: str) -> RenderableType:
    gone = Text("Empty: all has moved. The journal keeps it too, so that the merge can be undone.", "dim")
    old = _panel(OLD, when, "dim" if not accounts.old else style, _courses(accounts.old) if accounts.old else gone)
    new = _panel(NEW, when, style, _courses(accounts.new))
    if screen.width < NARROW:
        return Group(old, new)
    both = Table.grid(expand=True)
    both.add_column(ratio=1)
    both.add_column(ratio=1)
    both.add_row(old, new)
    return both


def _panel(title: str, when: str, style: str, content: RenderableType) -> Panel:
    return Panel(content, title=Text.assemble((title, "bold"), f", {when}"), border_style=style, padding=(0, 1))


def _courses(courses: Sequence[Course]) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    for course in courses:
        table.add_row(Text(course.name, "bold"), _squares(course), _remark(course))
    return table


def _squares(course: Course) -> Text:
    """Give one square for each lesson, so that it can be read without colours too."""
    full = "green" if course.completed else "yellow"
    return Text.assemble(
        ("■" * course.done, full),
        ("□" * (course.lessons - course.done), "dim"),
        (" ✔" if course.completed else "", full),
    )


def _remark(course: Course) -> Text:
    if course.certificate:
        return Text("★ certificate", "green")
    if course.best is None:
        return Text()
    return Text(f"quiz {course.best:g}/{course.out_of:g} in {phrases.many(course.attempts, 'try', 'tries')}")


def _steps(detail: RunDetail, screen: Console) -> Table:
    run = detail.run
    took = phrases.span((run.ended_at or run.created_at) - run.created_at)
    table = console.table("step", "", "rows", "took>", title=f"What happened in between, in {took}")
    table.columns[1].style = "dim"
    table.columns[2].overflow = table.columns[1].overflow = "fold"
    for step in detail.steps:
        spent = None if step.started_at is None or step.ended_at is None else step.ended_at - step.started_at
        meaning = MEANING.get(step.name, "") if screen.width >= NARROW else ""
        table.add_row(Text(step.name, "cyan"), meaning, console.text(phrases.counts(step.result)), phrases.span(spent))
    return table


def _next(run: Run, keep: str | None) -> Table:
    short = run.id[:8]
    if keep is None:
        hints = {
            "lern demo --keep asha": "the same, and the accounts stay, to look into and to undo",
            "lern process EVENTS.jsonl": "your own events, with everything embedded",
            "lern --help": "everything else",
        }
    else:
        where = f"LERN_DATA_DIR={os.fspath(keep)} "
        hints = {
            f"{where}lern runs show {short}": "the run with all its steps",
            f"{where}lern rows dump --user {sample.TARGET}": "her rows",
            f"{where}lern runs undo {short} --wait": "two accounts again",
        }
    table = Table.grid(padding=(0, 2, 0, 0))
    for command, meaning in hints.items():
        table.add_row(Text(f"  {command}", "bold"), Text(meaning, "dim"))
    return table
