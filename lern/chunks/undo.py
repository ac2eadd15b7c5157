"""A chunk of an undo: rows that go back to what the journal says they were before.

A cell goes back only where it still holds what the undone run left there. What somebody changed since
stays, and is reported. From a counter that has grown since, what the run gave to it is taken. A row that the
run deleted comes back; into one that stands there by now it is settled, as a merge would.

Sums need to know what stood when the way back was journalled: `UndoChunk.beside`.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Self

from lern.chunks import Carried, Chunk, Contributed, Json
from lern.chunks.merge import MergeChunk, identity_of
from lern.chunks.ownership import OwnershipChunk
from lern.chunks.sync import SyncChunk
from lern.ledger import Ledger
from lern.rules.merge import COUNTERS, RULES, difference, reunite
from lern.rules.rule import same, targets
from lern.store import rows as lines
from lern.store.base import Change, Store
from lern.store.tables import COURSE_BATCH, TABLES, Key, Row, Table

KIND: Final = "undo"


@dataclass(frozen=True)
class Item:
    """One row: what the run left (`after`) and what was there before. None: the row did not stand.

    `found`: what stood when the way back was journalled, of rows with counters and of those that the run has deleted.
    `given`: what such a row's counters have given to others.
    """

    table: Table
    key: Key
    after: Row | None
    before: Row | None
    found: Row | None = None
    given: Mapping[str, int] = field(default_factory=dict)

    @property
    def deleted(self) -> bool:
        """Whether the run has deleted the row."""
        return self.after is None and self.before is not None

    @property
    def identity(self) -> Key:
        """The key without the user."""
        table = self.table
        return tuple([part for column, part in zip(table.key, self.key, strict=True) if column != table.user])

    def gave(self, column: str) -> int:
        """Tell what the run gave to a counter and can be taken from it again; 0 where that cannot be told.

        A counter that was below what the run left has lost it since: a slow writer's stale value does that.
        """
        left, found = (self.after or {}).get(column), (self.found or {}).get(column)
        if column not in COUNTERS.get(self.table.name, ()) or not left or left < 0 or found is None or found < left:
            return 0
        # Where rows meet, a negative counter counts as 0.
        return int(max(left - max((self.before or {}).get(column) or 0, 0), 0))


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

    def beside(self, store: Store, ledger: Ledger) -> Self:
        """Give the chunk with what stands now, to be journalled before anything of it is written."""
        items = list(self.items)
        for table in dict.fromkeys(item.table for item in items):
            places = [
                place
                for place, item in enumerate(items)
                if item.table is table and (item.deleted or table.name in COUNTERS)
            ]
            found = store.read(table, [items[place].key for place in places])
            given = _given(ledger, table, [items[place] for place in places if items[place].deleted])
            for place in places:
                item = items[place]
                items[place] = _beside(item, found.get(item.key), given.get(item.key, {}))
        return replace(self, items=tuple(items))

    @classmethod
    def from_payload(cls, payload: Mapping[str, Any]) -> Self:
        """Read a chunk back from the journal."""
        items = tuple(_item(*raw) for raw in payload["items"])
        return cls(items, {(name, tuple(identity)): given for name, identity, given in payload["contributed"]})

    def to_payload(self) -> Json:
        """Give what the journal keeps."""
        return {
            "items": [
                [
                    item.table.name,
                    list(item.key),
                    *(_packed(item.table.name, row) for row in (item.after, item.before, item.found)),
                    dict(item.given),
                ]
                for item in self.items
            ],
            "contributed": [[name, list(identity), given] for (name, identity), given in self.contributed.items()],
        }

    def carry_out(self, store: Store, guard: Callable[[], None]) -> Carried:
        """Put the rows back, table by table."""
        kept: dict[tuple[str, Key, str], None] = {}
        said: dict[str, None] = {}
        contributed = dict(self.contributed)
        with store.unit(guard) as unit:
            for table in dict.fromkeys(item.table for item in self.items):
                by_key = {item.key: item for item in self.items if item.table is table}

                def decide(current: Mapping[Key, Row], by_key: Mapping[Key, Item] = by_key) -> Iterator[Change]:
                    for key, item in by_key.items():
                        way = way_back(item, current.get(key))
                        name = item.table.name
                        kept.update(dict.fromkeys((name, key, column) for column in way.kept))
                        said.update(dict.fromkeys(f"{name} {list(key)}: {text}" for text in way.said))
                        if way.holds:
                            place = name, item.identity
                            contributed[place] = _more(self.contributed.get(place), way.holds)
                        if way.change is not None:
                            yield way.change

                unit.settle(table, by_key.keys(), decide)
        warnings = [f"{name} {list(key)}: {column} was changed since and stays" for name, key, column in kept]
        restored = self._restored(kept)
        counts = {"restored": restored.total(), "kept": len(kept)}
        rows = {name: {"restored": number} for name, number in restored.items()}
        return Carried(counts, contributed, (*warnings, *said), rows)

    def _restored(self, reports: Collection[tuple[str, Key, str]]) -> Counter[str]:
        """Count, by table, the rows that are as before.

        By the journal: who finishes a chunk of the dead finds less to write.
        """
        kept = {(name, key) for name, key, _ in reports}
        changed = (item for item in self.items if not same(item.before, item.after))
        return Counter(item.table.name for item in changed if (item.table.name, item.key) not in kept)


@dataclass(frozen=True)
class WayBack:
    """What is to be done with a row.

    `kept`: the columns that somebody changed since. `said`: what else there is to say of it. `holds`: what counters
    that were kept still hold of the run's.
    """

    change: Change | None
    kept: tuple[str, ...] = ()
    said: tuple[str, ...] = ()
    holds: Mapping[str, int] = field(default_factory=dict)


@dataclass
class _Cells:
    """What is to become of a row's cells, as it is being decided."""

    put: Row = field(default_factory=dict)
    clear: set[str] = field(default_factory=set)
    drop: dict[str, frozenset[str]] = field(default_factory=dict)
    kept: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    holds: dict[str, int] = field(default_factory=dict)

    def back(self, column: str, was: object) -> None:
        """Put a cell back."""
        if was is None:
            self.clear.add(column)
        else:
            self.put[column] = was

    def entries(self, column: str, now: Row, left: Row, was: Row) -> None:
        """Put the entries of a map back."""
        entries, gone, changed = _map_back(now, left, was)
        if entries:
            self.put[column] = entries
        if gone:
            self.drop[column] = frozenset(gone)
        self.kept.extend(f"{column}[{key}]" for key in changed)

    def count(self, column: str, now: int, item: Item) -> None:
        """Take from a counter what the run gave to it.

        A counter only grows by itself, so that one below what was found has had it taken off. Where as much as that
        has come since it was found, nobody can tell: it stays, and still holds what the run gave.
        """
        gave, found, left = item.gave(column), (item.found or {})[column], (item.after or {})[column]
        if now >= found + gave:
            self.kept.append(column)
            self.holds[column] = gave
            return
        if found > left:
            self.said.append(f"{column} was changed since: the {gave} that the run had given are taken off it")
        if now == left == found:
            self.back(column, (item.before or {}).get(column))
        elif now >= found:
            self.put[column] = now - gave


