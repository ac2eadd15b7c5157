"""Outgoing events: planned with the rows that they announce, delivered or not."""

from collections.abc import Collection, Sequence
from functools import cache
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from lern.ledger.database import Database
from lern.ledger.prepared import Prepared
from lern.ledger.schema import chunks, outbox, runs
from lern.outgoing import OutgoingEvent

_MIDS: Final = outbox.c.mid.in_(sa.bindparam("mids", expanding=True))

# The same statement in two dialects' words. An event that is there already stays as it was planned first.
_PLAN: Final = {
    "sqlite": sqlite.insert(outbox).on_conflict_do_nothing(index_elements=["mid"]),
    "postgresql": postgresql.insert(outbox).on_conflict_do_nothing(index_elements=["mid"]),
}
_DELIVERED: Final = Prepared(
    outbox.update().where(_MIDS, outbox.c.delivered_at.is_(None)).values(delivered_at=sa.bindparam("now"))
)
# Steps whose rows are not all written yet: what announces them must not be heard before. The word is written out,
# because a database takes an index over some rows only if it sees that they suffice.
_UNFINISHED: Final = sa.select(chunks.c.run_id, chunks.c.step).where(sa.text("state = 'open'"))
_OF_RUN: Final = sa.select(outbox.c.mid).where(outbox.c.run_id == sa.bindparam("run_id")).order_by(outbox.c.sequence)
_GONE_OUT: Final = _OF_RUN.where(outbox.c.delivered_at.is_not(None))
_NOT_GONE_OUT: Final = _OF_RUN.where(outbox.c.delivered_at.is_(None))
# What a run announces is no longer so once it has been taken back: its state takes its events with it.
_TAKEN_BACK: Final = sa.exists().where(runs.c.id == outbox.c.run_id, runs.c.state == "undone")
_KNOWN: Final = Prepared(sa.select(outbox.c.mid).where(_MIDS))


# In place of a step: of an event that speaks of the run itself and waits for no rows.
OF_THE_RUN: Final = "run"
# In place of a run: of an event that speaks of none, as that of a dead letter.
NO_RUN: Final = ""


def plan(connection: sa.Connection, run_id: str, step: str, events: Sequence[OutgoingEvent], now: int) -> None:
    """Put events into the outbox, within the caller's transaction. Those that are there stay as they are.

    They wait until no chunk of that step of the run is open.
    """
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


@cache
def _undelivered(*restrictions: str) -> Prepared:
    conditions = {
        "run_id": outbox.c.run_id == sa.bindparam("run_id"),
        "created_before": outbox.c.created_at < sa.bindparam("created_before"),
        "but": outbox.c.topic.not_in(sa.bindparam("but", expanding=True)),
    }
    return Prepared(
        sa.select(outbox.c.mid, outbox.c.topic, outbox.c.key, outbox.c.value)
        .where(
            outbox.c.delivered_at.is_(None),
            sa.tuple_(outbox.c.run_id, outbox.c.step).not_in(_UNFINISHED),
            ~_TAKEN_BACK,
            *(conditions[name] for name in restrictions),
        )
        .order_by(outbox.c.sequence)
        .limit(sa.bindparam("limit"))
    )


class Outbox:
    """The part of the ledger that knows what is to be sent."""

    _database: Database

    def undelivered(
        self,
        run_id: str | None = None,
        limit: int = 1_000,
        created_before: int | None = None,
        but: Collection[str] = (),
    ) -> list[OutgoingEvent]:
        """Give events that are to be sent and not known to be delivered, in the order in which they were planned.

        Of one run, or of all (`run_id` None); of these, where `created_before` (ms) is given, those that were
        planned before it, and none that is for one of the topics in `but`. What announces rows is not among them
        while a chunk of its step is open, nor is anything of a run that was undone.
        """
        given = {"run_id": run_id, "created_before": created_before, "but": sorted(but) or None}
        restrictions: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        with self._database.read() as connection:
            rows = _undelivered(*restrictions).all(connection, **restrictions, limit=limit)
        return [OutgoingEvent(*row) for row in rows]

    def leave(self, events: Sequence[OutgoingEvent], now: int) -> None:
        """Leave events that speak of no run to whoever sends what nobody has sent."""
        with self._database.write() as connection:
            plan(connection, NO_RUN, OF_THE_RUN, events, now)

    def delivered(self, mids: Collection[str], now: int) -> None:
        """Note that events have arrived. Noting it again changes nothing; an unknown mid is ignored.

        Lost in a power failure, the events are sent once more, as they are when their sender dies just here.
        """
        if mids:
            with self._database.write(durable=False) as connection:
                _DELIVERED.run(connection, mids=sorted(mids), now=now)

    def delivered_mids(self, run_id: str) -> list[str]:
        """Give the message ids of a run's events that have gone out, in order."""
        with self._database.read() as connection:
            return list(connection.scalars(_GONE_OUT, {"run_id": run_id}))

    def unsent_mids(self, run_id: str) -> list[str]:
        """Give the message ids of a run's events that have not gone out, in order. Of an undone run: taken back."""
        with self._database.read() as connection:
            return list(connection.scalars(_NOT_GONE_OUT, {"run_id": run_id}))

    def known_mids(self, mids: Collection[str]) -> set[str]:
        """Give those of `mids` that this system has planned itself, delivered or not."""
        if not mids:
            return set()
        with self._database.read() as connection:
            return {mid for (mid,) in _KNOWN.all(connection, mids=sorted(mids))}
