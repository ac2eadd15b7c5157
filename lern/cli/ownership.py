"""`lern ownership check USER`."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any
from zoneinfo import ZoneInfo

import typer

from lern import phrases
from lern.cli import console
from lern.cli.looking import through_all_batches
from lern.cli.options import AsJson
from lern.cli.problems import WorkFailed, WrongUse
from lern.cli.stack import prepare
from lern.events import BadEvent, check_identifier
from lern.ownership import Follower, Owned, owned
from lern.services import Services
from lern.settings import Settings

app = typer.Typer()

AT_ONCE = 200


@app.callback()
def ownership() -> None:
    """Who owns which course batches, by the database and by search."""


@app.command()
def check(
    user: Annotated[
        str, typer.Argument(metavar="USER", help="The user whose batches are looked for.", show_default=False)
    ],
    *,
    repair: Annotated[
        bool, typer.Option("--repair", help="Have the documents that disagree with the database follow it.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """List every batch, of whatever status, that USER creates or mentors in either store, and where they disagree.

    All batches are gone through, and the bar says how long that will take. Exit 1 if the stores disagree in the end.
    """
    settings = Settings.load()
    _check(settings, user, repair=repair)
    prepare(settings)
    services = Services(settings)
    # Going through all batches may take long: what would fail after it fails before it.
    services.search.check()
    found = list(_found(services, user))
    mended = _repair(services, found) if repair else set()
    rows = [_row(user, one, repaired=one.key in mended) for one in found]
    if as_json:
        console.print_json(rows)
    elif rows:
        _print(rows)
    else:
        console.remark(f"{user} creates or mentors no batch")
    if not services.search.own:
        console.remark("LERN_SEARCH_URL is not set: there are no documents to hold against the database")
    apart = [row for row in rows if not row["agree"] and not row["repaired"]]
    if apart:
        raise WorkFailed(_advice(apart))


def _check(settings: Settings, user: str, *, repair: bool) -> None:
    try:
        check_identifier(user, "USER")
    except BadEvent as bad:
        raise WrongUse(str(bad)) from bad
    if repair and settings.search_url is None:
        raise WrongUse("--repair: LERN_SEARCH_URL is not set, so there is nothing to repair")


def _advice(apart: Sequence[Mapping[str, Any]]) -> str:
    """Say on how many batches the stores disagree, and who can mend that."""
    alone = sum(row["database"] is None or row["search"] is None for row in apart)
    parts = [f"the stores disagree on {phrases.many(len(apart), 'batch', 'batches')}"]
    if alone < len(apart):
        parts.append(f"--repair has {phrases.many(len(apart) - alone, 'document')} follow")
    if alone:
        parts.append(f"--repair cannot mend {phrases.many(alone, 'batch', 'batches')} of one store alone")
    return "; ".join(parts)


def _found(services: Services, user: str) -> Iterator[Owned]:
    with through_all_batches() as tell:
        yield from owned(services.store, services.search, user, tell)


def _repair(services: Services, found: list[Owned]) -> set[tuple[str, ...]]:
    """Have documents follow; give the batches whose documents did."""
    follower = Follower(services.store, services.search, ZoneInfo(services.settings.time_zone))
    keys = [one.key for one in found if not one.agree and one.row is not None and one.document is not None]
    missing: set[str] = set()
    for start in range(0, len(keys), AT_ONCE):
        missing.update(follower.follow(keys[start : start + AT_ONCE], lambda: None).missing)
    return {key for key in keys if key[-1] not in missing}


def _row(user: str, one: Owned, *, repaired: bool) -> dict[str, Any]:
    by_row, by_document = one.roles(user)
    named = one.row if one.row is not None else {} if one.document is None else one.document.fields
    return {
        "id": one.key[-1],
        "courseid": one.key[0],
        "name": named.get("name"),
        "status": named.get("status"),
        "database": list(by_row) if one.row is not None else None,
        "search": list(by_document) if one.document is not None else None,
        "agree": one.agree,
        "repaired": repaired,
    }


def _print(rows: list[dict[str, Any]]) -> None:
    table = console.table("batch", "course", "name", "status>", "database", "search", "")
    for row in rows:
        shown = (row["id"], row["courseid"], row["name"], row["status"], _words(row["database"]), _words(row["search"]))
        table.add_row(*(console.text(value) for value in shown), _verdict(row))
    console.out().print(table)


def _words(roles: list[str] | None) -> str:
    return "not there" if roles is None else ", ".join(roles) or "somebody else"


def _verdict(row: dict[str, Any]) -> str:
    return "repaired" if row["repaired"] else "" if row["agree"] else "they disagree"
