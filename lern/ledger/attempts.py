"""The history of a run's steps: one row for each execution that has ended, however it ended."""

import json
from collections.abc import Sequence
from typing import Any, Final

import sqlalchemy as sa

from lern.ledger.prepared import Prepared
from lern.ledger.records import Attempt, Json, Outcome, Run, safe, text_of
from lern.ledger.schema import attempts

_ADD: Final = Prepared(attempts.insert())
_OF_RUN: Final = (
    sa.select(
        attempts.c.step,
        attempts.c.generation,
        attempts.c.number,
        attempts.c.token,
        attempts.c.started_at,
        attempts.c.ended_at,
        attempts.c.outcome,
        attempts.c.reason,
        attempts.c.error,
        attempts.c.result,
    )
    .where(attempts.c.run_id == sa.bindparam("run_id"))
    .order_by(attempts.c.id)
)
_BY_TOKEN: Final = sa.select(attempts.c.outcome).where(
    attempts.c.run_id == sa.bindparam("run_id"),
    attempts.c.step == sa.bindparam("step"),
    attempts.c.token == sa.bindparam("token"),
)


def add(
    connection: sa.Connection,
    run: Run,
    now: int,
    outcome: Outcome,
    *,
    reason: str | None = None,
    error: str | None = None,
    result: Json | None = None,
) -> None:
    """Note how the execution that holds the run's current step has ended. `run` as it stood before that."""
    _ADD.run(
        connection,
        run_id=run.id,
        step=run.step,
        generation=run.generation,
        number=run.attempts + 1,
        token=run.token,
        started_at=run.started_at,
        ended_at=now,
        outcome=outcome,
        reason=reason,
        error=safe(error),
        result=None if result is None else text_of(result),
    )


def of_run(connection: sa.Connection, run_id: str) -> tuple[Attempt, ...]:
    """Give a run's attempts, the earliest first."""
    rows = connection.execute(_OF_RUN, {"run_id": run_id})
    return tuple(_attempt_of(row) for row in rows)


def outcome_of(connection: sa.Connection, run_id: str, step: str, token: str) -> Outcome | None:
    """Tell how the execution with this token has ended; None: it has not, or has never held the step."""
    outcome: Outcome | None = connection.scalar(_BY_TOKEN, {"run_id": run_id, "step": step, "token": token})
    return outcome


def results_of(connection: sa.Connection, run: Run) -> dict[str, Json]:
    """Give the result of each step of a run that is done, the last if it was done more than once."""
    done = run.steps[: run.position]
    return {
        attempt.step: attempt.result or {}
        for attempt in of_run(connection, run.id)
        if attempt.outcome == "succeeded" and attempt.step in done
    }


def _attempt_of(row: Sequence[Any]) -> Attempt:
    values = list(row)
    values[-1] = None if values[-1] is None else json.loads(values[-1])
    return Attempt(*values)
