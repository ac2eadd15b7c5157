"""Outgoing events: planned with the rows that they announce, delivered or not."""

from collections.abc import Collection, Sequence
from typing import Final

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from lern.ledger.database import Database
from lern.ledger.schema import outbox
from lern.outgoing import OutgoingEvent

_MIDS: Final = outbox.c.mid.in_(sa.bindparam("mids", expanding=True))

# The same statement in two dialects' words. An event that is there already stays as it was planned first.
_PLAN: Final = {
    "sqlite": sqlite.insert(outbox).on_conflict_do_nothing(index_elements=["mid"]),
    "postgresql": postgresql.insert(outbox).on_conflict_do_nothing(index_elements=["mid"]),
}
_UNDELIVERED: Final = (
    sa.select(outbox.c.mid, outbox.c.topic, outbox.c.key, outbox.c.value)
    .where(outbox.c.delivered_at.is_(None))
    .order_by(outbox.c.sequence)
    .limit(sa.bindparam("limit"))
)
_UNDELIVERED_OF_RUN: Final = _UNDELIVERED.where(outbox.c.run_id == sa.bindparam("run_id"))
_UNDELIVERED_OF_STEP: Final = _UNDELIVERED_OF_RUN.where(outbox.c.step == sa.bindparam("step"))
_DELIVERED: Final = (
    outbox.update().where(_MIDS, outbox.c.delivered_at.is_(None)).values(delivered_at=sa.bindparam("now"))
)
_GONE_OUT: Final = (
    sa.select(outbox.c.mid)
    .where(outbox.c.run_id == sa.bindparam("run_id"), outbox.c.delivered_at.is_not(None))
    .order_by(outbox.c.sequence)
)
_KNOWN: Final = sa.select(outbox.c.mid).where(_MIDS)


def plan(connection: sa.Connection, run_id: str, step: str, events: Sequence[OutgoingEvent], now: int) -> None:
    """Put events into the outbox, within the caller's transaction. Those that are there stay as they are."""
    if events:
        connection.execute(
            _PLAN[connection.dialect.name],
            [
                {
                    "run_id": run_id,
                    "step": step,
                    "mid": event.mid,
                    "topic": event.topic,
                    "key": event.key,
                    "value": event.value,
                    "created_at": now,
                }
                for event in events
            ],
        )


class Outbox:
    """The part of the ledger that knows what is to be sent."""

    _database: Database

    def undelivered(
        self,
        run_id: str | None = None,
        step: str | None = None,
        limit: int = 1_000,
        created_before: int | None = None,
    ) -> list[OutgoingEvent]:
        """Give events that are not known to be delivered, in the order in which they were planned.

        Of one step, of one run (`step` None), or of all (`run_id` None); of these, where `created_before`
        (ms) is given, those that were planned before it.
        """
        statement, given = _UNDELIVERED, {}
        if run_id is not None:
            statement, given = _UNDELIVERED_OF_RUN, {"run_id": run_id}
            if step is not None:
                statement, given = _UNDELIVERED_OF_STEP, {"run_id": run_id, "step": step}
        if created_before is not None:
            statement = statement.where(outbox.c.created_at < created_before)
        with self._database.read() as connection:
            rows = connection.execute(statement, {**given, "limit": limit})
            return [OutgoingEvent(mid, topic, key, value) for mid, topic, key, value in rows]

    def delivered(self, mids: Collection[str], now: int) -> None:
        """Note that events have arrived. Noting it again changes nothing; an unknown mid is ignored."""
        if mids:
            with self._database.write() as connection:
                connection.execute(_DELIVERED, {"mids": sorted(mids), "now": now})

    def delivered_mids(self, run_id: str) -> list[str]:
        """Give the message ids of a run's events that have gone out, in order."""
        with self._database.read() as connection:
            return list(connection.scalars(_GONE_OUT, {"run_id": run_id}))

    def known_mids(self, mids: Collection[str]) -> set[str]:
        """Give those of `mids` that this system has planned itself, delivered or not."""
        if not mids:
            return set()
        with self._database.read() as connection:
            return set(connection.scalars(_KNOWN, {"mids": sorted(mids)}))
