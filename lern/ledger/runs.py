"""Rows of `runs`: reading them, listing them, moving them on."""

import json
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, Final

import sqlalchemy as sa

from lern.ledger import attempts, audit, merged_accounts
from lern.ledger.database import Database
from lern.ledger.prepared import Prepared
from lern.ledger.records import Attempt, Run, RunDetail, RunState, Step
from lern.ledger.schema import chunks, events, runs

_OF_ID: Final = sa.select(runs).where(runs.c.id == sa.bindparam("run_id"))
_ONE: Final = Prepared(_OF_ID)
_LOCKED: Final = Prepared(_OF_ID.with_for_update())
# What is set follows from the names of the values that are given.
_MOVE: Final = Prepared(runs.update().where(runs.c.id == sa.bindparam("run_id")))
_EVENT: Final = sa.select(events.c.value).where(events.c.run_id == sa.bindparam("run_id"))
_UNDOING: Final = sa.select(runs).where(runs.c.undo_of == sa.bindparam("run_id")).order_by(runs.c.number)
_COUNTS: Final = sa.select(runs.c.state, sa.func.count()).group_by(runs.c.state)
_USERS: Final[sa.BindParameter[str]] = sa.bindparam("users", expanding=True)
_FIRST_CHUNK: Final = (
    sa.select(chunks.c.id, chunks.c.step)
    .where(chunks.c.run_id == sa.bindparam("run_id"))
    .order_by(chunks.c.id)
    .limit(1)
)
_UPSTREAM: Final[sa.BindParameter[str]] = sa.bindparam("upstream", expanding=True)
_FIRST: Final = sa.bindparam("first", type_=sa.BigInteger)
_ENTERED_LATER: Final = runs.c.number > sa.bindparam("number", type_=sa.BigInteger)
_HAS_WORKED: Final = sa.exists().where(chunks.c.run_id == runs.c.id)
_earlier: Final = chunks.alias("earlier")
_HAD_BEGUN: Final = sa.exists().where(_earlier.c.run_id == runs.c.id, _earlier.c.id <= _FIRST).correlate(runs)
# Merges into one account that work in turns do so side by side, and the one that began later is undone first. But
# what came by way of the source goes where the source went; and of sums of the same kind of row, only the last can be
# told from what was there before.
_HAS_WORKED_SINCE: Final = sa.exists().where(
    chunks.c.run_id == runs.c.id,
    chunks.c.id > _FIRST,
    sa.or_(_ENTERED_LATER, chunks.c.created_at >= sa.bindparam("since", type_=sa.BigInteger)),
    sa.or_(~_HAD_BEGUN, runs.c.target.in_(_UPSTREAM), chunks.c.step == sa.bindparam("first_step", type_=sa.Text)),
)
_STANDS_LATER: Final = (
    runs.c.id != sa.bindparam("run_id", type_=sa.Text),
    runs.c.merge == 1,
    runs.c.state != "undone",
    sa.or_(_HAS_WORKED_SINCE, sa.and_(_ENTERED_LATER, runs.c.state != "failed", ~_HAS_WORKED)),
)
# Two questions, because each has an index.
_LATER_MERGES: Final = sa.union(
    sa.select(runs).where(runs.c.source.in_(_USERS), *_STANDS_LATER),
    sa.select(runs).where(runs.c.target.in_(_USERS), *_STANDS_LATER),
).order_by("number")
# One number for everything that decides by what several runs say: entering, retrying, undoing.
_ALONE: Final = sa.select(sa.func.pg_advisory_xact_lock(0x6C65726E_00000002))


def alone(connection: sa.Connection) -> None:
    """Let nobody else enter, retry or undo until the transaction ends. On SQLite every write is alone."""
    if connection.dialect.name == "postgresql":
        connection.execute(_ALONE)


def run_of(row: Sequence[Any]) -> Run:
    """Make a record of a row of `runs`."""
    values = list(row)
    values[_STEPS] = names_of(values[_STEPS])
    values[_MERGE] = bool(values[_MERGE])
    values[_WARNINGS] = names_of(values[_WARNINGS])
    return Run(*values)


_COLUMNS: Final = [column.name for column in runs.columns]
_STEPS: Final = _COLUMNS.index("steps")
_MERGE: Final = _COLUMNS.index("merge")
_WARNINGS: Final = _COLUMNS.index("warnings")


@lru_cache(maxsize=256)
def names_of(text: str) -> tuple[str, ...]:
    """Read a JSON array of texts. The same few stand in every row."""
    return tuple(json.loads(text))


def find(connection: sa.Connection, run_id: str) -> Run | None:
    """Read a run."""
    row = _ONE.first(connection, run_id=run_id)
    return None if row is None else run_of(row)


def lock(connection: sa.Connection, run_id: str) -> Run | None:
    """Read a run, and let nobody else change it until the transaction ends."""
    row = _LOCKED.first(connection, run_id=run_id)
    return None if row is None else run_of(row)


def move(connection: sa.Connection, run_id: str, now: int, **changes: object) -> None:
    """Set columns of a run that the transaction has locked."""
    _MOVE.run(connection, run_id=run_id, updated_at=now, **changes)


def undoing(connection: sa.Connection, run_id: str) -> list[Run]:
    """Give the runs that take a run back, the earliest first."""
    return [run_of(row) for row in connection.execute(_UNDOING, {"run_id": run_id})]


