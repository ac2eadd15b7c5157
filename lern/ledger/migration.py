"""Bringing the ledger's schema to this version's, by any number of processes that start at once."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import sqlalchemy as sa

from lern.errors import SchemaMissing
from lern.ledger.database import Database, directory_of
from lern.ledger.schema import HEAD

_DIRECTORY: Final = Path(__file__).parent / "migrations"
_VERSION: Final = sa.text("SELECT version_num FROM alembic_version")
# Any number will do, as long as nothing else on that server uses it: "lern" in ASCII, then 1.
_ADVISORY_LOCK: Final = 0x6C65726E_00000001


class Migration:
    """The part of the ledger that knows about its schema's revisions."""

    _database: Database

    def version(self) -> str | None:
        """Give the revision that the database is at, None if it has no schema. Raises `Unreachable`."""
        file = self._database.file
        if file is not None and not file.exists():
            return None
        try:
            with self._database.read() as connection:
                return connection.execute(_VERSION).scalar()
        except SchemaMissing:
            return None

    def migrate(self) -> None:
        """Create the schema or bring it to this version's; nothing but one SELECT where it is there.

        Safe for several processes at once: one migrates, the others wait and find it done. A process that
        dies in between leaves the schema as it was. Raises `Unreachable`.
        """
        if self.version() == HEAD:
            return
        with self._alone() as connection:
            _upgrade(connection)

    @contextmanager
    def _alone(self) -> Iterator[sa.Connection]:
        """Give a connection within a transaction that no other migration runs beside."""
        if self._database.file is None:
            with self._database.write() as connection:
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_ADVISORY_LOCK)))
                yield connection
            return
        directory_of(self._database.file)
        # A lock file, because turning on the write-ahead log is not possible within a transaction, and
        # SQLite does not wait for others there.
        with self._database.file.with_name(f"{self._database.file.name}.migrating").open("a") as fence:
            fcntl.flock(fence, fcntl.LOCK_EX)
            with self._database.read() as connection:
                connection.exec_driver_sql("PRAGMA journal_mode=WAL")
            with self._database.write() as connection:
                yield connection


def _upgrade(connection: sa.Connection) -> None:
    # Imported here: at head, which is nearly always, Alembic is not needed, and it is slow to import.
    from alembic import command  # noqa: PLC0415 - see above
    from alembic.config import Config  # noqa: PLC0415 - see above

    config = Config()
    config.set_main_option("script_location", str(_DIRECTORY).replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
