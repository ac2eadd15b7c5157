"""What a person may do about a run that has ended: try it again, or take it back."""

from typing import Any

import sqlalchemy as sa

from lern.errors import Refused
from lern.ledger import attempts, audit, runs, undoing
from lern.ledger.audit import Act
from lern.ledger.database import Database
from lern.ledger.records import ACTIVE, Entered, Run, text_of
from lern.ledger.schema import merged_accounts
from lern.ledger.schema import runs as table

_ENTERED_BY = sa.select(merged_accounts.c.source).where(
    merged_accounts.c.source == sa.bindparam("source"), merged_accounts.c.run_id == sa.bindparam("run_id")
)
# A sweep of the same source that was entered meanwhile and stands: its rows are where the entry says.
_HEIR = (
    sa.select(table.c.id)
    .where(
        table.c.source == sa.bindparam("source"),
        table.c.merge == 1,
        table.c.number > sa.bindparam("number"),
        table.c.state.in_(("queued", "running", "waiting", "succeeded")),
    )
    .order_by(table.c.number)
    .limit(1)
)
_HAND_ON = merged_accounts.update().where(merged_accounts.c.source == sa.bindparam("of_source"))
_FORGET = merged_accounts.delete().where(merged_accounts.c.source == sa.bindparam("of_source"))


class SecondChance:
    """The part of the ledger that starts ended runs again, and takes them back."""

    _database: Database

    def retry(self, run_id: str, now: int, who: str, step: str | None = None) -> Entered:
        """Queue a failed run again, at the step where it failed; messages of before are void from then on.

        With `step`: from that one, which must be done or have failed; then a succeeded run may be retried
        as well. Of two who do this at once, one is told `Refused`. Raises `Refused` with the reason
        whenever the run's state does not allow it, or, of an undo, that of the run which it takes back. The caller
        publishes the steps from `first_step`.
        """
        with self._database.write() as connection:
            runs.alone(connection)
            run = runs.lock(connection, run_id)
            if run is None:
                raise Refused(f"there is no run {run_id}")
            first = _first_again(run, step)
            _refuse_if_undoing(connection, run)
            if run.undo_of is not None:
                _to_be_undone(connection, run.undo_of)
            generation = run.generation + 1
            runs.move(connection, run_id, now, generation=generation, **_again(connection, run, first, now))
            audit.note(connection, Act(now, who, "retry", run_id=run_id, detail=first))
            return Entered(run_id, "queued", generation, first, new=False)

    def to_be_undone(self, run_id: str) -> bool:
        """Tell an undo that has been begun whether its run is still to be taken back; False: that is done.

        As long as the undo has not ended, nobody can start the run again. Raises `Refused` with the reason if it must
        not be taken back.
        """
        with self._database.write(durable=False) as connection:
            runs.alone(connection)
            return _to_be_undone(connection, run_id)

    def being_undone(self, run_id: str) -> bool:
        """Whether part of a run may be gone already though it has not been taken back: an undo of it is under way."""
        with self._database.read() as connection:
            return undoing.under_way(connection, run_id) is not None

    def undone(self, run_id: str, by_run: str, now: int) -> bool:
        """Say that a run has been taken back by another: its source is no longer merged away.

        Events of it that have not been sent never will be. True: it is undone now; False: it was before, and nothing
        has changed. Raises `Refused` if the run has not ended.
        """
        with self._database.write() as connection:
            runs.alone(connection)
            run = runs.lock(connection, run_id)
            if run is None:
                raise Refused(f"there is no run {run_id}")
            if run.state == "undone":
                return False
            if run.state in ACTIVE:
                raise Refused(f"run {run_id} is {run.state}: only one that has ended can be undone")
            runs.move(connection, run_id, now, state="undone")
            _forget_merge(connection, run)
            audit.note(connection, Act(now, f"run {by_run}", "undone", run_id=run_id))
            return True

    def note(self, act: Act) -> None:
        """Write down something that a person did and that no other call of the ledger writes down."""
        with self._database.write() as connection:
            audit.note(connection, act)


def _first_again(run: Run, step: str | None) -> str:
    """Decide where a retry begins. Raises `Refused` when it may not."""
    if run.state == "failed" and run.step is not None and step is None:
        return run.step
    if run.state not in {"failed", "succeeded"}:
        raise Refused(f"run {run.id} is {run.state}: only a failed one can be retried")
    if step is None:
        raise Refused(f"run {run.id} has succeeded: name the step to be done again")
    if step not in run.steps:
        raise Refused(f"{step} is no step of run {run.id}: {', '.join(run.steps)}")
    if run.steps.index(step) > run.position:
        raise Refused(f"run {run.id} failed in {run.step}, before {step}")
    return step


def _refuse_if_undoing(connection: sa.Connection, run: Run) -> None:
    """Refuse while the run is being taken back: part of it may be gone already."""
    undo = undoing.under_way(connection, run.id)
    if undo is not None:
        raise Refused(f"run {run.id} is being undone by run {undo.id}, which is {undo.state}")


def _to_be_undone(connection: sa.Connection, run_id: str) -> bool:
    run = runs.find(connection, run_id)
    if run is not None and run.state == "undone":
        return False
    refusal = undoing.refusal(connection, run_id)
    if refusal is not None:
        raise Refused(refusal.reason)
    return True


def _again(connection: sa.Connection, run: Run, first: str, now: int) -> dict[str, Any]:
    """Give the columns of a run that begins again. Warnings of steps to be done again are dropped."""
    before = run.steps[: run.steps.index(first)]
    results = attempts.results_of(connection, run) if run.warnings else {}
    warnings = dict.fromkeys(str(w) for name in before for w in results.get(name, {}).get("warnings", ()))
    return {
        "state": "queued",
        "step": first,
        "step_state": "queued",
        "attempts": 0,
        "lost": 0,
        "token": None,
        "queued_at": now,
        "started_at": None,
        "next_at": None,
        "ended_at": None,
        "reason": None,
        "error": None,
        "warnings": text_of(list(warnings)),
    }


def _forget_merge(connection: sa.Connection, run: Run) -> None:
    """Take back the entry that this run made, unless a later merge of the same source relies on it."""
    if connection.scalar(_ENTERED_BY, {"source": run.source, "run_id": run.id}) is None:
        return
    heir = connection.scalar(_HEIR, {"source": run.source, "number": run.number})
    if heir is None:
        connection.execute(_FORGET, {"of_source": run.source})
    else:
        connection.execute(_HAND_ON, {"of_source": run.source, "run_id": heir})
