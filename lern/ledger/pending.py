"""What the sweeper looks for: steps that are due, running, queued too long, or anything unfinished."""

import heapq
from typing import Any, Final

import sqlalchemy as sa

from lern.ledger import attempts, audit
from lern.ledger import runs as rows
from lern.ledger.database import Database
from lern.ledger.records import Pending, Run, StepState
from lern.ledger.runs import names_of
from lern.ledger.schema import runs

_PENDING: Final = sa.select(
    runs.c.id,
    runs.c.workflow,
    runs.c.step,
    runs.c.generation,
    runs.c.token,
    runs.c.source,
    runs.c.target,
    runs.c.queued_at,
    runs.c.started_at,
    runs.c.next_at,
    runs.c.steps,
).limit(sa.bindparam("limit"))

# Only a step that waits has a `next_at`. To ask for the state as well would lead SQLite to another index,
# and to sorting everything that waits.
_DUE: Final = _PENDING.where(runs.c.next_at <= sa.bindparam("now")).order_by(runs.c.next_at, runs.c.id)
# The word is written out, because a database takes an index over some rows only if it sees that they suffice.
_QUEUED_BEFORE: Final = _PENDING.where(
    sa.text("step_state = 'queued'"), runs.c.queued_at < sa.bindparam("before")
).order_by(runs.c.queued_at, runs.c.id)
_IN_STATE: Final = _PENDING.where(
    runs.c.step_state == sa.bindparam("step_state"), runs.c.id > sa.bindparam("after")
).order_by(runs.c.id)

_MERGED: Final = (
    sa.select(runs)
    .where(
        sa.text("merge = 1 AND state = 'succeeded'"),
        sa.tuple_(runs.c.ended_at, runs.c.id) > sa.tuple_(sa.bindparam("ended_at"), sa.bindparam("id")),
        runs.c.ended_at <= sa.bindparam("until"),
    )
    .order_by(runs.c.ended_at, runs.c.id)
    .limit(sa.bindparam("limit"))
)
_UNFINISHED: Final[tuple[StepState, ...]] = ("queued", "running", "waiting")


class Sweeping:
    """The part of the ledger that the sweeper asks. Every list is bounded by `limit`."""

    _database: Database

    def due(self, now: int, limit: int = 1_000) -> list[Pending]:
        """Give waiting steps whose time has come, the longest due first."""
        return self._list(_DUE, now=now, limit=limit)

    def running(self, limit: int = 1_000, after: str = "") -> list[Pending]:
        """Give steps that the ledger calls running, by run id, beyond `after`."""
        return self._list(_IN_STATE, step_state="running", after=after, limit=limit)

    def queued_before(self, before: int, limit: int = 1_000) -> list[Pending]:
        """Give steps that have been queued since before a time (ms), the longest first."""
        return self._list(_QUEUED_BEFORE, before=before, limit=limit)

    def unfinished(self, after: str = "", limit: int = 1_000) -> list[Pending]:
        """Give the current steps of all runs that have not ended, by run id, beyond `after`."""
        # One state at a time, because that is how the index is sorted.
        each = [self._list(_IN_STATE, step_state=state, after=after, limit=limit) for state in _UNFINISHED]
        # A run may move from state to state between the reads, and be found twice.
        found = {pending.run_id: pending for some in each for pending in some}
        return [found[run_id] for run_id in heapq.nsmallest(limit, found)]

    def merged(self, after: tuple[int, str], until: int, limit: int = 1_000) -> list[Run]:
        """Give merges that have succeeded, by when they ended: beyond `after` (ended_at, id), up to `until`."""
        given = {"ended_at": after[0], "id": after[1], "until": until, "limit": limit}
        with self._database.read() as connection:
            return [rows.run_of(row) for row in connection.execute(_MERGED, given)]

    def requeue(self, pending: Pending, now: int, act: audit.Act | None = None) -> bool:
        """Say that a step is being sent again. True for one caller only: that one sends it.

        `act`: who had it sent, where that was a person; noted in the same transaction.

        Nothing happens unless the step stands exactly as it was found: whoever moved it on meanwhile is at
        work. A step that was running has lost its worker; that is counted and written down.
        """
        with self._database.write() as connection:
            run = rows.lock(connection, pending.run_id)
            if run is None or not _unmoved(run, pending):
                return False
            lost = {}
            if run.step_state == "running":
                attempts.add(connection, run, now, "lost")
                lost = {"lost": run.lost + 1, "token": None}
            rows.move(connection, run.id, now, state="queued", step_state="queued", queued_at=now, next_at=None, **lost)
            if act is not None:
                audit.note(connection, act)
            return True

    def _list(self, statement: "sa.Select[Any]", **given: object) -> list[Pending]:
        with self._database.read() as connection:
            return [_pending_of(row) for row in connection.execute(statement, given)]


def _unmoved(run: Run, pending: Pending) -> bool:
    found = (pending.step, pending.generation, pending.token, pending.queued_at, pending.next_at)
    return (run.step, run.generation, run.token, run.queued_at, run.next_at) == found


def _pending_of(row: "sa.Row[Any]") -> Pending:
    values = list(row)
    names = names_of(row.steps)
    values[-1] = names[names.index(row.step) :]
    return Pending(*values)
