"""`lern flower`: Flower, with the ledger's pages."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from lern.cli.children import Child, environ, forwarded, replace_with
from lern.cli.stack import in_use, prepare, with_broker
from lern.settings import Settings

app = typer.Typer()


def command(*options: str, conf: Path | None = None) -> list[str]:
    """Give the command line of Flower, which works elsewhere than where this is typed.

    `conf`: a file of Flower's options, FLOWER_CONF's otherwise.
    """
    named = conf or os.environ.get("FLOWER_CONF")
    here = [f"--conf={Path(named).absolute()}"] if named else []
    return [sys.executable, "-m", "lern.flower", *here, *options]


@app.command(context_settings={"ignore_unknown_options": True, "allow_extra_args": True})
def flower(
    context: typer.Context,
    *,
    port: Annotated[
        int | None, typer.Option("--port", "-p", min=1, max=65_535, help="LERN_FLOWER_PORT otherwise.")
    ] = None,
    address: Annotated[str | None, typer.Option("--address", help="LERN_FLOWER_ADDRESS otherwise.")] = None,
    conf: Annotated[
        Path | None,
        typer.Option(
            "--conf",
            envvar="FLOWER_CONF",
            exists=True,
            dir_okay=False,
            help="A file of Flower's options, in Python.",
        ),
    ] = None,
) -> None:
    """Start Flower, with the pages of runs, failed runs and dead letters, until Ctrl-C or SIGTERM.

    Every option of Flower's may follow, as [bold]--basic-auth=name:password[/bold] or [bold]--url-prefix=flower[/bold];
    FLOWER_* variables work too. Listening elsewhere than on this machine, it asks who it is talking to.
    """
    settings = Settings.load()
    settings.require_shared_ledger()
    prepare(settings)
    given = {"flower_port": port, "flower_address": address}
    settings = settings.model_copy(update={name: value for name, value in given.items() if value is not None})
    options = command(*context.args, conf=conf)
    if not settings.embedded_redis:
        replace_with(options, environ(settings))
    with (
        with_broker(settings) as named,
        in_use(settings) as use,
        Child(options, environ(named), inherited=(use,)) as child,
    ):
        code = forwarded(child)
    raise typer.Exit(code)
