"""`lern merge SOURCE TARGET`."""

from typing import Annotated, Final

import typer

from lern.cli.following import follow
from lern.cli.options import Wait
from lern.cli.problems import WrongUse
from lern.cli.stack import Stack, stack, with_broker
from lern.client import Lern
from lern.events import BadEvent
from lern.settings import Settings

app = typer.Typer()

# What the person at the terminal calls what the event names.
NAMES: Final = {"edata.fromAccountId": "SOURCE", "edata.toAccountId": "TARGET", "idempotency_key": "--key"}


@app.command()
def merge(
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="The account that is merged away.", show_default=False)
    ],
    target: Annotated[str, typer.Argument(metavar="TARGET", help="The account that stays.", show_default=False)],
    *,
    key: Annotated[
        str | None, typer.Option("--key", help="Merges of the same accounts with the same key are one run.")
    ] = None,
    wait: Wait = False,
) -> None:
    """Merge one account into another. Prints the id of the run."""
    settings = Settings.load()
    if settings.embedded_redis:
        with stack(settings) as running:
            _merge(running.settings, source, target, key, wait=wait, running=running)
    else:
        with with_broker(settings) as named:
            _merge(named, source, target, key, wait=wait, running=None)


def _merge(settings: Settings, source: str, target: str, key: str | None, *, wait: bool, running: Stack | None) -> None:
    try:
        run = Lern(settings=settings).merge_accounts(source, target, idempotency_key=key)
    except BadEvent as bad:
        name = NAMES.get(bad.field, bad.field)
        raise WrongUse(f"{name}: {bad.reason.replace('edata.fromAccountId', 'SOURCE')}") from bad
    typer.echo(run.id)
    follow(run, settings, running, wait=wait, what="merged")
