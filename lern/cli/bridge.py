"""`lern bridge`: events of Kafka, or of a file, become runs."""

from collections.abc import Sequence
from typing import Annotated

import typer

from lern.cli.children import Child, bridge, environ, forwarded, kafka_bridge, replace_with
from lern.cli.options import existing
from lern.cli.problems import WrongUse
from lern.cli.stack import in_use, prepare, with_broker
from lern.errors import SettingsError
from lern.settings import Settings

app = typer.Typer()

EventsFile = Annotated[
    str | None, typer.Option("--from", help="Read a file with one event a line instead, and end.", show_default=False)
]
Topic = Annotated[str | None, typer.Option("--topic", help="The topic of bare events; otherwise their action decides.")]
Start = Annotated[
    str | None,
    typer.Option(
        "--start",
        metavar="latest|earliest|TIME|group:NAME",
        help="Where to begin when the group reads for the first time; later without effect.",
        show_default=False,
    ),
]


@app.command(name="bridge")
def start(*, file: EventsFile = None, topic: Topic = None, start: Start = None) -> None:
    """Turn events into runs, from Kafka until Ctrl-C or SIGTERM, or those of a file. Workers carry the runs out.

    The first bridge of an installation is told where to begin: [bold]--start group:NAME[/bold] goes on where the job
    of that consumer group has stopped. Of a file, a line is an event, or
    [bold]{"topic": …, "key": …, "value": …}[/bold] around one; the exit code is 1 if a line became a dead letter:
    see [bold]lern dead list[/bold].
    """
    settings = Settings.load()
    command = _command(settings, file, topic, start)
    settings.require_shared_ledger()
    prepare(settings)
    if not settings.embedded_redis:
        replace_with(command, environ(settings))
    with (
        with_broker(settings) as named,
        in_use(settings) as use,
        Child(command, environ(named), inherited=(use,)) as child,
    ):
        code = forwarded(child)
    raise typer.Exit(code)


def _command(settings: Settings, file: str | None, topic: str | None, start: str | None) -> Sequence[str]:
    """Give the command line of the bridge that is meant. Raises `WrongUse`, `SettingsError`."""
    if file is not None:
        if start is not None:
            raise WrongUse("--start is for Kafka; a file is read from its first line")
        return bridge(existing(file).resolve(), topic)
    if topic is not None:
        raise WrongUse("--topic is for --from FILE; the bridge of Kafka reads the topics of every workflow")
    if settings.kafka_bootstrap is None:
        raise SettingsError("LERN_KAFKA_BOOTSTRAP: not set; without Kafka, `lern bridge --from FILE` reads a file")
    return kafka_bridge(start)
