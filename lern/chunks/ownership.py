"""A chunk of an ownership transfer: batches that change hands, in the database.

Their documents follow in a step of their own, which reads these chunks for the batches that it is about.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Self

from lern.chunks import Carried, Json
from lern.rules.ownership import COLUMNS, roles, transferred
from lern.store.base import Change, Store, Swap
from lern.store.tables import COURSE_BATCH, Key, Row

KIND: Final = "ownership"

# The last only looks whether anything is left to write.
ROUNDS: Final = 3


@dataclass(frozen=True)
class Entry:
    """One batch. `before`: `COLUMNS` as they were when the chunk was journalled, None if the batch did not stand."""

    key: Key
    before: Row | None


@dataclass(frozen=True)
class OwnershipChunk:
    """Batches in which `target` takes the place of `source`.

    `time` (ms) is the event's: what is written must not depend on the clock. `at_once`: batches of one write.
    """

    source: str
    target: str
    time: int
    at_once: int
    entries: tuple[Entry, ...]

    @classmethod
    def of(cls, source: str, target: str, time: int, at_once: int, rows: Sequence[tuple[Key, Row | None]]) -> Self:
        """Plan the transfer of some batches as they stand."""
        entries = (Entry(key, None if row is None else _part(row)) for key, row in rows)
        return cls(source, target, time, at_once, tuple(entries))

    @classmethod
    def from_payload(cls, payload: Mapping[str, Any]) -> Self:
        """Read a chunk back from the journal."""
        entries = (Entry(tuple(key), before) for key, before in payload["entries"])
        return cls(payload["source"], payload["target"], payload["time"], payload["at_once"], tuple(entries))

    def to_payload(self) -> Json:
        """Give what the journal keeps."""
        return {
            "source": self.source,
            "target": self.target,
            "time": self.time,
            "at_once": self.at_once,
            "entries": [[list(entry.key), entry.before] for entry in self.entries],
        }

    @property
    def keys(self) -> list[Key]:
        """The batches that the chunk is about."""
        return [entry.key for entry in self.entries]

    @property
    def moved(self) -> list[Key]:
        """Those of them that change hands; of the others only the documents follow."""
        return [e.key for e in self.entries if e.before is not None and roles(e.before, self.source)]

    def without(self, keys: Collection[Key]) -> Self:
        """Leave batches out."""
        return replace(self, entries=tuple(entry for entry in self.entries if entry.key not in keys))

    def after(self, before: Row) -> Row:
        """Give what a batch is to be."""
        return transferred(before, self.source, self.target, self.time)

    def carry_out(self, store: Store, guard: Callable[[], None]) -> Carried:
        """Compare and set, and read back, until nothing is left to write."""
        # Mostly the batches still are what was planned upon; those that are not are read again.
        self._swap(store, guard, {entry.key: entry.before for entry in self.entries if entry.before is not None})
        self.settle(store, guard)
        mine = [roles(entry.before, self.source) for entry in self.entries if entry.before is not None]
        counts = {
            "batches": len(self.entries),
            "created": sum("creator" in found for found in mine),
            "mentored": sum("mentor" in found for found in mine),
        }
        # A batch that only its document gives to the source is read, and left as it is.
        rows = {"read": len(self.entries), "transferred": sum(map(bool, mine))}
        return Carried(counts, rows={COURSE_BATCH.name: rows})

    def settle(self, store: Store, guard: Callable[[], None]) -> int:
        """Bring the batches to where they belong; give how many changes that took.

        Read back, because a plain write whose clock is ahead wins against a change that was made. What does not
        settle is written like any other row at last: that finds the cell that is ahead, and says so.
        """
        changes = 0
        for _ in range(ROUNDS):
            current = store.read(COURSE_BATCH, self.keys)
            if not any(self._swaps(current)):
                return changes
            changes += self._swap(store, guard, current)
        with store.unit(guard) as unit:
            return changes + unit.settle(COURSE_BATCH, self.keys, self._changes)

    def _swap(self, store: Store, guard: Callable[[], None], current: Mapping[Key, Row]) -> int:
        # Batches of one course stand together in the database, and cannot be written side by side: they are dealt out.
        courses: Counter[str] = Counter()
        dealt = [(_next(courses, swap.key[0]), swap) for swap in self._swaps(current)]
        swaps = [swap for _, swap in sorted(dealt, key=lambda one: one[0])]
        parts = (swaps[start : start + self.at_once] for start in range(0, len(swaps), self.at_once))
        return sum(len(store.compare_and_set(COURSE_BATCH, part, guard)) for part in parts)

    def _swaps(self, current: Mapping[Key, Row]) -> Iterator[Swap]:
        for key, row in current.items():
            wanted = self.after(row)
            put = {column: wanted[column] for column in COLUMNS if wanted.get(column) != row.get(column)}
            if put:
                yield Swap(key, {column: row.get(column) for column in COLUMNS}, put)

    def _changes(self, current: Mapping[Key, Row]) -> Iterator[Change]:
        for swap in self._swaps(current):
            yield Change(swap.key, swap.put)


def _part(row: Row) -> Row:
    return {column: row[column] for column in COLUMNS if column in row}


def _next(counter: Counter[str], name: str) -> int:
    counter[name] += 1
    return counter[name]
