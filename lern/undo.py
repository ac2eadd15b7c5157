"""Asking for an undo: it is a run of its own, entered in the ledger like any other."""

import uuid
from typing import Final

from lern.errors import Refused
from lern.events import NAMESPACE
from lern.ledger import Entered, Ledger, NewRun

WORKFLOW: Final = "undo"
STEP: Final = "merge.undo"
UNDOABLE: Final = frozenset({"merge", "sweep", "ownership"})


def request(ledger: Ledger, run_id: str, now: int) -> Entered:
    """Enter the undo of a run; asked twice it is the same run. Raises `Refused` with the reason.

    `now` in milliseconds. The caller sends the entered run's steps.
    """
    detail = ledger.run(run_id)
    if detail is None:
        raise Refused(f"there is no run {run_id}")
    run = detail.run
    if run.workflow not in UNDOABLE:
        raise Refused(f"run {run_id} is a {run.workflow}; only a merge or an ownership transfer can be undone")
    undo = NewRun(
        id=str(uuid.uuid5(NAMESPACE, f"undo:{run_id}:{run.generation}")),
        workflow=WORKFLOW,
        steps=(STEP,),
        source=run.source,
        target=run.target,
        event=detail.event,
        event_time=run.event_time,
        topic=run.topic,
        undo_of=run_id,
    )
    [entered] = ledger.enter([undo], [], now)
    if entered.refused is not None:
        raise Refused(entered.refused.reason)
    return entered
