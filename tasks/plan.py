"""What a transfer, or its undo, has journalled about batches, seen through until both stores agree."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final
from zoneinfo import ZoneInfo

from lern import chunks
from lern.chunks.ownership import OwnershipChunk
from lern.chunks.returned import ReturnedChunk
from lern.errors import BadRow, LernError, Unsettled
from lern.ledger import Chunk as SavedChunk
from lern.ownership import Follower
from tasks.step import Work

if TYPE_CHECKING:
    from lern.store.tables import Key

# How often everything is read again at the end, while others go on putting it back.
PASSES: Final = 5
# A warning names so many batches at most; the rest is a number.
NAMED_AT_MOST: Final = 5


@dataclass(frozen=True)
class Plan:
    """The chunks of the run at work that are about batches, a few at a time in memory."""

    work: Work
    missing: set[str] = field(default_factory=set)
    """Batches (ids) found to have no document."""
    alone: set[str] = field(default_factory=set)
    """Documents (ids) found to have no batch any more."""

    def chunks(self) -> Iterator[OwnershipChunk | ReturnedChunk]:
        """Give the chunks."""
        return (chunk for _, chunk in self._saved())

    def carry_out(self) -> None:
        """Carry out what is planned. If some of it cannot be, the others' documents follow before that is raised.

        So the two stores agree, but for what the error names, if the run ends here.
        """
        try:
            self.work.carry_out_planned()
        except (BadRow, Unsettled):
            self.follow()
            raise

    def see_through(self) -> dict[str, int]:
        """Have the documents follow; then read everything once more, and settle what somebody has put back meanwhile.

        Says in the work's warnings what could not be brought together. Raises `Unsettled`.
        """
        number = self.follow()
        mended = 0
        for _ in range(PASSES):
            found = self._mend()
            mended += found
            if not found:
                break
        else:
            raise Unsettled("batches are put back by somebody else as fast as they change hands")
        warn(
            self.work,
            "batches that a later transfer has moved, left where they are",
            {batch for _, batch in self._taken},
        )
        warn(self.work, "batches without a document", self.missing)
        warn(self.work, "documents of batches that are gone, left as they are", self.alone)
        documents = number - len(self.missing) - len(self.alone) if self.work.services.search.own else 0
        return {"documents": documents, "mended": mended, "batches_without_document": len(self.missing)}

    def follow(self) -> int:
        """Have the documents follow their batches, whatever these say; give how many batches the plan is about."""
        keys: set[Key] = set()
        for chunk in self.chunks():
            self.work.go_on()
            keys.update(chunk.keys)
            self._follow(chunk)
        return len(keys)

    def _mend(self) -> int:
        """Read everything once more and settle what was put back; give how many batches and documents that took.

        A batch that cannot be written keeps back neither the others nor the documents.
        """
        found = 0
        error: LernError | None = None
        for chunk in self.chunks():
            self.work.go_on()
            try:
                found += chunk.without(self._taken).settle(self.work.services.store, self.work.guard)
            except (BadRow, Unsettled) as caught:
                error = error or caught
            found += self._follow(chunk)
        if error is not None:
            raise error
        return found

    def _follow(self, chunk: OwnershipChunk | ReturnedChunk) -> int:
        followed = self._follower.follow(chunk.keys, self.work.guard)
        self.missing.update(followed.missing)
        self.alone.update(followed.alone)
        return followed.written

    def _saved(self) -> Iterator[tuple[SavedChunk, OwnershipChunk | ReturnedChunk]]:
        for saved in self.work.services.ledger.chunks(self.work.run.id):
            chunk = chunks.read(saved.kind, saved.payload)
            if isinstance(chunk, OwnershipChunk | ReturnedChunk):
                yield saved, chunk

    @cached_property
    def _follower(self) -> Follower:
        services = self.work.services
        return Follower(services.store, services.search, ZoneInfo(services.settings.time_zone))

    @cached_property
    def _taken(self) -> "frozenset[Key]":
        """Batches of ours that a transfer to or from the source has moved, or taken back, since.

        If we gave them to the target again, the outcome would be that of no order of the two. While we hold the
        source, nobody plans another.
        """
        mine: dict[Key, int] = {}
        first: SavedChunk | None = None
        for saved, chunk in self._saved():
            first = first or saved
            mine.update(dict.fromkeys(chunk.keys, saved.id))
        if first is None:
            return frozenset()
        taken: set[Key] = set()
        for saved in self.work.services.ledger.later_chunks(first, self.work.source, chunks.kinds(of_batches=True)):
            other = chunks.read(saved.kind, saved.payload)
            if isinstance(other, OwnershipChunk | ReturnedChunk):
                taken.update(key for key in other.moved if mine.get(key, saved.id) < saved.id)
        return frozenset(taken)


def warn(work: Work, what: str, ids: Collection[Any]) -> None:
    """Say in the run's warnings of which batches or documents something is to be known; of none, nothing."""
    if ids:
        more = len(ids) - NAMED_AT_MOST
        named = ", ".join(sorted(ids)[:NAMED_AT_MOST]) + (f" and {more} more" if more > 0 else "")
        work.warnings.append(f"{what}: {named}")
