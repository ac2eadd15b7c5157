"""The steps of an ownership transfer, in the order in which they run: the database first, then search.

What changes hands is planned and journalled as a whole before the first write, so that a batch whose database row
has changed hands, and which would no longer be found, is known to the step after.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final
from zoneinfo import ZoneInfo

from lern import chunks, events, metrics
from lern.chunks.ownership import KIND, OwnershipChunk
from lern.errors import Refused, Unsettled
from lern.lms import LmsSearch
from lern.ownership import Finder, Follower, finding
from lern.services import Services
from lern.users import check_transfer
from tasks.app import step_task
from tasks.step import Result, Work

if TYPE_CHECKING:
    from lern.store.tables import Key

BATCHES: Final = "ownership.batches"
SEARCH: Final = "ownership.search"

# How often everything is read again at the end, while others go on putting it back.
PASSES: Final = 5
# A warning names so many batches at most; the rest is a number.
NAMED_AT_MOST: Final = 5


@step_task(BATCHES)
def batches(work: Work) -> Result:
    """Put the target in the source's place, in the database."""
    services, settings = work.services, work.services.settings
    wanted = events.ownership(events.parse(services.ledger.event(work.run.id)))
    if work.target == work.source:
        raise Refused(f"{work.run.target} has been merged into {work.source}, whose batches these are already")
    if services.users is not None:
        check_transfer(services.users, work.source, work.target, wanted.organisation)
        if wanted.organisation is None:
            work.warnings.append("the organisation was not checked: the event names none")
    searches = finding(services)
    # An earlier attempt's batches have changed hands by now, while their documents have not.
    planned = {key for chunk in Plan(services, work.run.id).chunks() for key in chunk.keys}
    finder = Finder(services.store, searches, work.source, settings.ownership_statuses, wanted.batch, planned)
    for bunch in finder.bunches(settings.chunk_rows):
        time, at_once = work.run.event_time, settings.ownership_write_size
        work.plan(KIND, OwnershipChunk.of(work.source, work.target, time, at_once, bunch))
    work.carry_out_planned()
    _warn(work, "documents without a batch, left as they are", finder.orphans)
    if any(isinstance(search, LmsSearch) and search.ended_early for search in searches):
        work.warnings.append("lms-service finds no more than 10,000 batches; the others were found in the database")
    counts, warnings = work.tally()
    work.warnings.extend(warnings)
    return {"batches": 0, **counts, "documents_without_batch": len(finder.orphans)}


@step_task(SEARCH)
def search(work: Work) -> Result:
    """Have the documents follow, then read everything once more and settle what somebody has put back."""
    plan = Plan(work.services, work.run.id)
    followed = plan.follow(work)
    mended = 0
    for _ in range(PASSES):
        found = plan.mend(work)
        mended += found
        if not found:
            break
    else:
        raise Unsettled("batches are put back by somebody else as fast as they change hands")
    missing = sorted(plan.missing)
    _warn(work, "batches without a document", missing)
    settings = work.services.settings
    if settings.lms_url is not None and settings.search_url is None:
        work.warnings.append("documents were left as they are: LERN_SEARCH_URL does not say where they can be written")
    metrics.rows_done("course-batch", {**followed, "mended": mended})
    return {**followed, "mended": mended, "batches_without_document": len(missing)}


@dataclass(frozen=True)
class Plan:
    """What a transfer has journalled, gone over chunk by chunk."""

    services: Services
    run: str

    @cached_property
    def missing(self) -> set[str]:
        """Batches (ids) found to have no document."""
        return set()

    @cached_property
    def _follower(self) -> Follower:
        services = self.services
        return Follower(services.store, services.search, ZoneInfo(services.settings.time_zone))

    def chunks(self) -> Iterator[OwnershipChunk]:
        """Give the chunks, a few at a time in memory."""
        for saved in self.services.ledger.chunks(self.run):
            chunk = chunks.read(saved.kind, saved.payload)
            if isinstance(chunk, OwnershipChunk):
                yield chunk

    def follow(self, work: Work) -> dict[str, int]:
        """Have the documents follow their batches; give how many documents there are, written by whichever attempt."""
        keys: set[Key] = set()
        for chunk in self.chunks():
            keys.update(chunk.keys)
            self._follow(work, chunk)
        return {"documents": len(keys) - len(self.missing) if self.services.search.own else 0}

    def mend(self, work: Work) -> int:
        """Read everything once more and settle what was put back; give how many batches and documents that took."""
        return sum(chunk.settle(self.services.store, work.guard) + self._follow(work, chunk) for chunk in self.chunks())

    def _follow(self, work: Work, chunk: OwnershipChunk) -> int:
        followed = self._follower.follow(chunk.keys, work.guard)
        self.missing.update(followed.missing)
        return followed.written


def _warn(work: Work, what: str, ids: Sequence[Any]) -> None:
    if ids:
        more = len(ids) - NAMED_AT_MOST
        named = ", ".join(map(str, ids[:NAMED_AT_MOST])) + (f" and {more} more" if more > 0 else "")
        work.warnings.append(f"{what}: {named}")
