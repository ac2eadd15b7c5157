"""The steps of an ownership transfer, in the order in which they run: the database first, then search.

What changes hands is planned and journalled as a whole before the first write, so that a batch whose database row
has changed hands, and which would no longer be found, is known to the step after.
"""

from typing import Final

from lern import chunks, events, metrics
from lern.chunks import ownership, returned
from lern.chunks.ownership import OwnershipChunk
from lern.chunks.returned import ReturnedChunk
from lern.lms import LmsSearch
from lern.ownership import Finder, check, finding
from tasks.app import step_task
from tasks.plan import Plan, warn
from tasks.step import Result, Work, now_ms

BATCHES: Final = "ownership.batches"
SEARCH: Final = "ownership.search"


@step_task(BATCHES)
def batches(work: Work) -> Result:
    """Put the target in the source's place, in the database."""
    services, settings = work.services, work.services.settings
    wanted = events.ownership(events.parse(services.ledger.event(work.run.id)))
    plan = Plan(work)
    # An earlier attempt's batches have changed hands by now, while their documents have not.
    planned = {key for chunk in plan.chunks() for key in chunk.keys}
    searches = finding(services)
    # What is under way is seen through, whatever has become of the users since: half of it would stay for good.
    if not planned:
        check(services, work.source, work.run.target, work.target, wanted.organisation)
    if services.users is not None and wanted.organisation is None:
        work.warnings.append("the organisation was not checked: the event names none")
    finder = Finder(services.store, searches, work.source, settings.ownership_statuses, wanted.batch, planned)
    _plan(work, finder)
    plan.carry_out()
    warn(work, "documents without a batch, left as they are", finder.orphans)
    warn(work, "batches without a status, left as they are", finder.without_status)
    if any(isinstance(search, LmsSearch) and search.ended_early for search in searches):
        work.warnings.append("lms-service finds no more than 10,000 batches; the others were found in the database")
    counts, warnings = work.tally()
    work.warnings.extend(warnings)
    return {"batches": 0, **counts, "documents_without_batch": len(finder.orphans)}


def _plan(work: Work, finder: Finder) -> None:
    settings = work.services.settings
    # Where the target has been merged into the source meanwhile, there is nobody to give more to.
    if work.target == work.source:
        return
    # Of a million batches perhaps none is the source's: whoever is to stop does not go through all of them first.
    for bunch in finder.bunches(settings.chunk_rows, lambda _done: work.go_on()):
        time, at_once = work.run.event_time, settings.ownership_write_size
        work.plan(ownership.KIND, OwnershipChunk.of(work.source, work.target, time, at_once, bunch))


@step_task(SEARCH)
def search(work: Work) -> Result:
    """Have the documents follow, then read everything once more and settle what somebody has put back."""
    counts = Plan(work).see_through()
    settings = work.services.settings
    if settings.lms_url is not None and settings.search_url is None:
        work.warnings.append("documents were left as they are: LERN_SEARCH_URL does not say where they can be written")
    written = {name: counts[name] for name in ("documents", "mended")}
    metrics.rows_done("course-batch", written)
    return dict(counts)


def take_back(work: Work, run_id: str) -> dict[str, int]:
    """Take a transfer back, newest chunk first, and have the documents follow; of another run, do nothing.

    Gives how many documents there are, how much was put back meanwhile, and what was missing, as far as there was any.
    """
    ledger = work.services.ledger
    run = ledger.peek(run_id)
    if run is None or run.workflow != "ownership":
        return {}
    plan = Plan(work)
    journalled = {saved.number for saved in ledger.chunks(work.run.id)}
    for saved in ledger.chunks(run_id, newest_first=True):
        if saved.id not in journalled:
            way = ReturnedChunk.of(chunks.read(saved.kind, saved.payload))
            work.plan(returned.KIND, way, number=saved.id)
        if saved.state == "open":
            # It was never carried out, and is nobody's to carry out any more.
            ledger.mark(saved.id, {}, {}, now_ms())
    plan.carry_out()
    return {name: number for name, number in plan.see_through().items() if number}
