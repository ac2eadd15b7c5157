"""The later check of a merge: settles again what a slow writer has taken back."""

from lern import chunks, verification
from lern.chunks.merge import KIND, MergeChunk, scope_of
from tasks.app import step_task
from tasks.step import Result, Work


@step_task(verification.STEP)
def verify(work: Work) -> Result:
    """Go over everything that the merge has journalled, a chunk at a time."""
    ledger, store = work.services.ledger, work.services.store
    merge = ledger.peek(verification.verified(ledger.event(work.run.id)))
    # An undo may stand between two chunks: what it has put back is not missing.
    if merge is None or merge.state != "succeeded" or ledger.being_undone(merge.id):
        return {"skipped": "the merge has been undone or is to be, or is no longer in the ledger"}
    moved_on = 0
    for saved in ledger.chunks(merge.id):
        work.go_on()
        if saved.kind != KIND:
            continue
        chunk = chunks.read(saved.kind, saved.payload)
        if not isinstance(chunk, MergeChunk) or chunk.target != work.target:
            # The rows went on with their account: here they are not missing but moved.
            moved_on += 1
            continue
        again = chunk.taken_back(store)
        if again is not None:
            rows = [entry.source for entry in again.entries]
            work.journal(KIND, again, scope_of(again.table, rows, {}))
    counts, warnings = work.tally()
    work.warnings.extend(warnings)
    return {**counts, **({"moved_on": moved_on} if moved_on else {})}
