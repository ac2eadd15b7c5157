"""Writing learner rows to Cassandra: changes become statements, statements on one partition become one mutation."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from cassandra.query import BoundStatement

from lern.store.base import Change, Swap
from lern.store.cassandra_codec import NULL, UNSET, Codec, cell, long, sequence, text, text_cell
from lern.store.cassandra_protocol import Mutation
from lern.store.cassandra_reading import Reader, by_slice, key_cells, place_of, range_cells
from lern.store.cassandra_session import Connected, Request, Shape
from lern.store.cassandra_statements import Placed
from lern.store.tables import Key, Row, Table, picking

# A mutation may have 8 MiB where commit log segments have 16 MiB, which is the smallest that is in use. Smaller ones
# are written while the next is being made.
BATCH_BYTES = 64 * 1024

_EMPTY: Final[tuple[Any, ...]] = ([], {})


@dataclass
class Writer:
    """Collects writes on one table that have one time, by partition. `time` in microseconds."""

    connected: Connected
    table: Table
    time: int
    _shape: Shape = field(init=False)
    _codec: Codec = field(init=False)
    _beginnings: dict[str, bytes] = field(init=False, default_factory=dict)
    _by_partition: dict[Key, list[bytes]] = field(init=False, default_factory=dict)
    _sizes: dict[Key, int] = field(init=False, default_factory=dict)
    _full: set[Key] = field(init=False, default_factory=set)
    _time: bytes = field(init=False)

    def __post_init__(self) -> None:
        """Look the table up."""
        self._shape = self.connected.shape(self.table)
        self._codec = self._shape.codec
        self._time = cell(long(self.time))
        self._partition = picking(self._shape.partition)

    def change(self, change: Change, *, stands: bool) -> None:
        """Put, clear and drop. A row that does not stand is created, and nulls are not written to it."""
        key = change.key
        if not stands:
            self._create(key, change.put)
            return
        if change.put or change.clear:
            self._update(key, change)
        for column, keys in change.drop.items():
            self._codec.refuse_unknown(column, key)
            entries = sequence([text(entry) for entry in sorted(keys)])
            cells = [self._time, cell(entries), *self._key(key)]
            self._add(key, self._shape.statements.drop(column), cells)

    def insert(self, row: Row) -> None:
        """Write a whole row; columns that it does not have are left alone."""
        key = self.table.key_of(row)
        own = frozenset(self.table.key)
        self._insert(key, {c: v for c, v in row.items() if c not in own}, self._shape.statements.insert)

    def delete(self, first: Key, last: Key) -> None:
        """Delete the rows of a slice from one to another: one tombstone, however many they are."""
        if first == last:
            self._add(first, self._shape.statements.delete, [self._time, *self._key(first)])
        else:
            cells = [self._time, *map(cell, range_cells(self.table, first, last))]
            self._add(first, self._shape.statements.delete_between, cells)

    def requests(self, *, full: bool = False) -> Iterator[Request]:
        """Give what is to be sent, and forget it; `full`: only what makes a whole mutation already."""
        for partition in self._full if full else list(self._by_partition):
            del self._sizes[partition]
            for writes, size in _parts(self._by_partition.pop(partition)):
                yield Request(Mutation(self.connected.place.keyspace, list(map(text, partition)), writes), size)
        self._full.clear()

    def _create(self, key: Key, put: Row) -> None:
        statements = self._shape.statements
        values, maps = put, {}
        if self._codec.collections:
            values = {column: value for column, value in put.items() if value not in _EMPTY}
            maps = {column: values.pop(column) for column in statements.maps if column in values}
        self._insert(key, values, statements.create)
        if maps:
            # Not with the row: a map that is written whole erases entries that a live writer put there meanwhile.
            self._update(key, Change(key, maps))

    def _insert(self, key: Key, values: Row, statement: Placed) -> None:
        cells = [*self._key(key), *[UNSET] * len(statement.places), self._time]
        self._codec.fill(cells, statement.places, values, key)
        self._add(key, statement.cql, cells)

    def _update(self, key: Key, change: Change) -> None:
        statement = self._shape.statements.update
        cells = [self._time, *[UNSET] * len(statement.places), *self._key(key)]
        self._codec.fill(cells, statement.places, change.put, key)
        for column in self._shape.statements.maps:
            # An empty map puts nothing; as a null it would be refused.
            if cells[statement.places[column]] is NULL:
                cells[statement.places[column]] = UNSET
        for column in change.clear:
            self._codec.refuse_unknown(column, key)
            if self.table.columns[column].is_map:
                self._add(key, self._shape.statements.clear(column), [self._time, *self._key(key)])
            else:
                cells[statement.places[column]] = NULL
        self._add(key, statement.cql, cells)

    def _key(self, key: Key) -> list[bytes]:
        try:
            return [text_cell(part) for part in key]
        except ValueError:
            return list(map(cell, key_cells(self.table, self.table.key, key)))  # which says of what column

    def _add(self, key: Key, cql: str, cells: list[bytes]) -> None:
        beginning = self._beginnings.get(cql)
        if beginning is None:
            beginning = self._beginnings[cql] = self.connected.beginning(cql, len(cells))
        write = b"".join([beginning, *cells])
        partition = self._partition(key)
        self._by_partition.setdefault(partition, []).append(write)
        total = self._sizes[partition] = self._sizes.get(partition, 0) + len(write)
        if total >= BATCH_BYTES:
            self._full.add(partition)


def swapping(connected: Connected, table: Table, swap: Swap) -> BoundStatement:
    """Give the conditional write of one row. Its time is Cassandra's: a condition cannot be given one."""
    shape = connected.shape(table)
    put, expected = tuple(swap.put), tuple(swap.expected)
    encode = shape.codec.encode
    cells = [encode(column, swap.put[column], swap.key) for column in put]
    cells += key_cells(table, table.key, swap.key)
    cells += [encode(column, swap.expected[column], swap.key) for column in expected]
    return connected.bound(shape.statements.swap(put, expected), cells)


def runs(table: Table, doomed: Collection[Key], reader: Reader) -> Iterator[tuple[Key, Key]]:
    """Give ranges that hold all of `doomed` that stand, and no row besides.

    What comes to stand in a range after it was looked at has a later time than the deletion, and stays.
    """
    for keys in by_slice(table, doomed).values():
        if len(keys) == 1:
            yield keys[0], keys[0]
            continue
        by_place = {place_of(table, key): key for key in keys}
        places = sorted(by_place)
        standing = reader.places_between(table, by_place[places[0]], by_place[places[-1]])
        yield from joined(by_place.get(place) for place in standing)


def joined(keys: Iterable[Key | None]) -> Iterator[tuple[Key, Key]]:
    """Join neighbours into ranges; None is a row that stays, and parts them."""
    first: Key | None = None
    last: Key | None = None
    for key in keys:
        if key is None:
            if first is not None and last is not None:
                yield first, last
            first = last = None
        else:
            first, last = first or key, key
    if first is not None and last is not None:
        yield first, last


def _parts(writes: Sequence[bytes]) -> Iterator[tuple[list[bytes], int]]:
    """Give the writes in parts that are not too large, each with its bytes."""
    part: list[bytes] = []
    total = 0
    for write in writes:
        if part and total + len(write) > BATCH_BYTES:
            yield part, total
            part, total = [], 0
        part.append(write)
        total += len(write)
    yield part, total
