"""`lern status`: how what `lern up` has started is doing."""

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
    seen = RunningStack(Settings.load().data_dir).seen()
    parts = seen["parts"] if seen is not None else []
    if as_json:
        console.print_json(parts)
    elif seen is None:
        console.remark("nothing runs; lern up starts everything")
    else:
        table = console.table("part", "state", "process>", "restarts>")
        for part in parts:
            table.add_row(part["id"], console.state(part["state"]), str(part["pid"] or ""), str(part["restarts"]))
        console.out().print(table)
        typer.echo(f"{seen['url']}/runs")
    if not parts or any(part["state"] != "ready" for part in parts):
        raise typer.Exit(FAILED)
