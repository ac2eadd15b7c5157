"""Whom a step must hold: where its target has gone, and whoever an unfinished chunk names."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa

from lern.ledger.database import Database
from lern.ledger.merged_accounts import follow, forwards_of
from lern.ledger.prepared import Prepared
from lern.ledger.schema import chunks, merged_accounts

_USERS: Final[sa.BindParameter[str]] = sa.bindparam("users", expanding=True)
_KINDS: Final[sa.BindParameter[str]] = sa.bindparam("kinds", expanding=True)
# The word is written out, because a database takes an index over some rows only if it sees that they suffice.
_IS_OPEN: Final = sa.text("state = 'open'")
# Two small questions, because SQLite answers "source or target" by reading the whole table.
_NAMES: Final = sa.select(sa.literal_column("0"), chunks.c.source, chunks.c.target)
_UNFINISHED: Final = (
    _NAMES.where(_IS_OPEN, chunks.c.source.in_(_USERS), chunks.c.kind.in_(_KINDS)),
    _NAMES.where(_IS_OPEN, chunks.c.target.in_(_USERS), chunks.c.kind.in_(_KINDS)),
)
# Nearly no target was merged away, so that both are asked at once.
_CONCERNED: Final = Prepared(
    sa.union_all(
        sa.select(sa.literal_column("1"), merged_accounts.c.source, merged_accounts.c.target).where(
            merged_accounts.c.source == sa.bindparam("of_target")
        ),
        *_UNFINISHED,
    )
)


@dataclass(frozen=True, slots=True)
class Concerned:
    """`final`: where the target's rows belong now. `unfinished`: the users of unfinished chunks."""

    final: str
    unfinished: frozenset[str]


class Concern:
    """The part of the ledger that knows who else is concerned by what a step does."""

    _database: Database

    def concerned(self, users: Collection[str], target: str, kinds: Collection[str]) -> Concerned:
        """Say where `target` has gone, and whom the unfinished chunks of it and of `users` name, of some kinds."""
        with self._database.read() as connection:
            rows = _CONCERNED.all(connection, of_target=target, users=sorted({*users, target}), kinds=kinds)
            final = target
            if any(is_merged for is_merged, *_ in rows):
                final = follow(target, forwards_of(connection, (target,)))
                rows = _CONCERNED.all(connection, of_target=target, users=sorted({*users, final}), kinds=kinds)
            return Concerned(final, frozenset(user for is_merged, *pair in rows if not is_merged for user in pair))
