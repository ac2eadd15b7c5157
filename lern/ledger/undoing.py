"""Whether a run may be taken back, and whether it is being taken back.

The first is asked when an undo is entered, when it is retried, and before it writes.
"""

from typing import Final

import sqlalchemy as sa

from lern.ledger import runs
from lern.ledger.records import ACTIVE, LATER_MERGE, NOT_ENDED, UNKNOWN_RUN, Refusal, Run
from lern.ledger.schema import chunks

_ANY_CHUNK: Final = sa.select(chunks.c.id).where(chunks.c.run_id == sa.bindparam("run_id")).limit(1)


def refusal(connection: sa.Connection, run_id: str) -> Refusal | None:
    """Give the reason why a run must not be taken back now, None if it may. The caller is alone (`runs.alone`)."""
    run = runs.find(connection, run_id)
    if run is None:
        return Refusal(UNKNOWN_RUN, "", f"there is no run {run_id}")
    if run.state not in {"succeeded", "failed"}:
        return Refusal(NOT_ENDED, "", f"run {run_id} is {run.state}: only one that has ended can be undone")
    later = runs.later_merges(connection, run)
    if later:
        named = ", ".join(f"{merge.id} ({merge.source} into {merge.target})" for merge in later)
        return Refusal(LATER_MERGE, "", f"later merges of these accounts stand, to be undone first: {named}")
    return None


def under_way(connection: sa.Connection, run_id: str) -> Run | None:
    """Give the undo by which part of a run may be gone already, though it has not been taken back; None: there is none.

    One that failed before it did anything is in nobody's way.
    """
    for undo in runs.undoing(connection, run_id):
        has_begun = undo.state == "failed" and connection.scalar(_ANY_CHUNK, {"run_id": undo.id}) is not None
        if undo.state in ACTIVE or has_begun:
            return undo
    return None
