"""`lern runs watch`: a live table of runs in the terminal."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Final

import typer
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from lern.cli import console
from lern.errors import Unreachable
from lern.ledger import Counted, Ledger
from lern.ledger.records import ACTIVE, RunState

STATES: Final[tuple[RunState, ...]] = ("queued", "running", "waiting", "failed", "succeeded", "undone")
_HEAD: Final = 5
_FEWEST: Final = 5


def watch(
    *,
    every: Annotated[float, typer.Option("--every", min=0.2, help="Seconds between two looks.")] = 1.0,
    until_idle: Annotated[bool, typer.Option("--until-idle", help="End when no run is under way.")] = False,
) -> None:
    """Show the newest runs and how many are in which state, until Ctrl-C."""
    from lern.cli.runs import ledger_of
    from lern.settings import Settings

    screen = console.out()
    with ledger_of(Settings.load()) as ledger, _shown(screen) as show:
        while True:
            try:
                counts = ledger.live_counts()
                show(_page(ledger, counts, max(_FEWEST, screen.height - _HEAD)))
                if until_idle and not any(counts[state].number for state in ACTIVE):
                    return
            except Unreachable as error:
                show(Text(f"{error}; trying again", "bold yellow"))
            time.sleep(every)


@contextmanager
def _shown(screen: Console) -> Iterator[Callable[[RenderableType], None]]:
    """Give what shows a page in the place of the one before; where no terminal reads, below it."""
    if not screen.is_terminal:
        yield screen.print
        return
    with Live(console=screen, screen=True, auto_refresh=False) as live:
        yield lambda page: live.update(page, refresh=True)


def _page(ledger: Ledger, counts: dict[RunState, Counted], rows: int) -> Group:
    from lern.cli.runs import table

    head = Text("  ").join(
        Text.assemble(console.state(state), f" {found.number:,}{'+' if found.more else ''}")
        for state in STATES
        if (found := counts[state]).number
    )
    return Group(head or Text("no runs"), Text(), table(ledger.runs(limit=rows), short=True))
