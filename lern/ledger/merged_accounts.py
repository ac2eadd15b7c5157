"""Accounts that were merged away, and where they went."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa

from lern.ledger.database import Database
from lern.ledger.records import ALREADY_MERGED, MERGE_CIRCLE, MergedAccount, Refusal
from lern.ledger.schema import merged_accounts

_OF: Final = sa.select(merged_accounts).where(merged_accounts.c.source == sa.bindparam("source"))
_FORWARDS: Final = sa.select(merged_accounts.c.source, merged_accounts.c.target).where(
    merged_accounts.c.source.in_(sa.bindparam("users", expanding=True))
)
_BACKWARDS: Final = sa.select(merged_accounts.c.source).where(
    merged_accounts.c.target.in_(sa.bindparam("users", expanding=True))
)
ENTER: Final = merged_accounts.insert()


@dataclass(frozen=True, slots=True)
class Admitted:
    """The merge may be entered. `final`: where it leads; `remember`: the source was not merged before."""

    final: str
    remember: bool


def admit(source: str, target: str, forwards: Mapping[str, str]) -> Admitted | Refusal:
    """Decide whether an account may be merged into another.

    `forwards`: merged account → where it went, complete for both. A source that was merged before into the
    same final account is a sweep of late rows.
    """
    final = follow(target, forwards)
    if source in {final, target}:
        reason = f"{target} was merged into {source} before: this merge would close a circle"
        return Refusal(MERGE_CIRCLE, "edata.toAccountId", reason)
    if source not in forwards:
        return Admitted(final, remember=True)
    went = follow(source, forwards)
    if went != final:
        return Refusal(ALREADY_MERGED, "edata.fromAccountId", f"{source} is already merged into {went}")
    return Admitted(final, remember=False)


def follow(user: str, forwards: Mapping[str, str]) -> str:
    """Give the account where a merged account's rows are in the end. `enter` lets no circle come to be."""
    while user in forwards:
        user = forwards[user]
    return user


def forwards_of(connection: sa.Connection, users: Collection[str]) -> dict[str, str]:
    """Read where accounts went, and where those went, to the end."""
    forwards: dict[str, str] = {}
    asked: set[str] = set()
    while open_ends := {*users, *forwards.values()} - asked:
        rows = connection.execute(_FORWARDS, {"users": sorted(open_ends)})
        forwards.update((row.source, row.target) for row in rows)
        asked |= open_ends
    return forwards


def all_that_lead_to(connection: sa.Connection, users: Collection[str]) -> set[str]:
    """Give the accounts themselves and all that were merged into them, however many merges ago."""
    found: set[str] = set()
    latest = set(users)
    while latest:
        found |= latest
        latest = set(connection.scalars(_BACKWARDS, {"users": sorted(latest)})) - found
    return found


class MergedAccounts:
    """The part of the ledger that knows who was merged into whom."""

    _database: Database

    def final_account(self, user: str) -> str:
        """Give the account where a user's rows belong now: the user, unless it was merged away."""
        with self._database.read() as connection:
            return follow(user, forwards_of(connection, (user,)))

    def merged_into(self, user: str) -> MergedAccount | None:
        """Give the entry of an account that was merged away, None if it was not."""
        with self._database.read() as connection:
            row = connection.execute(_OF, {"source": user}).first()
        return None if row is None else MergedAccount(*row)
