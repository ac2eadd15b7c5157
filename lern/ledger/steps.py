"""One step of a run, from the queue to its end. Every change is a compare-and-set on the run's row.

The token is that of one execution. Who holds it may end the step; whoever begins the step after that
(because the holder died, and its locks became free) takes it over with a token of its own.
"""

from dataclasses import replace
from typing import Any

import sqlalchemy as sa

from lern.errors import LockLost
from lern.ledger import attempts, outbox, runs
from lern.ledger.database import Database
from lern.ledger.records import ACTIVE, Begin, Finished, Json, LostTooOften, Run, Stale, Started, safe, text_of
from lern.outgoing import OutgoingEvent


class Steps:
    """The part of the ledger that a step speaks to while it works."""

    _database: Database

    def begin(self, run_id: str, step: str, generation: int, token: str, now: int, max_lost: int) -> Begin:
        """Take a step. The caller holds the users' locks, so whoever held the step before is gone.

        Losing this mark in a power failure is harmless (the step is begun again), so it is not waited for.
        After `LostTooOften` the step is this token's as well: it is to be failed. Raises `Unreachable`.
        """
        with self._database.write(durable=False) as connection:
            run = runs.lock(connection, run_id)
            if run is None:
                return Stale("the ledger does not know this run", None)
            useless = _useless(run, step, generation)
            if useless is not None:
                return Stale(useless, run)
            if run.steps.index(step) < run.position:
                return Finished(run, attempts.results_of(connection, run).get(step, {}))
            return _take(connection, run, token, now, max_lost)

    def finish(
        self,
        run_id: str,
        step: str,
        generation: int,
        token: str,
        result: Json,
        now: int,
        *,
        durable: bool = True,
    ) -> str | None:
        """Mark a step as succeeded and give the next one (None: the run has succeeded).

        `result` is JSON; its "warnings" (a list of texts) are added to the run's. Doing it again with the
        same token gives the same answer. `durable=False`: the mark may be lost by a power failure (never by
        the end of a process); then the step is done again and finds its chunks marked. That is as good
        between two steps; nobody must be told that a run has succeeded before that is durable. Raises
        `LockLost` if someone else has taken the step over.
        """
        with self._database.write(durable=durable) as connection:
            run = runs.lock(connection, run_id)
            if run is None or not _holds(run, step, generation, token):
                return _finished_before(connection, run, step, token)
            attempts.add(connection, run, now, "succeeded", result=result)
            following = run.steps[run.position + 1 :]
            changes = _on_to(following[0], now) if following else _at_end(now)
            warnings = _with_warnings(run, result)
            runs.move(connection, run_id, now, **changes, **warnings)
            return following[0] if following else None

    def step_aside(
        self,
        run_id: str,
        step: str,
        generation: int,
        token: str | None,
        now: int,
        next_at: int,
        reason: str,
        error: str | None = None,
        *,
        counts: bool = False,
    ) -> bool:
        """Let a step wait until `next_at`. `counts`: something failed, and it uses up an attempt.

        `token` None: the step was never begun, because its users were busy. `reason` is a code, `error`
        the text for people. True: the step waits (now, or since before). False: it is no longer this
        caller's to say, and nothing has changed.
        """
        with self._database.write() as connection:
            run = runs.lock(connection, run_id)
            if run is None or not _may_end(run, step, generation, token):
                return _ended_before(connection, run, step, generation, token, "waiting")
            if token is not None:
                attempts.add(connection, run, now, "retry" if counts else "waiting", reason=reason, error=error)
            changes = {"attempts": run.attempts + 1} if counts else {}
            runs.move(
                connection,
                run_id,
                now,
                state="waiting",
                step_state="waiting",
                token=None,
                next_at=next_at,
                reason=reason,
                error=safe(error),
                **changes,
            )
            return True

    def fail(
        self,
        run_id: str,
        step: str,
        generation: int,
        token: str | None,
        now: int,
        code: str,
        error: str,
        event: OutgoingEvent | None,
    ) -> bool:
        """Give a step up, and its run with it; `event` tells the others and goes into the outbox with it.

        `token` None: the step was never begun. True: the run has failed (now, or by this token before).
        False: it is no longer this caller's to say, and nothing has changed.
        """
        with self._database.write() as connection:
            run = runs.lock(connection, run_id)
            if run is None or not _may_end(run, step, generation, token):
                return _ended_before(connection, run, step, generation, token, "failed")
            attempts.add(connection, run, now, "failed", reason=code, error=error)
            runs.move(
                connection,
                run_id,
                now,
                state="failed",
                step_state="failed",
                attempts=run.attempts + 1,
                token=None,
                next_at=None,
                ended_at=now,
                reason=code,
                error=safe(error),
            )
            outbox.plan(connection, run_id, outbox.OF_THE_RUN, () if event is None else (event,), now)
            return True


