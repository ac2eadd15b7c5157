"""`lern migrate`."""

from typing import Annotated

import typer

from lern.cli.stack import create_tables, is_sql
from lern.ledger import Ledger
from lern.services import Services
from lern.settings import Settings
from lern.urls import redacted_url

app = typer.Typer()


@app.command()
def migrate(
    *,
    create: Annotated[
        bool, typer.Option("--create-tables", help="Create learner tables in Cassandra too, for a keyspace of our own.")
    ] = False,
    create_index: Annotated[
        bool, typer.Option("--create-index", help="Create the index course-batch in Elasticsearch, with its mapping.")
    ] = False,
) -> None:
    """Create the ledger's schema or bring it to this version's, and create the learner tables.

    Doing it again changes nothing. In Cassandra the learner tables are Sunbird's, so they are created only with
    --create-tables.
    """
    settings = Settings.load()
    ledger = Ledger(settings.ledger_url_or_default)
    before = ledger.version()
    ledger.migrate()
    after = ledger.version()
    done = "is up to date" if before == after else f"brought from {before} to {after}" if before else "created"
    typer.echo(f"ledger  {done} (version {after})  {redacted_url(settings.ledger_url_or_default)}")
    url = settings.store_url_or_default
    if is_sql(url) or create:
        create_tables(settings)
        typer.echo(f"store   all {len(settings.tables)} tables are there  {redacted_url(url)}")
    else:
        typer.echo(f"store   left alone; --create-tables creates what is not there  {redacted_url(url)}")
    if create_index:
        _create_index(settings)


def _create_index(settings: Settings) -> None:
    """Create the index of batches where there is none; one that is there is left as it is."""
    if settings.search_url is None:
        typer.echo("search  the store itself: LERN_SEARCH_URL is not set, and no index is needed")
        return
    search = Services(settings).search
    done = "created" if search.create() else "is there"
    typer.echo(f"search  index course-batch {done}  {redacted_url(settings.search_url)}")
    search.close()
