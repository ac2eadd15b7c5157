"""Chunks: a bounded piece of a step's rows, journalled before it is written.

Each kind of chunk knows how to bring its rows to where its journal says they belong, whoever does it:
the step that planned it, its next attempt, or a step of another run that found it unfinished.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Protocol, Self

from lern.store.base import Store
from lern.store.tables import Key

Json = dict[str, Any]

# How often a source row was seen, copied, merged, deleted …: what `lern runs show` prints.
Counts = dict[str, int]

# What source rows have contributed to counters so far, by (table, identity); None: forget it.
Contributed = dict[tuple[str, Key], dict[str, int] | None]


@dataclass(frozen=True)
class Carried:
    """What carrying out a chunk came to: saved with its mark.

    `rows`: the same by table, for the metrics alone. `again`: something has come to light that was not journalled,
    and is to be planned.
    """

    counts: Counts
    contributed: Contributed = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    rows: Mapping[str, Counts] = field(default_factory=dict)
    again: bool = False


class Chunk(Protocol):
    """One kind of chunk. `to_payload` and `from_payload` are each other's inverse, through JSON."""

    @classmethod
    def from_payload(cls, payload: Mapping[str, Any]) -> Self:
        """Read a chunk back from the journal."""

    def to_payload(self) -> Json:
        """Give what the journal keeps."""

    def carry_out(self, store: Store, guard: Callable[[], None]) -> Carried:
        """Settle and delete; doing it again changes nothing. `guard` is called before every write."""


def read(kind: str, payload: Mapping[str, Any]) -> Chunk:
    """Read a chunk of any kind back from the journal."""
    return {**_of_learners(), **_of_batches()}[kind].from_payload(payload)


def kinds(*, of_batches: bool) -> frozenset[str]:
    """Give the kinds of chunks about course batches, or those about learner rows: the two have no row in common."""
    return frozenset(_of_batches() if of_batches else _of_learners())


# Imported where they are used, because the kinds build on this module.


@cache
def _of_learners() -> dict[str, type[Chunk]]:
    from lern.chunks import merge, sync, undo  # noqa: PLC0415 - see above

    return {merge.KIND: merge.MergeChunk, sync.KIND: sync.SyncChunk, undo.KIND: undo.UndoChunk}


@cache
def _of_batches() -> dict[str, type[Chunk]]:
    from lern.chunks import ownership, returned  # noqa: PLC0415 - see above

    return {ownership.KIND: ownership.OwnershipChunk, returned.KIND: returned.ReturnedChunk}