def later_merges(connection: sa.Connection, run: Run) -> list[Run]:
    """Give the merges of a merge's accounts that came after it and stand: the earliest entered first.

    What counts is when they worked: one that was entered before but tried again since has come after. One that has
    not worked yet counts by when it was entered. Of any other run there are none: a merge touches no course batch, so
    no merge stands in a transfer's way back.
    """
    if not run.merge:
        return []
    forwards = merged_accounts.forwards_of(connection, (run.target,))
    ends = {run.source, run.target, merged_accounts.follow(run.target, forwards)}
    first = connection.execute(_FIRST_CHUNK, {"run_id": run.id}).first()
    given = {
        "run_id": run.id,
        "number": run.number,
        "users": sorted(merged_accounts.all_that_lead_to(connection, ends)),
        "upstream": sorted(merged_accounts.all_that_lead_to(connection, {run.source})),
        "first": 0 if first is None else first.id,
        "first_step": "" if first is None else first.step,
        # A merge that had nothing to do has still said where what comes to its source goes.
        "since": run.created_at if first is None else 0,
    }
    return [run_of(row) for row in connection.execute(_LATER_MERGES, given)]


class Runs:
    """The part of the ledger that shows runs."""

    _database: Database

    def peek(self, run_id: str) -> Run | None:
        """Give a run as it stands, None if the ledger does not know it. One cheap read."""
        with self._database.read() as connection:
            return find(connection, run_id)

    def event(self, run_id: str) -> bytes:
        """Give the bytes of the event that the run was entered for. Raises KeyError for an unknown run."""
        with self._database.read() as connection:
            value: bytes | None = connection.scalar(_EVENT, {"run_id": run_id})
        if value is None:
            raise KeyError(run_id)
        return value

    def run(self, run_id: str) -> RunDetail | None:
        """Give a run with its event, steps, attempts and audit, None if the ledger does not know it."""
        with self._database.read() as connection:
            run = find(connection, run_id)
            if run is None:
                return None
            history = attempts.of_run(connection, run_id)
            return RunDetail(
                run,
                connection.execute(_EVENT, {"run_id": run_id}).scalar_one(),
                _steps(run, history),
                history,
                audit.of_run(connection, run_id),
                tuple(undo.id for undo in undoing(connection, run_id)),
            )

    def runs(
        self,
        *,
        state: RunState | None = None,
        workflow: str | None = None,
        user: str | None = None,
        since: int | None = None,
        until: int | None = None,
        limit: int = 100,
    ) -> list[Run]:
        """List runs, the newest first; what is None does not restrict.

        `user`: the source or the target. `since` <= created_at < `until`.
        """
        query = sa.select(runs).order_by(runs.c.created_at.desc(), runs.c.id.desc()).limit(limit)
        restrictions: list[tuple[object, Callable[[], sa.ColumnElement[bool]]]] = [
            (state, lambda: runs.c.state == state),
            (workflow, lambda: runs.c.workflow == workflow),
            (user, lambda: sa.or_(runs.c.source == user, runs.c.target == user)),
            (since, lambda: runs.c.created_at >= since),
            (until, lambda: runs.c.created_at < until),
        ]
        query = query.where(*(condition() for value, condition in restrictions if value is not None))
        with self._database.read() as connection:
            return [run_of(row) for row in connection.execute(query)]

    def counts(self) -> dict[RunState, int]:
        """Count the runs by state; a state that none is in is absent."""
        with self._database.read() as connection:
            return {state: number for state, number in connection.execute(_COUNTS)}  # noqa: C416 - typed by it

    def later_merges(self, run_id: str) -> list[Run]:
        """Give the merges of either account that came after a run and stand, the earliest entered first.

        Those that failed before they journalled anything, and those that were undone, do not stand. As
        long as the caller holds the accounts' locks, a merge that is not among them has not begun.
        Raises KeyError for an unknown run.
        """
        with self._database.read() as connection:
            run = find(connection, run_id)
            if run is None:
                raise KeyError(run_id)
            return later_merges(connection, run)


def _steps(run: Run, history: tuple[Attempt, ...]) -> tuple[Step, ...]:
    """Tell each step of a run: the current one by the run's row, the ones before by how they ended."""
    done = {attempt.step: attempt for attempt in history if attempt.outcome == "succeeded"}
    return tuple(
        _done(run, position, done[name], history) if position < run.position else _to_do(run, position)
        for position, name in enumerate(run.steps)
    )


def _done(run: Run, position: int, last: Attempt, history: tuple[Attempt, ...]) -> Step:
    same = [a for a in history if a.step == last.step and a.generation == last.generation]
    return Step(
        name=last.step,
        position=position,
        state=run.state_of(last.step),
        attempts=sum(a.outcome in {"retry", "failed"} for a in same),
        lost=sum(a.outcome == "lost" for a in same),
        queued_at=None,
        started_at=last.started_at,
        ended_at=last.ended_at,
        next_at=None,
        reason=None,
        error=None,
        result=last.result,
    )


def _to_do(run: Run, position: int) -> Step:
    name = run.steps[position]
    current = name == run.step
    return Step(
        name=name,
        position=position,
        state=run.state_of(name),
        attempts=run.attempts if current else 0,
        lost=run.lost if current else 0,
        queued_at=run.queued_at if current else None,
        started_at=run.started_at if current else None,
        ended_at=run.ended_at if current else None,
        next_at=run.next_at if current else None,
        reason=run.reason if current else None,
        error=run.error if current else None,
        result=None,
    )
