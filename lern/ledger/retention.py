"""Letting go of what is old: ended runs with their journal, a few at a time."""

from typing import Final

import sqlalchemy as sa

from lern.ledger import runs as rows
from lern.ledger.database import Database
from lern.ledger.outbox import NO_RUN
from lern.ledger.records import Pruned
from lern.ledger.schema import attempts, audit, chunks, dead_letters, events, outbox, runs

_ENDED: Final = ("succeeded", "undone", "failed")
_undo: Final = runs.alias("undo")
# Of these nothing is lost that anybody still needs: they have ended long ago, nothing of theirs is half done or
# unsent, and nobody is taking them back.
_OLD: Final = (
    sa.select(runs.c.id)
    .where(
        runs.c.state == sa.bindparam("state"),
        # A run ends after it was created; asked for by this column it is an index that answers.
        runs.c.created_at < sa.bindparam("before"),
        runs.c.ended_at < sa.bindparam("before"),
        ~sa.exists().where(chunks.c.run_id == runs.c.id, chunks.c.state == "open"),
        # Of one that was undone, nothing is sent any more.
        sa.or_(
            runs.c.state == "undone",
            ~sa.exists().where(outbox.c.run_id == runs.c.id, outbox.c.delivered_at.is_(None)),
        ),
        ~sa.exists().where(_undo.c.undo_of == runs.c.id, _undo.c.state.not_in(("succeeded", "undone"))),
    )
    .order_by(runs.c.created_at, runs.c.id)
    .limit(sa.bindparam("limit"))
)
_IDS: Final[sa.BindParameter[str]] = sa.bindparam("ids", expanding=True)
_LET_GO: Final = tuple(table.delete().where(table.c.run_id.in_(_IDS)) for table in (attempts, chunks, outbox, audit))
_FORGET_EVENTS: Final = events.delete().where(events.c.run_id.in_(_IDS))
_FORGET_RUNS: Final = runs.delete().where(runs.c.id.in_(_IDS))
_LETTERS: Final = dead_letters.delete().where(
    dead_letters.c.id.in_(
        sa.select(dead_letters.c.id)
        .where(dead_letters.c.state == "replayed", dead_letters.c.last_at < sa.bindparam("before"))
        .limit(sa.bindparam("limit"))
    )
)
# Announcements of dead letters: they belong to no run that would take them along.
_ANNOUNCED: Final = outbox.delete().where(
    outbox.c.sequence.in_(
        sa.select(outbox.c.sequence)
        .where(outbox.c.run_id == NO_RUN, outbox.c.delivered_at < sa.bindparam("before"))
        .limit(sa.bindparam("limit"))
    )
)


class Retention:
    """The part of the ledger that forgets."""

    _database: Database

    def prune(self, before: int, limit: int = 20) -> Pruned:
        """Let go of at most `limit` runs of each end that ended before a time (ms), with all that belongs to them.

        Kept: what has not ended or has an unfinished chunk, an unsent event or an unfinished undo; merged accounts
        and contributed counters, for ever; dead letters that nobody has replayed. Replayed ones go too. A run goes
        whole or not at all. Nothing is waited for: what a power failure brings back goes the next time.
        """
        with self._database.write(durable=False) as connection:
            # Nobody retries or undoes a run while it goes.
            rows.alone(connection)
            gone = sum(_prune(connection, state, before, limit) for state in _ENDED)
            letters = connection.execute(_LETTERS, {"before": before, "limit": limit}).rowcount
            connection.execute(_ANNOUNCED, {"before": before, "limit": limit})
        return Pruned(gone, letters)


def _prune(connection: sa.Connection, state: str, before: int, limit: int) -> int:
    given = {"state": state, "before": before, "limit": limit}
    ids = [row.id for row in connection.execute(_OLD, given)]
    if ids:
        for statement in (*_LET_GO, _FORGET_EVENTS, _FORGET_RUNS):
            connection.execute(statement, {"ids": ids})
    return len(ids)
