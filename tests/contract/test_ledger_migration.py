"""What the ledger promises about its schema."""

import subprocess
import sys

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from lern.ledger import Ledger, migration
from lern.ledger.schema import HEAD, metadata


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(migration._DIRECTORY))
    return config


def test_the_code_is_written_for_the_newest_revision() -> None:
    assert ScriptDirectory.from_config(_config()).get_current_head() == HEAD


def test_an_empty_database_gets_the_schema_that_the_code_knows(ledger_url: str) -> None:
    ledger = Ledger(ledger_url)
    assert ledger.version() is None
    ledger.migrate()
    assert ledger.version() == HEAD
    with ledger._database.read() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
    ledger.close()


def test_every_index_has_the_condition_that_the_code_knows(ledger: Ledger) -> None:
    conditions = {
        str(index.name): str(index.dialect_options["postgresql"]["where"])
        for table in metadata.sorted_tables
        for index in table.indexes
        if index.dialect_options["postgresql"]["where"] is not None
    }
    sqlite = "SELECT name, sql FROM sqlite_master WHERE type = 'index'"
    postgresql = "SELECT indexname, indexdef FROM pg_indexes"
    with ledger._database.read() as connection:
        rows = connection.execute(sa.text(sqlite if ledger._database.is_sqlite else postgresql))
        made = {name: statement.partition(" WHERE ")[2] for name, statement in rows if " WHERE " in (statement or "")}
    assert made.keys() == conditions.keys()
    assert {name: _plain(text) for name, text in made.items()} == {n: _plain(t) for n, t in conditions.items()}


def _plain(condition: str) -> str:
    return condition.replace("(", "").replace(")", "").replace("::text", "")


def test_migrating_again_changes_nothing(ledger: Ledger) -> None:
    ledger.migrate()
    assert ledger.version() == HEAD


def test_it_goes_down_and_up_again(ledger: Ledger) -> None:
    with ledger._database.write() as connection:
        config = _config()
        config.attributes["connection"] = connection
        command.downgrade(config, "base")
    assert ledger.version() is None
    with ledger._database.read() as connection:
        assert sa.inspect(connection).get_table_names() == ["alembic_version"]
    ledger.migrate()
    assert ledger.version() == HEAD


def test_a_migration_that_is_broken_off_leaves_nothing(ledger_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = Ledger(ledger_url)
    upgrade = migration._upgrade

    def broken(connection: sa.Connection) -> None:
        upgrade(connection)
        raise KeyboardInterrupt

    monkeypatch.setattr(migration, "_upgrade", broken)
    with pytest.raises(KeyboardInterrupt):
        ledger.migrate()
    assert ledger.version() is None
    monkeypatch.undo()
    ledger.migrate()
    assert ledger.version() == HEAD
    ledger.close()


@pytest.mark.parametrize("ledger_url", ["sqlite"], indirect=True)
def test_nothing_slow_is_imported_where_there_is_nothing_to_migrate(ledger: Ledger, ledger_url: str) -> None:
    assert ledger.version() == HEAD
    code = (
        "import sys; from lern.ledger import Ledger; "
        f"Ledger({ledger_url!r}).migrate(); print('alembic' in sys.modules, 'psycopg' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