def way_back(item: Item, current: Row | None) -> WayBack:
    """Decide cell by cell, and entry by entry in maps. Pure; doing it again on the outcome changes nothing."""
    table = item.table
    if item.deleted:
        return _returning(item, current)
    if current is None:
        return WayBack(None, () if item.before is None else ("the row",))
    after, before = item.after or {}, item.before or {}
    cells = _Cells()
    for column in table.values:
        now, left, was = current.get(column), after.get(column), before.get(column)
        if same(now, was) or same(left, was):
            continue
        if table.columns[column].is_map:
            cells.entries(column, now or {}, left or {}, was or {})
        elif now is not None and item.gave(column):
            cells.count(column, now, item)
        elif same(now, left):
            cells.back(column, was)
        else:
            cells.kept.append(column)
    result = _changed(current, cells)
    if item.before is None and not any(column in result for column in table.values):
        return WayBack(Change(item.key, delete=True))
    stays = _what_makes_it_real(item, current, result)
    if stays:
        cells.clear -= set(stays)
        cells.said.append(f"somebody went on with the enrolment since: {' and '.join(stays)} stay")
    change = Change(item.key, cells.put, frozenset(cells.clear), cells.drop)
    is_one = cells.put or cells.clear or cells.drop
    return WayBack(change if is_one else None, tuple(cells.kept), tuple(cells.said), cells.holds)


