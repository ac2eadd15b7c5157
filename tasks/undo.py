"""Undo: a run of its own that puts both accounts back to what the journal of another run says."""

from lern import chunks, metrics
from lern.chunks.undo import KIND, UndoChunk
from lern.errors import Refused
from lern.mirror import RunState
from lern.undo import STEP
from tasks.app import step_task
from tasks.ownership import take_back
from tasks.step import Result, Work, now_ms, show


@step_task(STEP)
def undo(work: Work) -> Result:
    """Put the rows of the undone run back, newest chunk first."""
    ledger = work.services.ledger
    original = work.run.undo_of
    if original is None:
        raise Refused("this run does not say which run it undoes")
    is_to_be_done = ledger.to_be_undone(original)
    # Died after it had said that the run is undone: what it took back is looked at once more, and told again.
    is_ours = is_to_be_done or ledger.next_number(work.run.id, STEP) > 1
    batches = take_back(work, original) if is_ours else {}
    if is_to_be_done:
        # A chunk of an undo has the number of the chunk that it undoes: whoever comes second finds it there.
        journalled = {chunk.number for chunk in ledger.chunks(work.run.id)}
        for saved in ledger.chunks(original, newest_first=True):
            if saved.id not in journalled:
                chunk = UndoChunk.of(chunks.read(saved.kind, saved.payload))
                work.journal(KIND, chunk.beside(work.services.store, ledger), number=saved.id)
    counts, warnings = work.tally()
    work.warnings.extend(warnings)
    undone = ledger.peek(original)
    if ledger.undone(original, work.run.id, now_ms()) and undone is not None:
        metrics.run_ended(undone.workflow, "undone")
    show(work.services, original, RunState("undone"))
    sent, unsent = ledger.delivered_mids(original), ledger.unsent_mids(original)
    if sent:
        work.warnings.append(f"{len(sent)} events were sent before and cannot be taken back: {', '.join(sent[:5])}")
    if unsent:
        work.warnings.append(f"{len(unsent)} events had not been sent and are taken back: {', '.join(unsent[:5])}")
    return {**counts, **batches}
