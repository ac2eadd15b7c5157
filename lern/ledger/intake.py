"""Entering runs: the one place where it is decided that an event becomes a run."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import sqlalchemy as sa

from lern.ledger import audit, dead_letters, merged_accounts, runs, undoing
from lern.ledger.database import Database
from lern.ledger.merged_accounts import Admitted, admit
from lern.ledger.records import (
    NOT_STANDING,
    Entered,
    NewDeadLetter,
    NewRun,
    Refusal,
    safe,
    text_of,
)
from lern.ledger.schema import events
from lern.ledger.schema import runs as table

_KNOWN: Final = sa.select(table.c.id, table.c.state, table.c.generation, table.c.step).where(
    table.c.id.in_(sa.bindparam("ids", expanding=True))
)
_ENTER: Final = table.insert()
_KEEP_EVENT: Final = events.insert()


class Intake:
    """The part of the ledger that takes in runs and dead letters."""

    _database: Database

    def enter(
        self,
        new: Sequence[NewRun],
        dead: Sequence[NewDeadLetter],
        now: int,
        acts: Sequence[audit.Act] = (),
    ) -> list[Entered]:
        """Enter runs and dead letters in one transaction, and say for each run what became of it.

        A run that is there already is left as it is. A merge that would close a circle, or whose source
        went elsewhere before, is refused and becomes a dead letter; whether it does is decided in the
        order given, each run seeing those before it. An undo is refused while a later merge stands, a sweep
        unless its merge stands: it must not merge again what was taken back.
        `acts`: what a person did to have these runs entered; noted with them, if they are all new.
        Raises `Unreachable`, `Transient`; then nothing was entered, or all of it was: enter it again.
        """
        with self._database.write() as connection:
            runs.alone(connection)
            batch = _Batch.read(connection, new, now)
            entered = [batch.enter(run) for run in new]
            batch.write()
            for act in acts if all(one.new for one in entered) else ():
                audit.note(connection, act)
            dead_letters.keep(connection, [*dead, *batch.refused], now)
            return entered


@dataclass
class _Batch:
    """Runs on their way in, with what the ledger says about their ids and accounts."""

    connection: sa.Connection
    now: int
    known: dict[str, Entered]
    forwards: dict[str, str]
    rows: list[dict[str, Any]] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)
    merged: list[dict[str, Any]] = field(default_factory=list)
    refused: list[NewDeadLetter] = field(default_factory=list)

    @classmethod
    def read(cls, connection: sa.Connection, new: Sequence[NewRun], now: int) -> "_Batch":
        rows = connection.execute(_KNOWN, {"ids": sorted({run.id for run in new})}) if new else ()
        known = {row.id: Entered(row.id, row.state, row.generation, row.step, new=False) for row in rows}
        users = {user for run in new if run.merge for user in (run.source, run.target)}
        return cls(connection, now, known, merged_accounts.forwards_of(connection, users))

    def enter(self, run: NewRun) -> Entered:
        """Decide on one run, and remember what is to be written."""
        if run.id in self.known:
            return self.known[run.id]
        refusal = self._admit(run)
        if refusal is not None:
            return Entered(run.id, "refused", 0, None, new=False, refused=refusal)
        self.rows.append(_row(run, self.now))
        self.events.append({"run_id": run.id, "value": run.event})
        self.known[run.id] = Entered(run.id, "queued", 1, run.steps[0], new=False)
        return Entered(run.id, "queued", 1, run.steps[0], new=True)

    def _admit(self, run: NewRun) -> Refusal | None:
        if run.undo_of is not None:
            return undoing.refusal(self.connection, run.undo_of)
        if not run.merge:
            return None
        if run.sweeps is not None and not self._stands(run):
            return Refusal(
                NOT_STANDING, "", f"merge {run.sweeps} has been undone or is to be, or is no longer in the ledger"
            )
        decision = admit(run.source, run.target, self.forwards)
        if isinstance(decision, Refusal):
            self.refused.append(_dead(run, decision))
            return decision
        self._remember(run, decision)
        return None

    def _stands(self, run: NewRun) -> bool:
        """Whether the merge that a sweep is about stands, and its accounts have not gone different ways since."""
        merge = runs.find(self.connection, run.sweeps or "")
        if merge is None or merge.state != "succeeded" or run.source not in self.forwards:
            return False
        if undoing.under_way(self.connection, merge.id) is not None:
            return False
        return admit(run.source, run.target, self.forwards) == Admitted(
            merged_accounts.follow(run.target, self.forwards), remember=False
        )

    def _remember(self, run: NewRun, admitted: Admitted) -> None:
        if not admitted.remember:
            return
        self.forwards[run.source] = admitted.final
        self.merged.append(
            {"source": run.source, "target": admitted.final, "run_id": run.id, "merged_at": self.now},
        )

    def write(self) -> None:
        """Write what was decided."""
        for statement, rows in (
            (_ENTER, self.rows),
            (_KEEP_EVENT, self.events),
            (merged_accounts.ENTER, self.merged),
        ):
            if rows:
                self.connection.execute(statement, rows)


def _dead(run: NewRun, refusal: Refusal) -> NewDeadLetter:
    return NewDeadLetter(
        topic=run.topic,
        value=run.event,
        code=refusal.code,
        reason=refusal.reason,
        field=refusal.field,
        key=run.key,
        partition=run.partition,
        offset=run.offset,
    )


def _row(run: NewRun, now: int) -> dict[str, Any]:
    return {
        "id": run.id,
        "workflow": run.workflow,
        "steps": text_of(run.steps),
        "state": "queued",
        "generation": 1,
        "step": run.steps[0],
        "step_state": "queued",
        "attempts": 0,
        "lost": 0,
        "queued_at": now,
        "source": run.source,
        "target": run.target,
        "merge": int(run.merge),
        "undo_of": run.undo_of,
        "event_time": run.event_time,
        "mid": safe(run.mid),
        "topic": run.topic,
        "partition": run.partition,
        "offset": run.offset,
        "warnings": "[]",
        "created_at": now,
        "updated_at": now,
    }
