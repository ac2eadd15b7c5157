"""A chunk of an undo: rows that go back to what the journal says they were before.

A cell goes back only where it still holds what the undone run left there. What somebody changed since
stays, and is reported.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Self

from lern.chunks import Carried, Chunk, Contributed, Json
from lern.chunks.merge import MergeChunk, identity_of
from lern.chunks.ownership import OwnershipChunk
from lern.chunks.sync import SyncChunk
from lern.rules.rule import same
from lern.store import rows as lines
from lern.store.base import Change, Store
from lern.store.tables import COURSE_BATCH, TABLES, Key, Row, Table

KIND: Final = "undo"


@dataclass(frozen=True)
class Item:
    """One row: what the run left (`after`) and what was there before. None: the row did not stand."""

    table: Table
    key: Key
    after: Row | None
    before: Row | None


@dataclass(frozen=True)
class UndoChunk:
    """The way back of one journalled chunk. `contributed`: what the source rows had given before it."""

    items: tuple[Item, ...]
    contributed: Contributed

    @classmethod
    def of(cls, chunk: Chunk) -> Self:
        """Turn a journalled chunk round."""
        if isinstance(chunk, MergeChunk):
            return cls(tuple(_merge_items(chunk)), _merge_contributions(chunk))
        if isinstance(chunk, SyncChunk):
            return cls(tuple(_sync_items(chunk)), {})
        if isinstance(chunk, OwnershipChunk):
            return cls(tuple(_ownership_items(chunk)), {})
        raise TypeError(f"a chunk of {type(chunk).__name__} cannot be undone")

    @classmethod
    def from_payload(cls, payload: Mapping[str, Any]) -> Self:
        """Read a chunk back from the journal."""
        items = tuple(
            Item(TABLES[name], tuple(key), _unpacked(name, after), _unpacked(name, before))
            for name, key, after, before in payload["items"]
        )
        return cls(items, {(name, tuple(identity)): given for name, identity, given in payload["contributed"]})

    def to_payload(self) -> Json:
        """Give what the journal keeps."""
        return {
            "items": [
                [i.table.name, list(i.key), _packed(i.table.name, i.after), _packed(i.table.name, i.before)]
                for i in self.items
            ],
            "contributed": [[name, list(identity), given] for (name, identity), given in self.contributed.items()],
        }

    def carry_out(self, store: Store, guard: Callable[[], None]) -> Carried:
        """Put the rows back, table by table."""
        reports: dict[tuple[str, Key, str], None] = {}
        with store.unit(guard) as unit:
            for table in dict.fromkeys(item.table for item in self.items):
                by_key = {item.key: item for item in self.items if item.table is table}

                def decide(current: Mapping[Key, Row], by_key: Mapping[Key, Item] = by_key) -> Iterator[Change]:
                    for key, item in by_key.items():
                        way = way_back(item, current.get(key))
                        reports.update(dict.fromkeys((item.table.name, key, column) for column in way.kept))
                        if way.change is not None:
                            yield way.change

                unit.settle(table, by_key.keys(), decide)
        warnings = tuple(f"{name} {list(key)}: {column} was changed since and stays" for name, key, column in reports)
        restored = self._restored(reports)
        counts = {"restored": restored.total(), "kept": len(reports)}
        rows = {name: {"restored": number} for name, number in restored.items()}
        return Carried(counts, self.contributed, warnings, rows)

    def _restored(self, reports: Collection[tuple[str, Key, str]]) -> Counter[str]:
        """Count, by table, the rows that are as before.

        By the journal: who finishes a chunk of the dead finds less to write.
        """
        kept = {(name, key) for name, key, _ in reports}
        changed = (item for item in self.items if not same(item.before, item.after))
        return Counter(item.table.name for item in changed if (item.table.name, item.key) not in kept)


@dataclass(frozen=True)
class WayBack:
    """What is to be done with a row, and the columns that somebody changed since."""

    change: Change | None
    kept: tuple[str, ...]


def way_back(item: Item, current: Row | None) -> WayBack:
    """Decide cell by cell, and entry by entry in maps. Pure; doing it again on the outcome changes nothing."""
    table = item.table
    if current is None:
        return _missing(item)
    after, before = item.after or {}, item.before or {}
    put: Row = {}
    clear: set[str] = set()
    drop: dict[str, frozenset[str]] = {}
    kept: list[str] = []
    for column in table.values:
        now, left, was = current.get(column), after.get(column), before.get(column)
        if same(now, was) or same(left, was):
            continue
        if table.columns[column].is_map:
            entries, gone, changed = _map_back(now or {}, left or {}, was or {})
            put.update({column: entries} if entries else {})
            drop.update({column: frozenset(gone)} if gone else {})
            kept.extend(f"{column}[{key}]" for key in changed)
        elif not same(now, left):
            kept.append(column)
        elif was is None:
            clear.add(column)
        else:
            put[column] = was
    if item.before is None and not _remains(table, current, clear, drop):
        return WayBack(Change(item.key, delete=True), ())
    change = Change(item.key, put, frozenset(clear), drop) if put or clear or drop else None
    return WayBack(change, tuple(kept))


def _missing(item: Item) -> WayBack:
    """Decide on a row that does not stand: if the run deleted it, it comes back; if somebody else did, that stays."""
    if item.before is None:
        return WayBack(None, ())
    if item.after is not None:
        return WayBack(None, ("the row",))
    values = {column: item.before[column] for column in item.table.values if column in item.before}
    return WayBack(Change(item.key, values), ())


def _remains(table: Table, current: Row, clear: Collection[str], drop: Mapping[str, frozenset[str]]) -> bool:
    """Tell whether a row that the run made would still hold anything: somebody else has put it there."""
    return any(
        column not in clear and not (table.columns[column].is_map and current[column].keys() <= drop.get(column, set()))
        for column in table.values
        if column in current
    )


def _map_back(
    now: Mapping[str, Any], left: Mapping[str, Any], was: Mapping[str, Any]
) -> tuple[dict[str, Any], list[str], list[str]]:
    """Give the entries to put back, the keys to remove, and the keys that somebody changed since."""
    entries: dict[str, Any] = {}
    gone: list[str] = []
    changed: list[str] = []
    for key in sorted({*left, *was}):
        if same(left.get(key), was.get(key)) or same(now.get(key), was.get(key)):
            continue
        if not same(now.get(key), left.get(key)):
            changed.append(key)
        elif key in was:
            entries[key] = was[key]
        else:
            gone.append(key)
    return entries, gone, changed


def _merge_items(chunk: MergeChunk) -> Iterator[Item]:
    table = chunk.table
    for entry, key in zip(chunk.entries, chunk.target_keys(), strict=True):
        after = chunk.wanted(entry, entry.before)
        yield Item(table, key, after, entry.before)
        if entry.remove:
            yield Item(table, table.key_of(entry.source), None, entry.source)


def _merge_contributions(chunk: MergeChunk) -> Contributed:
    return {
        (chunk.table.name, identity_of(chunk.table, entry.source)): dict(entry.contributed) or None
        for entry in chunk.entries
    }


def _sync_items(chunk: SyncChunk) -> Iterator[Item]:
    for item in chunk.items:
        for (name, key), wanted in item.wanted.items():
            yield Item(TABLES[name], key, wanted, item.before.get((name, key)))


def _ownership_items(chunk: OwnershipChunk) -> Iterator[Item]:
    for entry in chunk.entries:
        if entry.before is not None:
            yield Item(COURSE_BATCH, entry.key, chunk.after(entry.before), entry.before)


def _packed(name: str, row: Row | None) -> Any:
    return None if row is None else lines.pack(TABLES[name], row)


def _unpacked(name: str, raw: Any) -> Row | None:
    return None if raw is None else lines.unpack(TABLES[name], raw)
