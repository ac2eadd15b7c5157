"""A chunk of a transfer's undo: batches that go back to whom they were from. Their documents follow."""

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import Final, Self

from lern.chunks.undo import UndoChunk, way_back
from lern.store.base import Store
from lern.store.tables import COURSE_BATCH, Key

KIND: Final = "returned"


@dataclass(frozen=True)
class ReturnedChunk(UndoChunk):
    """The way back of a transfer's chunk: of a kind of its own, because no merge has to wait for it."""

    @property
    def keys(self) -> list[Key]:
        """The batches that the chunk is about."""
        return [item.key for item in self.items]

    @property
    def moved(self) -> list[Key]:
        """Those of them that go back."""
        return [item.key for item in self.items if item.before != item.after]

    def without(self, keys: Collection[Key]) -> Self:
        """Leave batches out."""
        return replace(self, items=tuple(item for item in self.items if item.key not in keys))

    def settle(self, store: Store, guard: Callable[[], None]) -> int:
        """Take back once more what somebody has put where the transfer had left it; give how many batches that were."""
        standing = store.read(COURSE_BATCH, self.keys)
        ways = [way_back(item, standing.get(item.key)) for item in self.items]
        behind = sum(way.change is not None for way in ways)
        if behind:
            self.carry_out(store, guard)
        return behind
