"""`lern status`: how what `lern up` has started is doing."""

from typing import Any

import typer

from lern.cli import console
from lern.cli.options import AsJson
from lern.cli.problems import FAILED
from lern.cli.running_stack import RunningStack
from lern.settings import Settings

app = typer.Typer()


@app.command()
def status(*, as_json: AsJson = False) -> None:
    """Print the parts of the stack and their states; the exit code is 0 only if all of them are ready."""
    running = RunningStack(Settings.load().data_dir)
    seen = running.seen()
    left: list[dict[str, Any]] = [
        {"id": part.name, "state": "left", "pid": part.group, "restarts": 0} for part in running.left
    ]
    parts = seen["parts"] if seen is not None else left
    if as_json:
        console.print_json(parts)
    elif not parts and seen is None:
        console.remark("nothing runs; lern up starts everything")
    else:
        table = console.table("part", "state", "process>", "restarts>")
        for part in parts:
            table.add_row(part["id"], console.state(part["state"]), str(part["pid"] or ""), str(part["restarts"]))
        console.out().print(table)
        if seen is None:
            console.remark("their lern up was killed; lern down ends them")
        else:
            typer.echo(f"{seen['url']}/runs")
    if not parts or any(part["state"] != "ready" for part in parts):
        raise typer.Exit(FAILED)
