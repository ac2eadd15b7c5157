"""The later check of a merge: a run of its own, once, some time after the merge has ended.

A service that read a row before the merge and writes it after it takes the merge back without knowing.
The check settles such rows again and computes the progress of their enrolments anew.
"""

import uuid
from typing import Final

from lern import events
from lern.events import NAMESPACE
from lern.ledger import NewRun, Run

WORKFLOW: Final = "verification"
STEP: Final = "merge.verify"
STEPS: Final = (STEP, "merge.batch_enrolment_sync")


def of(merge: Run) -> NewRun:
    """Give the check of a merge that has succeeded; of the same merge and generation it is the same run."""
    return NewRun(
        id=str(uuid.uuid5(NAMESPACE, f"verify:{merge.id}:{merge.generation}")),
        workflow=WORKFLOW,
        steps=STEPS,
        source=merge.source,
        target=merge.target,
        event=events.to_bytes({"verifies": merge.id}),
        event_time=merge.event_time,
    )


def verified(event: bytes) -> str:
    """Give the id of the merge that a check is about, from the check's event."""
    return str(events.parse(event)["verifies"])
