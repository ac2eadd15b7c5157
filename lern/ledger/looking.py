"""What stands beside the runs: the journal's chunks one by one, dead letters by reason, what was done about them."""

import json
from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa

from lern.ledger.database import Database
from lern.ledger.paging import COUNTED, MOST_GROUPS, Counted
from lern.ledger.records import AuditEntry, ChunkState, DeadLetter, DeadState, Json
from lern.ledger.schema import audit, chunks, dead_letters

_HEADS: Final = (
    sa.select(
        chunks.c.id,
        chunks.c.step,
        chunks.c.number,
        chunks.c.kind,
        chunks.c.state,
        chunks.c.counts,
        chunks.c.created_at,
        chunks.c.ended_at,
    )
    .where(chunks.c.run_id == sa.bindparam("run_id"), chunks.c.id > sa.bindparam("after"))
    .order_by(chunks.c.id)
    .limit(sa.bindparam("limit"))
)
_OF_DEAD: Final = sa.select(audit).where(audit.c.dead_id == sa.bindparam("dead_id")).order_by(audit.c.id)


@dataclass(frozen=True, slots=True)
class ChunkHead:
    """A journalled chunk without its rows."""

    id: int
    step: str
    number: int
    kind: str
    state: ChunkState
    counts: Json
    created_at: int
    ended_at: int | None


@dataclass(frozen=True, slots=True)
class DeadGroup:
    """The dead letters of one code. `latest` is the one that came last."""

    code: str
    counted: Counted
    latest: DeadLetter


class Looking:
    """The part of the ledger that shows chunks and dead letters to people."""

    _database: Database

    def chunk_heads(self, run_id: str, *, after: int = 0, limit: int = 100) -> list[ChunkHead]:
        """List a run's chunks in their order, beyond the id `after`, without reading their rows."""
        given = {"run_id": run_id, "after": after, "limit": limit}
        with self._database.read() as connection:
            rows = connection.execute(_HEADS, given).all()
        return [ChunkHead(*row[:5], json.loads(row[5]), *row[6:]) for row in rows]

    def count_dead(
        self, state: DeadState, code: str | None = None, text: str | None = None, limit: int = COUNTED
    ) -> Counted:
        """Count dead letters, up to `limit`; `text` is found in the reason."""
        query = sa.select(dead_letters.c.id).where(dead_letters.c.state == state).limit(limit + 1)
        if code is not None:
            query = query.where(dead_letters.c.code == code)
        if text is not None:
            query = query.where(dead_letters.c.reason.icontains(text, autoescape=True))
        counted = sa.select(sa.func.count()).select_from(query.subquery())
        with self._database.read() as connection:
            number = connection.scalar(counted) or 0
        return Counted(min(number, limit), number > limit)

    def dead_groups(self, state: DeadState) -> list[DeadGroup]:
        """Group the dead letters of a state by their code, the largest group first."""
        with self._database.read() as connection:
            codes = _codes(connection, state)
        made = [self._dead_group(state, code) for code in codes]
        return sorted(filter(None, made), key=lambda group: -group.counted.number)

    def audit_of_dead(self, dead_id: int) -> tuple[AuditEntry, ...]:
        """Give what people did about a dead letter, the earliest first."""
        with self._database.read() as connection:
            return tuple(AuditEntry(*row) for row in connection.execute(_OF_DEAD, {"dead_id": dead_id}))

    def _dead_group(self, state: DeadState, code: str) -> DeadGroup | None:
        letters = dead_letters.c
        newest = sa.select(dead_letters).where(letters.state == state, letters.code == code)
        newest = newest.order_by(letters.last_at.desc(), letters.id.desc()).limit(1)
        with self._database.read() as connection:
            row = connection.execute(newest).first()
        return None if row is None else DeadGroup(code, self.count_dead(state, code), DeadLetter(*row))


def _codes(connection: sa.Connection, state: DeadState) -> list[str]:
    """Give the different codes of a state, by one step through the index for each."""
    found: list[str] = []
    query = sa.select(sa.func.min(dead_letters.c.code)).where(dead_letters.c.state == state)
    following = query.where(dead_letters.c.code > sa.bindparam("last", type_=sa.Text))
    code = connection.scalar(query)
    while code is not None and len(found) < MOST_GROUPS:
        found.append(code)
        code = connection.scalar(following, {"last": code})
    return found
