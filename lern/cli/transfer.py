"""`lern transfer SOURCE TARGET`."""

from typing import Annotated

import typer

from lern import phrases
from lern.cli import console
from lern.cli.following import follow
from lern.cli.looking import through_all_batches
from lern.cli.options import Wait
from lern.cli.problems import WrongUse
from lern.cli.stack import Stack, prepare, stack, with_broker
from lern.client import Lern
from lern.events import BadEvent, check_identifier
from lern.settings import Settings

app = typer.Typer()


@app.command()
def transfer(
    source: Annotated[str, typer.Argument(help="The user whose course batches these are.", show_default=False)],
    target: Annotated[str, typer.Argument(help="The user who is to have them.", show_default=False)],
    *,
    org: Annotated[
        str | None,
        typer.Option("--org", metavar="ID", help="Their organisation, checked where LERN_USERORG_URL is set."),
    ] = None,
    key: Annotated[
        str | None, typer.Option("--key", help="Transfers of the same users with the same key are one run.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would change hands, and change nothing.")
    ] = False,
    wait: Wait = False,
) -> None:
    """Hand a user's course batches over to another: those created and those mentored. Prints the id of the run."""
    settings = Settings.load()
    for name, value in (("SOURCE", source), ("TARGET", target), ("--org", org), ("--key", key)):
        if value is not None:
            _check(name, value)
    if source == target:
        raise WrongUse("TARGET: equals SOURCE; another user was expected")
    if dry_run:
        _plan(settings, source, target, org)
    elif settings.embedded_redis:
        with stack(settings) as running:
            _transfer(running.settings, source, target, org, key, wait=wait, running=running)
    else:
        with with_broker(settings) as named:
            _transfer(named, source, target, org, key, wait=wait, running=None)


def _check(name: str, value: str) -> None:
    try:
        check_identifier(value, name)
    except BadEvent as bad:
        raise WrongUse(str(bad)) from bad


def _transfer(
    settings: Settings,
    source: str,
    target: str,
    org: str | None,
    key: str | None,
    *,
    wait: bool,
    running: Stack | None,
) -> None:
    run = Lern(settings=settings).transfer_ownership(source, target, organisation_id=org, idempotency_key=key)
    typer.echo(run.id)
    follow(run, settings, running, wait=wait, what="transferred")


def _plan(settings: Settings, source: str, target: str, org: str | None) -> None:
    """Print the batches that a transfer would find, by the same search."""
    from lern.ownership import planned
    from lern.rules.ownership import roles, transferred
    from lern.services import Services

    prepare(settings)
    services = Services(settings)
    table = console.table("batch", "course", "name", "status>", "is", "mentors afterwards")
    number = 0
    with through_all_batches() as tell:
        for key, row in planned(services, source, target, org, tell):
            number += 1
            course, batch = key
            after = {} if row is None else transferred(row, source, target, 0)
            found = ", ".join(() if row is None else roles(row, source)) or "its document's only"
            mentors = ", ".join(after.get("mentors", ()))
            shown = (batch, course, after.get("name"), after.get("status"), found, mentors)
            table.add_row(*(console.text(value) for value in shown))
    console.out().print(table)
    console.remark(
        f"{phrases.many(number, 'batch', 'batches')} would go from {source} to {target}; nothing was changed"
    )