def _returning(item: Item, current: Row | None) -> WayBack:
    """Decide on a row that the run deleted: it comes back, beside what may have come to stand there since."""
    assert item.before is not None  # noqa: S101 - for the type checker: only what stood can be deleted
    wanted = reunite(item.table, current, item.before, item.found, item.given)
    change = difference(item.table, current, wanted)
    if item.found is None and (current is None or same(current, item.before)):
        return WayBack(change)
    rules = RULES[item.table.name].columns
    lost = [c for c in item.table.values if c in item.before and rules.get(c) is targets]
    kept = tuple(column for column in lost if not same(wanted[column], item.before[column]))
    return WayBack(change, kept, ("a row came since, and what was there before is settled into it",))


def _what_makes_it_real(item: Item, current: Row, result: Row) -> tuple[str, ...]:
    """Name the cells that must stay, or a row that somebody went on with would say that nobody ever enrolled."""
    rules = RULES.get(item.table.name)
    if rules is None or rules.ghost(current) or not rules.ghost(result) or same(result, item.before):
        return ()
    return tuple(column for column in rules.enrolling if column in current and column not in result)


def _changed(current: Row, cells: _Cells) -> Row:
    """Give the row that a change would make."""
    result = {column: value for column, value in current.items() if column not in cells.clear}
    for column, value in cells.put.items():
        result[column] = {**result.get(column, {}), **value} if isinstance(value, dict) else value
    for column, keys in cells.drop.items():
        entries = {key: value for key, value in result[column].items() if key not in keys}
        if entries:
            result[column] = entries
        else:
            del result[column]
    return result


def _beside(item: Item, found: Row | None, given: Mapping[str, int]) -> Item:
    if found is None or (item.deleted and same(found, item.before)):
        return item
    if not item.deleted:
        found = {column: found[column] for column in COUNTERS[item.table.name] if column in found}
    return replace(item, found=found, given=given)


def _given(ledger: Ledger, table: Table, items: Sequence[Item]) -> dict[Key, Mapping[str, int]]:
    """Give what rows' counters have given to others so far. The rows are of one account."""
    if not items or table.user is None or table.name not in COUNTERS:
        return {}
    user = items[0].key[table.key.index(table.user)]
    given = ledger.contributed(user, table.name, [item.identity for item in items])
    return {item.key: given.get(item.identity, {}) for item in items}


def _more(given: Mapping[str, int] | None, holds: Mapping[str, int]) -> dict[str, int]:
    """Add up what a source row has given: before the run, and by the run."""
    earlier = given or {}
    return {**earlier, **{column: max(earlier.get(column, 0), 0) + more for column, more in holds.items()}}


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


def _item(name: str, key: list[str], after: Any, before: Any, found: Any = None, given: Json | None = None) -> Item:
    """Read an item back; one that an earlier version journalled says nothing of what was found."""
    after, before, found = (_unpacked(name, row) for row in (after, before, found))
    return Item(TABLES[name], tuple(key), after, before, found, given or {})


def _packed(name: str, row: Row | None) -> Any:
    return None if row is None else lines.pack(TABLES[name], row)


def _unpacked(name: str, raw: Any) -> Row | None:
    return None if raw is None else lines.unpack(TABLES[name], raw)
