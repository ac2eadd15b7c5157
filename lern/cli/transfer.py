"""`lern transfer SOURCE TARGET`."""

from collections.abc import Collection, Iterator
from typing import Annotated

import typer
from rich.text import Text

from lern import phrases
from lern.cli import console
from lern.cli.following import follow
from lern.cli.looking import through_all_batches
from lern.cli.options import Wait
from lern.cli.problems import WrongUse
from lern.cli.stack import Stack, prepare, stack, with_broker
from lern.client import Lern
from lern.events import BadEvent, check_identifier
from lern.rules.ownership import roles, transferred
from lern.settings import Settings
from lern.store.tables import Key, Row

app = typer.Typer()


@app.command()
def transfer(
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="The user whose course batches these are.", show_default=False)
    ],
    target: Annotated[str, typer.Argument(metavar="TARGET", help="The user who is to have them.", show_default=False)],
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
    """Print the batches that a transfer would find, by the same search, and what it would say of others."""
    from lern.ownership import Finder, check, finding
    from lern.services import Services

    prepare(settings)
    services = Services(settings)
    final = services.ledger.final_account(target)
    check(services, source, target, final, org)
    finder = Finder(services.store, finding(services), source, settings.ownership_statuses)
    table = console.table("batch", "course", "name", "status>", "is", "mentors afterwards")
    lagging: list[str] = []
    number = 0
    with through_all_batches() as tell:
        for bunch in finder.bunches(settings.chunk_rows, tell):
            for key, row in bunch:
                if roles(row, source):
                    number += 1
                    table.add_row(*_shown(key, row, source, final))
                else:
                    lagging.append(key[1])
    console.out().print(table)
    _list("named by their documents alone, which follow them", lagging)
    _list("documents without a batch, left as they are", finder.orphans)
    _list("batches without a status, left as they are", finder.without_status)
    heir = target if final == target else f"{final}, into which {target} was merged"
    console.remark(f"{phrases.many(number, 'batch', 'batches')} would go from {source} to {heir}; nothing was changed")


def _shown(key: Key, row: Row, source: str, final: str) -> Iterator[Text]:
    course, batch = key
    mentors = ", ".join(transferred(row, source, final, 0).get("mentors", ()))
    found = ", ".join(roles(row, source))
    return map(console.text, (batch, course, row.get("name"), row.get("status"), found, mentors))


def _list(what: str, ids: Collection[str]) -> None:
    if ids:
        console.remark(f"{what}: {', '.join(map(console.harmless, ids))}")
