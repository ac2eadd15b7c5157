"""Asking for an undo: it is a run of its own, entered in the ledger like any other."""

import uuid
from typing import Final

from lern.errors import Refused
from lern.events import NAMESPACE
from lern.ledger import Entered, Ledger, NewRun

WORKFLOW: Final = "undo"
STEP: Final = "merge.undo"
UNDOABLE: Final = frozenset({"succeeded", "failed"})


def request(ledger: Ledger, run_id: str, now: int) -> Entered:
    """Enter the undo of a run; asked twice it is the same run. Raises `Refused` with the reason.

    `now` in milliseconds. The caller sends the entered run's steps.
    """
    run = ledger.run(run_id)
    if run is None:
        raise Refused(f"there is no run {run_id}")
    if run.workflow != "merge":
        raise Refused(f"run {run_id} is a {run.workflow}; only a merge can be undone")
    if run.state not in UNDOABLE:
        raise Refused(f"run {run_id} is {run.state}; only a run that succeeded or failed can be undone")
    later = ledger.later_merges(run_id)
    if later:
        raise Refused(f"a later merge of these accounts stands: {', '.join(other.id for other in later)}; undo it first")
    undo = NewRun(
        id=str(uuid.uuid5(NAMESPACE, f"undo:{run_id}:{run.generation}")),
        workflow=WORKFLOW,
        steps=(STEP,),
        source=run.source,
        target=run.target,
        event=run.event,
        event_time=run.event_time,
        mid=None,
        topic=run.topic,
        partition=None,
        offset=None,
        merge=False,
        undo_of=run_id,
    )
    [entered] = ledger.enter([undo], [], now)
    return entered
