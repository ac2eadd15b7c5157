"""`lern bridge --from FILE`: events of a file become runs."""

from typing import Annotated

import typer

from lern.cli.children import Child, bridge, environ, forwarded, replace_with
from lern.cli.options import existing
from lern.cli.stack import in_use, prepare, with_broker
from lern.settings import Settings

app = typer.Typer()

EventsFile = Annotated[str, typer.Option("--from", help="A file with one event a line.", show_default=False)]
Topic = Annotated[str | None, typer.Option("--topic", help="The topic of bare events; otherwise their action decides.")]


@app.command(name="bridge")
def start(*, file: EventsFile, topic: Topic = None) -> None:
    """Turn the events of a file into runs, and end. Workers carry the runs out.

    A line is an event, or [bold]{"topic": …, "key": …, "value": …}[/bold] around one. The exit code is 1 if
    a line became a dead letter: see [bold]lern dead list[/bold].
    """
    settings = Settings.load()
    settings.require_shared_ledger()
    prepare(settings)
    command = bridge(existing(file).resolve(), topic)
    if not settings.embedded_redis:
        replace_with(command, environ(settings))
    with (
        with_broker(settings) as named,
        in_use(settings) as use,
        Child(command, environ(named), inherited=(use,)) as child,
    ):
        code = forwarded(child)
    raise typer.Exit(code)
