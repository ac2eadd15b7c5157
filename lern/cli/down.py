"""`lern down`: end what `lern up` has started."""

import os
import signal
from typing import Final

import typer

from lern.cli import console
from lern.cli.problems import WorkFailed
from lern.cli.running_stack import RunningStack
from lern.embedded import EmbeddedRedis
from lern.settings import Settings

app = typer.Typer()

PATIENCE: Final = 90.0


@app.command()
def down() -> None:
    """End the stack of this data directory, and wait until all of it has ended. Doing it again changes nothing.

    What is left of one whose [bold]lern up[/bold] was killed is ended too.
    """
    settings = Settings.load()
    running = RunningStack(settings.data_dir)
    seen = running.seen()
    if seen is None:
        ended = running.end_left() if running.left else []
        # Last: the others use it.
        ended += ["redis"] * EmbeddedRedis(settings.data_dir).end_unused()
        console.remark(f"nothing runs; ended what was left: {', '.join(ended)}" if ended else "nothing runs")
        return
    if seen["pid"] is None:
        raise WorkFailed("it is just starting or ending; try again")
    # The lock was held a moment ago, so the number is that of the process that holds it.
    os.kill(seen["pid"], signal.SIGTERM)
    if not running.wait_for_end(PATIENCE):
        raise WorkFailed(f"process {seen['pid']} has not ended within {PATIENCE:g} s")
    console.remark("all has ended")