def _useless(run: Run, step: str, generation: int) -> str | None:
    """Tell why a message for a step has nothing to do, None if it has."""
    if run.state not in ACTIVE:
        return f"the run is {run.state}"
    if run.generation != generation:
        return f"the message is of generation {generation}, the run of {run.generation}"
    if step not in run.steps:
        return f"{step} is no step of this run"
    if run.steps.index(step) > run.position:
        return f"{run.step} comes first"
    return None


def _take(connection: sa.Connection, run: Run, token: str, now: int, max_lost: int) -> Started | LostTooOften:
    changes: dict[str, Any] = {"step_state": "running", "token": token, "started_at": now}
    if run.step_state == "running" and run.token != token:
        attempts.add(connection, run, now, "lost")
        changes["lost"] = run.lost + 1
    # Columns that stay as they are are left out: each would have its indexes written again.
    rest = {"state": "running", "next_at": None, "reason": None, "error": None}
    changes.update((name, value) for name, value in rest.items() if getattr(run, name) != value)
    runs.move(connection, run.id, now, **changes)
    taken = replace(run, updated_at=now, **changes)
    if taken.lost > max_lost:
        return LostTooOften(taken, taken.attempts + 1, taken.lost)
    return Started(taken, taken.attempts + 1, taken.lost, first=run.started_at is None and run.generation == 1)


def _holds(run: Run, step: str, generation: int, token: str) -> bool:
    return (run.token, run.step_state, run.step, run.generation) == (token, "running", step, generation)


def _may_end(run: Run, step: str, generation: int, token: str | None) -> bool:
    """Tell whether a caller may end the step: with its token while it runs, without one while it is queued."""
    if token is not None:
        return _holds(run, step, generation, token)
    return (run.step_state, run.step, run.generation) == ("queued", step, generation)


def _finished_before(connection: sa.Connection, run: Run | None, step: str, token: str) -> str | None:
    """Answer a repeated `finish`."""
    if run is None or attempts.outcome_of(connection, run.id, step, token) != "succeeded":
        raise LockLost(f"{step} was taken over by another worker")
    following = run.steps[run.steps.index(step) + 1 :]
    return following[0] if following else None


def _ended_before(
    connection: sa.Connection, run: Run | None, step: str, generation: int, token: str | None, state: str
) -> bool:
    """Answer a `step_aside` or `fail` for a step that is not to be ended: whether it was ended like this before."""
    if run is None or (run.step, run.generation, run.step_state) != (step, generation, state):
        return False
    return token is None or attempts.outcome_of(connection, run.id, step, token) is not None


def _on_to(step: str, now: int) -> dict[str, Any]:
    return {
        "step": step,
        "step_state": "queued",
        "attempts": 0,
        "lost": 0,
        "token": None,
        "queued_at": now,
        "started_at": None,
    }


def _at_end(now: int) -> dict[str, Any]:
    return {"state": "succeeded", "step": None, "step_state": None, "token": None, "ended_at": now}


def _with_warnings(run: Run, result: Json) -> dict[str, Any]:
    added = [str(warning) for warning in result.get("warnings", ())]
    return {"warnings": text_of(list(dict.fromkeys([*run.warnings, *added])))} if added else {}
