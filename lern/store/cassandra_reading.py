"""Reading learner rows from Cassandra: slices, rows by key, ranges."""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from typing import Any, Final

from lern.errors import BadRow, Refused
from lern.store.base import Part
from lern.store.cassandra_codec import Codec, integer, long, sequence, text, tuple_of
from lern.store.cassandra_session import Connected, Request, Shape, next_page
from lern.store.cassandra_statements import SPREAD
from lern.store.tables import Key, Row, Table, picking

# Rows that one query asks for by their keys.
_KEYS_AT_ONCE: Final = 500

# From how many rows of one slice on they may be read as a range.
_RANGE: Final = 16

# Of the rows of one user in several partitions: how many combinations of partition and place one query may ask for.
# Most of them do not stand; a query for each partition costs more.
_COMBINATIONS: Final = 512

# Into how many ranges of tokens a table is parted to go through it. Tokens are all 64-bit numbers but the lowest.
_PARTS: Final = 64
_TOKENS: Final = 2**64
_FIRST_TOKEN: Final = -(2**63)


class Reader:
    """Reads through one session."""

    def __init__(self, connected: Connected) -> None:
        """Take the session."""
        self._connected = connected

    def rows(self, table: Table, where: Key, after: Key | None, limit: int | None) -> list[Row]:
        """Read one slice in its order; see `Store.rows`."""
        narrowed = where[len(table.slice) :]
        if after is not None:
            before, after = after[: len(narrowed)], after[len(narrowed) :]
            # The place is outside what was narrowed to: everything there lies beyond it, or nothing.
            if before < narrowed:
                after = None
            elif before > narrowed or not after:
                return []
        shape = self._connected.shape(table)
        if shape.is_void(where) or (limit is not None and limit <= 0):
            return []
        cql = shape.statements.rows(len(where), after=after is not None, limit=limit is not None)
        names = (*table.slice, *table.order)
        cells: list[bytes] = key_cells(table, names, (*where, *(after or ())))
        if limit is not None:
            cells.append(integer(limit))
        result = self._connected.read(self._connected.bound(cql, cells))
        return [shape.codec.row(raw) for raw in raw_rows(result)]

    def slices(self, table: Table, wheres: Sequence[Key], limit: int) -> list[list[Row]]:
        """Read the first rows of several slices; see `Store.slices`."""
        shape = self._connected.shape(table)
        together = table.name in SPREAD and len(wheres) > 1
        asked = self._by_user(table, wheres) if together else [[w] for w in wheres if not shape.is_void(w)]
        requests = (self._first_of(shape, some, limit, together=together) for some in asked)
        found: dict[Key, list[Row]] = {where: [] for where in wheres}
        for result in self._connected.reads(requests):
            for row in map(shape.codec.row, raw_rows(result)):
                found[table.slice_of(row)].append(row)
        return list(found.values())

    def read(self, table: Table, keys: Collection[Key]) -> dict[Key, Row]:
        """Read rows by primary key."""
        shape = self._connected.shape(table)
        return {key: shape.codec.row(raw) for key, raw in self.raw(shape, keys)}

    def raw(self, shape: Shape, keys: Collection[Key], times: Sequence[str] = ()) -> Iterator[tuple[Key, Any]]:
        """Read rows by primary key, as the driver gives them, with what `times` selects at their ends.

        The first questions are on their way when this returns.
        """
        table = shape.codec.table
        # In their order, which is mostly that of the table: they need not be sorted then.
        wanted = dict.fromkeys(keys)
        if table.name in SPREAD:
            return _wanted(shape, wanted, self._connected.reads(self._spread(shape, wanted, times)))
        ranges, places = self._pieces(shape, wanted)
        by_range = self._connected.reads([self._first_between(shape, piece, times) for piece in ranges])
        by_place = self._connected.reads([self._by_places(shape, piece, times) for piece in places])
        return self._found(shape, wanted, zip(ranges, by_range, strict=True), by_place, times)

    def _found(
        self,
        shape: Shape,
        wanted: Collection[Key],
        by_range: Iterable[tuple[list[Key], Any]],
        by_place: Iterable[Any],
        times: Sequence[str],
    ) -> Iterator[tuple[Key, Any]]:
        table = shape.codec.table
        rest: list[list[Key]] = []
        for piece, result in by_range:
            raws = list(raw_rows(result))
            yield from ((key, raw) for raw in raws if (key := shape.codec.key_of(raw)) in wanted)
            if len(raws) == _room(piece):
                # There is much between these rows: what lies beyond the last one read is asked for by its place.
                last = shape.codec.key_of(raws[-1])
                self._connected.sparse.add((table, _slice_of(table)(last)))
                beyond = [key for key in piece if place_of(table, key) > place_of(table, last)]
                rest += [beyond] if beyond else []
        yield from _wanted(shape, wanted, by_place)
        if rest:
            requests = (self._by_places(shape, piece, times) for piece in rest)
            yield from _wanted(shape, wanted, self._connected.reads(requests))

    def between(self, shape: Shape, ranges: Sequence[tuple[Key, Key]], times: Sequence[str]) -> Iterator[Iterator[Any]]:
        """Read the rows of slices from one key to another in order, as the driver gives them: for each range its rows.

        The first questions are on their way when this returns.
        """
        cql = shape.statements.between(times)
        cells = [range_cells(shape.codec.table, first, last) for first, last in ranges]
        requests = (Request(self._connected.bound(cql, some), sum(map(len, some))) for some in cells)
        return map(raw_rows, self._connected.reads(requests))

    def places_between(self, table: Table, first: Key, last: Key) -> Iterator[Key]:
        """Read which places of a slice are taken, in order."""
        cql = self._connected.shape(table).statements.places_between
        result = self._connected.read(self._connected.bound(cql, range_cells(table, first, last)))
        return map(tuple, raw_rows(result))

    def scan(self, table: Table, where: Key) -> Iterator[Row]:
        """Read every row, or every one of a slice, a page at a time."""
        shape = self._connected.shape(table)
        if where and shape.is_void(where):
            return iter(())
        statements = shape.statements
        cql = statements.rows(len(where), after=False, limit=False) if where else statements.scan
        cells = key_cells(table, (*table.slice, *table.order), where)
        return map(shape.codec.row, raw_rows(self._connected.read(self._connected.bound(cql, cells))))

    def parts(self, table: Table, columns: Collection[str]) -> Iterator[Part]:
        """Read some columns of every row, along the tokens. Raises `Refused` where those are not Murmur3's."""
        partitioner = self._connected.cluster.metadata.partitioner or ""
        if not partitioner.endswith("Murmur3Partitioner"):
            raise Refused(f"Cassandra: {table.name} cannot be gone through in parts with {partitioner}")
        shape = self._connected.shape(table)
        found = replace(shape.codec.found, columns=tuple(c for c in shape.codec.found.columns if c in columns))
        codec = Codec(table, found)
        cql = shape.statements.part(codec.order)
        for number in range(_PARTS):
            tokens = [long(_FIRST_TOKEN + _TOKENS * at // _PARTS - at // _PARTS) for at in (number, number + 1)]
            result = self._connected.read(self._connected.bound(cql, tokens))
            for page, is_last in pages(result):
                yield Part([codec.row(raw) for raw in page], (number + is_last) / _PARTS)

    def _by_user(self, table: Table, wheres: Sequence[Key]) -> list[list[Key]]:
        """Part slices so that those which only the spread column tells apart are together."""
        spread = table.slice.index(SPREAD[table.name])
        groups: dict[Key, list[Key]] = {}
        for where in wheres:
            groups.setdefault((*where[:spread], *where[spread + 1 :]), []).append(where)
        return list(groups.values())

    def _first_of(self, shape: Shape, wheres: Sequence[Key], limit: int, *, together: bool) -> Request:
        table = shape.codec.table
        if together:
            spread = SPREAD[table.name]
            at = table.slice.index(spread)
            fixed = tuple(column for column in table.slice if column != spread)
            cells = key_cells(table, fixed, (*wheres[0][:at], *wheres[0][at + 1 :]))
            cells.append(_texts(table, spread, (where[at] for where in wheres)))
            cql = shape.statements.rows_spread
        else:
            cells = key_cells(table, table.slice, wheres[0])
            cql = shape.statements.rows(len(table.slice), after=False, limit=True)
        cells.append(integer(limit))
        return Request(self._connected.bound(cql, cells), sum(map(len, cells)))

    def _pieces(self, shape: Shape, keys: Iterable[Key]) -> tuple[list[list[Key]], list[list[Key]]]:
        """Part keys into pieces to be read as a range, and pieces to be read by their places.

        Where most rows of a range are wanted, reading all of it takes half the time.
        """
        table = shape.codec.table
        ranges: list[list[Key]] = []
        places: list[list[Key]] = []
        for where, group in by_slice(table, keys).items():
            if shape.is_void(where):
                continue
            is_range = len(group) >= _RANGE and (table, where) not in self._connected.sparse
            if is_range:
                group.sort(key=_place_getter(table))
            step = _KEYS_AT_ONCE if table.order else 1
            pieces = ranges if is_range else places
            pieces.extend(group[start : start + step] for start in range(0, len(group), step))
        return ranges, places

    def _first_between(self, shape: Shape, piece: Sequence[Key], times: Sequence[str]) -> Request:
        cells = [*range_cells(shape.codec.table, piece[0], piece[-1]), integer(_room(piece))]
        return Request(self._connected.bound(shape.statements.first_between(times), cells), sum(map(len, cells)))

    def _by_places(self, shape: Shape, piece: Sequence[Key], times: Sequence[str]) -> Request:
        table = shape.codec.table
        cells: list[bytes] = key_cells(table, table.slice, _slice_of(table)(piece[0]))
        if table.order:
            cells.append(_places_cell(table, [place_of(table, key) for key in piece]))
        return Request(self._connected.bound(shape.statements.read(times), cells), sum(map(len, cells)))

    def _spread(self, shape: Shape, keys: Iterable[Key], times: Sequence[str]) -> Iterator[Request]:
        """Ask for several partitions of one user together."""
        table = shape.codec.table
        spread = table.key.index(SPREAD[table.name])
        place = table.key.index(table.order[0])
        fixed = [i for i in range(len(table.key)) if i not in {spread, place}]
        users: dict[Key, list[Key]] = {}
        for key in sorted(keys):
            users.setdefault(tuple(key[i] for i in fixed), []).append(key)
        names = tuple(table.key[i] for i in fixed)
        for user, group in users.items():
            for spreads, places in _combined((key[spread], key[place]) for key in group):
                cells = key_cells(table, names, user)
                cells += [_texts(table, table.key[spread], spreads), _texts(table, table.key[place], places)]
                yield Request(self._connected.bound(shape.statements.read_spread(times), cells), sum(map(len, cells)))


def _wanted(shape: Shape, wanted: Collection[Key], results: Iterable[Any]) -> Iterator[tuple[Key, Any]]:
    for result in results:
        for raw in raw_rows(result):
            if (key := shape.codec.key_of(raw)) in wanted:
                yield key, raw


def by_slice(table: Table, keys: Iterable[Key]) -> dict[Key, list[Key]]:
    """Give primary keys by the slice that they stand in."""
    slice_of = _slice_of(table)
    groups: dict[Key, list[Key]] = {}
    for key in keys:
        groups.setdefault(slice_of(key), []).append(key)
    return groups


def place_of(table: Table, key: Key) -> Key:
    """Give the place in its slice of a primary key."""
    return _place_getter(table)(key)


@cache
def _slice_of(table: Table) -> Callable[[Key], Key]:
    return picking([table.key.index(column) for column in table.slice])


@cache
def _place_getter(table: Table) -> Callable[[Key], Key]:
    return picking([table.key.index(column) for column in table.order])


def _room(piece: Collection[Key]) -> int:
    """Give how many rows are read of a range with so many wanted ones."""
    return 2 * len(piece)


def key_cells(table: Table, columns: Sequence[str], parts: Key) -> list[bytes]:
    """Encode parts of a primary key. Raises `BadRow` for what is no text."""
    try:
        return [text(part) for part in parts]
    except ValueError:
        for column, part in zip(columns, parts, strict=False):
            try:
                text(part)
            except ValueError as error:
                raise BadRow(table.name, parts, column, str(error)) from error
        raise


def range_cells(table: Table, first: Key, last: Key) -> list[bytes]:
    """Encode a range of one slice: the slice, the first place, the last place."""
    places = [key_cells(table, table.order, place_of(table, key)) for key in (first, last)]
    return [*key_cells(table, table.slice, _slice_of(table)(first)), *places[0], *places[1]]


def raw_rows(result: Any) -> Iterator[Any]:
    """Give the rows of all pages."""
    for page, _ in pages(result):
        yield from page


def pages(result: Any) -> Iterator[tuple[Sequence[Any], bool]]:
    """Give the pages, and of each whether it is the last. The next is asked for when the one before is used up."""
    while True:
        is_last = not result.has_more_pages
        yield result.current_rows, is_last
        if is_last:
            return
        next_page(result)


def _places_cell(table: Table, places: Sequence[Key]) -> bytes:
    encoded = [key_cells(table, table.order, place) for place in places]
    return sequence([parts[0] if len(parts) == 1 else tuple_of(parts) for parts in encoded])


def _texts(table: Table, column: str, parts: Iterable[str]) -> bytes:
    return sequence([key_cells(table, (column,), (part,))[0] for part in parts])


def _combined(pairs: Iterable[tuple[str, str]]) -> Iterator[tuple[list[str], list[str]]]:
    """Put pairs into groups whose products stay small: each group asks for every left with every right."""
    lefts: dict[str, None] = {}
    rights: dict[str, None] = {}
    for left, right in pairs:
        if len(lefts | {left: None}) * len(rights | {right: None}) > _COMBINATIONS:
            yield list(lefts), list(rights)
            lefts, rights = {}, {}
        lefts[left] = rights[right] = None
    if lefts:
        yield list(lefts), list(rights)
