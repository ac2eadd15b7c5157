"""Asking for an undo: it is a run of its own, entered in the ledger like any other."""

import uuid
from typing import Final

from lern.errors import Refused
from lern.events import NAMESPACE
from lern.ledger import Act, Entered, Ledger, NewRun, Run

WORKFLOW: Final = "undo"
STEP: Final = "merge.undo"
UNDOABLE: Final = frozenset({"merge", "sweep", "ownership"})


def run_id_of(run: Run) -> str:
    """Give the id that the undo of a run has, as long as the run is not retried."""
    return str(uuid.uuid5(NAMESPACE, f"undo:{run.id}:{run.generation}"))


def request(ledger: Ledger, run_id: str, now: int, who: str | None = None) -> Entered:
    """Enter the undo of a run; asked twice it is the same run. Raises `Refused` with the reason.

    `now` in milliseconds. `who` asked for it is noted with it, for both runs. The caller sends the entered run's steps.
    """
    detail = ledger.run(run_id)
    if detail is None:
        raise Refused(f"there is no run {run_id}")
    run = detail.run
    if run.workflow not in UNDOABLE:
        raise Refused(f"run {run_id} is a {run.workflow}; only a merge or an ownership transfer can be undone")
    undo = NewRun(
        id=run_id_of(run),
        workflow=WORKFLOW,
        steps=(STEP,),
        source=run.source,
        target=run.target,
        event=detail.event,
        event_time=run.event_time,
        topic=run.topic,
        undo_of=run_id,
    )
    acts = [] if who is None else [_act(run_id, undo.id, now, who), _act(undo.id, f"of {run_id}", now, who)]
    [entered] = ledger.enter([undo], [], now, acts)
    if entered.refused is not None:
        raise Refused(entered.refused.reason)
    return entered


def _act(run_id: str, detail: str, now: int, who: str) -> Act:
    return Act(now, who, WORKFLOW, run_id=run_id, detail=detail)
