"""What PostgreSQL says about itself and about us, for whoever checks an installation."""

from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa

from lern.ledger.database import Database
from lern.ledger.schema import metadata

_SERVER: Final = sa.text(
    "SELECT current_setting('server_version_num')::int AS version, "
    "(extract(epoch FROM clock_timestamp()) * 1000)::bigint AS now, pg_is_in_recovery() AS standby"
)
_ALLOWED: Final = sa.text("SELECT has_table_privilege(to_regclass(:table), :privilege)")
_NEEDED: Final = ("SELECT", "INSERT", "UPDATE", "DELETE")


@dataclass(frozen=True)
class Server:
    """A PostgreSQL server: its major version, its time (ms), whether it only follows another, what we may not do."""

    version: int
    now: int
    standby: bool
    refused: tuple[str, ...]


class About:
    """The part of the ledger that asks its server about itself."""

    _database: Database

    def server(self) -> Server | None:
        """Ask PostgreSQL; None for SQLite, which has no server. Raises `Unreachable`."""
        if self._database.is_sqlite:
            return None
        with self._database.read() as connection:
            row = connection.execute(_SERVER).one()
            refused = tuple(
                f"{privilege} {table.name}"
                for table in metadata.sorted_tables
                for privilege in _NEEDED
                if connection.scalar(_ALLOWED, {"table": table.name, "privilege": privilege}) is False
            )
        return Server(row.version // 10_000, row.now, row.standby, refused)
