"""What the sweeper looks for: steps that are due, running, queued too long, or anything unfinished."""

import heapq
from typing import Any, Final

import sqlalchemy as sa

from lern.ledger.database import Database
from lern.ledger.records import Pending, StepState
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

# The words are written out, because a database takes an index over some rows only if it sees that they suffice.
_DUE: Final = _PENDING.where(sa.text("step_state = 'waiting'"), runs.c.next_at <= sa.bindparam("now")).order_by(
    runs.c.next_at, runs.c.id
)
_QUEUED_BEFORE: Final = _PENDING.where(
    sa.text("step_state = 'queued'"), runs.c.queued_at < sa.bindparam("before")
).order_by(runs.c.queued_at, runs.c.id)
_IN_STATE: Final = _PENDING.where(
    runs.c.step_state == sa.bindparam("step_state"), runs.c.id > sa.bindparam("after")
).order_by(runs.c.id)

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

    def _list(self, statement: "sa.Select[Any]", **given: object) -> list[Pending]:
        with self._database.read() as connection:
            return [
                Pending(*row[:-1], remaining=_remaining(row.steps, row.step))
                for row in connection.execute(statement, given)
            ]


def _remaining(steps: str, step: str) -> tuple[str, ...]:
    names = names_of(steps)
    return names[names.index(step) :]
