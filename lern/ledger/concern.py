"""Whom a step must hold: where its target has gone, and whoever an unfinished chunk names."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa

from lern.ledger.database import Database
from lern.ledger.merged_accounts import follow, forwards_of
from lern.ledger.schema import chunks

_USERS: Final[sa.BindParameter[str]] = sa.bindparam("users", expanding=True)
# The word is written out, because a database takes an index over some rows only if it sees that they suffice.
_IS_OPEN: Final = sa.text("state = 'open'")
# Two small questions, because SQLite answers "source or target" by reading the whole table.
_UNFINISHED: Final = sa.union_all(
    sa.select(chunks.c.source, chunks.c.target).where(_IS_OPEN, chunks.c.source.in_(_USERS)),
    sa.select(chunks.c.source, chunks.c.target).where(_IS_OPEN, chunks.c.target.in_(_USERS)),
)


@dataclass(frozen=True, slots=True)
class Concerned:
    """`final`: where the target's rows belong now. `unfinished`: the users of unfinished chunks."""

    final: str
    unfinished: frozenset[str]


class Concern:
    """The part of the ledger that knows who else is concerned by what a step does."""

    _database: Database

    def concerned(self, users: Collection[str], target: str) -> Concerned:
        """Say where `target` has gone, and whom the unfinished chunks of it and of `users` name."""
        with self._database.read() as connection:
            final = follow(target, forwards_of(connection, (target,)))
            rows = connection.execute(_UNFINISHED, {"users": sorted({*users, final})})
            return Concerned(final, frozenset(user for row in rows for user in row))
