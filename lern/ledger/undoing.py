"""Whether a run may be taken back: asked when an undo is entered, when it is retried, and before it writes."""

import sqlalchemy as sa

from lern.ledger import runs
from lern.ledger.records import LATER_MERGE, NOT_ENDED, UNKNOWN_RUN, Refusal


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
