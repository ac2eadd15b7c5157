"""The store in Cassandra. The contract is in `lern.store.base`.

A unit is no transaction here. Instead every write carries the time T (microseconds) that was taken before the read it
rests on. A live write after that read has a later time, wins, and is seen by the next round. What remains: a live write
that was stamped before T and arrives after the read is lost to ours, in the cells that we write.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import chain, islice, zip_longest
from pathlib import Path
from typing import Any, Final

from lern.errors import Refused, TooEarly, Unsettled
from lern.store.base import Bad, Change, Decide, First, Look, Part, Swap, refused
from lern.store.cassandra_clock import Ahead, Clock, ahead, latest
from lern.store.cassandra_codec import SCALARS, Codec, as_stored
from lern.store.cassandra_layout import layout_problems
from lern.store.cassandra_place import Place
from lern.store.cassandra_reading import Reader, by_slice, key_cells, place_of
from lern.store.cassandra_session import Connected, Node, Request, Sessions
from lern.store.cassandra_writing import Writer, joined, runs, swapping
from lern.store.sql_codec import merged_map, same
from lern.store.tables import TABLES, Key, Kind, Row, Table

# The third only looks whether anything is left to write.
_ROUNDS: Final = 3

# Rows of one pass of `insert`.
_PAGE: Final = 1000

# How many rows that do not settle are looked at for a clock that is ahead.
_SUSPECTS: Final = 50

# Since when the write times of collections can be asked for.
_TIMES_OF_COLLECTIONS: Final = (5, 0)

_MICROSECONDS: Final = 1_000_000


class CassandraStore:
    """Learner rows in Cassandra 4.1 or 5.0.

    `url`: see `lern.store.cassandra_place`. `names`: physical table names, where they differ from the tables' own.
    `tables`: those that this installation uses; `check` looks at them alone. `max_clock_ahead`: seconds. Nothing is
    connected before the first use, and each process has a session of its own.
    """

    # The server, and the network, work while we do.
    reads_ahead = True

    def __init__(
        self,
        url: str,
        names: Mapping[str, str] | None = None,
        *,
        tables: Collection[str] = tuple(TABLES),
        max_clock_ahead: float = 60.0,
    ) -> None:
        """Prepare; the first statement connects. Raises `SettingsError` for a URL that cannot be."""
        self._names = dict(names or {})
        self._tables = tuple(tables)
        self._sessions = Sessions(Place.of(url), self._names)
        self._tolerance = int(max_clock_ahead * _MICROSECONDS)
        self._clock = Clock()

    def create(self) -> None:
        """Create the keyspace and the tables that are missing, and leave the others."""
        connected = self._sessions.connected()
        keyspace = connected.place.keyspace
        if connected.keyspace is None:
            connected.execute(f"CREATE KEYSPACE IF NOT EXISTS {keyspace} WITH replication = {_replication(connected)}")
        for statement in _schema({"keyspace": keyspace, **{name: self._names.get(name, name) for name in TABLES}}):
            connected.execute(statement)

    def check(self) -> None:
        """Read from every table that is in use. Raises as every method does, and `Refused` for a layout that is not."""
        for table in (TABLES[name] for name in self._tables):
            self.rows(table, ("-",) * len(table.slice), limit=1)

    def layout_problems(self) -> list[str]:
        """Say what is wrong with the tables in use, one sentence each; for `lern doctor`."""
        connected = self._sessions.connected()
        return layout_problems(connected.session, connected.place.keyspace, self._names, self._tables)

    @property
    def place(self) -> Place:
        """Where the cluster is, and who we are there; for `lern doctor`."""
        return self._sessions.place

    def nodes(self) -> list[Node]:
        """Ask every node for its version and its time; for `lern doctor`."""
        return self._sessions.connected().nodes()

    def must_fit(self, tables: Iterable[Table]) -> None:
        """Look at the tables' layouts as the driver knows them."""
        connected = self._sessions.connected()
        for table in tables:
            connected.shape(table)

    def refusals(self) -> list[tuple[str, str]]:
        """Say of the tables in use which we may not read or write, and in which words; for `lern doctor`.

        Nothing is changed: the row that is deleted does not stand.
        """
        connected = self._sessions.connected()
        found = []
        for table in (TABLES[name] for name in self._tables):
            name = self._names.get(table.name, table.name)
            where = " AND ".join(f"{column} = '-'" for column in table.key)
            delete = f"DELETE FROM {connected.place.keyspace}.{name} WHERE {where} IF EXISTS"  # noqa: S608
            # Who may do neither is told of one only by each.
            for attempt in (
                partial(self.rows, table, ("-",) * len(table.slice), limit=1),
                partial(connected.execute, delete),
            ):
                try:
                    attempt()
                except Refused as error:
                    found.append((name, str(error)))
        return found

    def rows(self, table: Table, where: Key, after: Key | None = None, limit: int | None = None) -> list[Row]:
        """Read one slice in its order."""
        return self._reader().rows(table, where, after, limit)

    def slices(self, table: Table, wheres: Sequence[Key], limit: int) -> list[list[Row]]:
        """Read the first rows of several slices."""
        return self._reader().slices(table, wheres, limit)

    def read(self, table: Table, keys: Collection[Key]) -> dict[Key, Row]:
        """Read rows by primary key."""
        return self._reader().read(table, keys)

    def look(self, table: Table, keys: Collection[Key]) -> Look:
        """Read rows by primary key, and remember since when they are known."""
        at = self._clock.now()
        return Look(self.read(table, keys), at)

    @contextmanager
    def unit(self, guard: Callable[[], None]) -> Iterator["CassandraUnit"]:
        """Begin a unit. What it has written stays written, however the block ends."""
        yield CassandraUnit(self._sessions.connected(), self._clock, self._tolerance, guard)

    def insert(self, table: Table, rows: Iterable[Row]) -> None:
        """Write whole rows, of which some are written if it fails."""
        connected = self._sessions.connected()
        remaining = iter(rows)
        while page := list(islice(remaining, _PAGE)):
            for distinct in _distinct(table, page):
                writer = Writer(connected, table, self._clock.now())
                for row in distinct:
                    writer.insert(row)
                connected.write(writer.requests(), lambda: None)

    def scan(self, table: Table, where: Key = (), bad: Bad = refused) -> Iterator[Row]:
        """Read every row, or every one of a slice, a page at a time."""
        del bad  # Cassandra takes no value that is not of its column's kind
        return self._reader().scan(table, where)

    def compare_and_set(self, table: Table, swaps: Sequence[Swap], guard: Callable[[], None]) -> frozenset[Key]:
        """Change the rows that are as expected, by lightweight transactions.

        Side by side, but for those of one partition, which would only get into each other's way.
        """
        connected = self._sessions.connected()
        by_partition = by_slice(table, [swap.key for swap in swaps])
        by_key = {swap.key: swap for swap in swaps}
        made: set[Key] = set()
        for wave in zip_longest(*by_partition.values()):
            keys = [key for key in wave if key is not None]
            requests = [Request(swapping(connected, table, by_key[key]), 0) for key in keys]
            made.update(key for key, done in zip(keys, connected.swaps(requests, guard), strict=True) if done)
        return frozenset(made)

    def parts(self, table: Table, columns: Collection[str]) -> Iterator[Part]:
        """Go through a table along its tokens, a page at a time."""
        return self._reader().parts(table, columns)

    def close(self) -> None:
        """Close the connections of this process."""
        self._sessions.close()

    def _reader(self) -> Reader:
        return Reader(self._sessions.connected())


class CassandraUnit:
    """What one chunk does to the learner rows, each write with the time before its read."""

    def __init__(self, connected: Connected, clock: Clock, tolerance: int, guard: Callable[[], None]) -> None:
        """Take the session; `guard` is called before every write. `tolerance` in microseconds."""
        self._connected = connected
        self._reader = Reader(connected)
        self._clock = clock
        self._tolerance = tolerance
        self._guard = guard
        self._looked: tuple[Sequence[Row], _Compared] | None = None

    def rows(self, table: Table, where: Key, after: Key | None = None, limit: int | None = None) -> list[Row]:
        """Read one slice in its order."""
        return self._reader.rows(table, where, after, limit)

    def settle(
        self,
        table: Table,
        keys: Collection[Key],
        decide: Decide,
        first: First | None = None,
        then: Sequence[Row] = (),
    ) -> int:
        """Write what `decide` makes of the rows of `keys`, and read them back until nothing is left to write."""
        begun = None if first is None or first.look.at is None else (first.look.at, first.look.rows, first.changes)
        asked = dict.fromkeys(keys)
        written = 0
        changes: dict[Key, Change] = {}
        standing: Mapping[Key, Row]
        wanted: Iterable[Change]
        expected: Mapping[Key, Row] = {}
        lost: Ahead | None = None
        for round_ in range(_ROUNDS):
            tried = changes
            if begun is not None:
                now, standing, wanted = begun
                begun = None
            else:
                now = self._clock.now()
                # Both take their time at the server; what is to be removed is looked at meanwhile.
                self._looked = (then, self._look(table, then)) if then and changes else None
                shape = self._connected.shape(table)
                found = dict(self._reader.raw(shape, asked))
                # As `decide` is idempotent, it has nothing to say to rows that are just what it made of them, or that
                # are still what it had nothing to say to.
                if changes and _is_as_expected(shape.codec, expected, found):
                    return written
                standing = {key: shape.codec.row(raw) for key, raw in found.items()}
                wanted = decide(standing)
            changes = _effective(table, asked, standing, wanted)
            if not changes:
                return written
            lost = self._lost(table, [change for key, change in changes.items() if key in tried], now)
            if round_ + 1 < _ROUNDS:
                self._write(table, changes.values(), standing, now)
                expected = outcome(table, standing, changes)
                written += len(changes)
        raise self._too_early(lost) or Unsettled(f"{table.name}: {_unsettled(changes)}")

    def remove(self, table: Table, rows: Sequence[Row]) -> list[Row]:
        """Delete those of `rows` that still stand exactly as given; give back what stands in place of the others."""
        looked, self._looked = self._looked, None
        compared = looked[1] if looked is not None and looked[0] is rows else self._look(table, rows)
        compared.finish()
        self._refuse(compared.ahead)
        writer = Writer(self._connected, table, compared.now)
        for first, last in compared.unchanged:
            writer.delete(first, last)
        self._connected.write(writer.requests(), self._guard)
        return compared.changed

    def _look(self, table: Table, rows: Sequence[Row]) -> "_Compared":
        """Begin to read rows that are to be removed, as they stand now."""
        now = self._clock.now()
        given = {table.key_of(row): row for row in rows}
        compared = _Compared(self._connected, table, given, now)
        groups = by_slice(table, given).values()
        by_place = partial(place_of, table)
        ranges = [(min(group, key=by_place), max(group, key=by_place)) for group in groups if len(group) > 1]
        singles = [group[0] for group in groups if len(group) == 1]
        between = self._reader.between(compared.shape, ranges, compared.times)
        alone = self._reader.raw(compared.shape, singles, compared.times)
        compared.coming = chain(between, ([raw] for _, raw in alone))
        return compared

    def _write(self, table: Table, changes: Iterable[Change], standing: Mapping[Key, Row], now: int) -> None:
        writer = Writer(self._connected, table, now)

        def requests() -> Iterator[Request]:
            doomed = []
            for change in changes:
                if change.delete:
                    doomed.append(change.key)
                else:
                    writer.change(change, stands=change.key in standing)
                    # Sent while the next are being made.
                    yield from writer.requests(full=True)
            for first, last in runs(table, doomed, self._reader):
                writer.delete(first, last)
            yield from writer.requests()

        self._connected.write(requests(), self._guard)

    def _lost(self, table: Table, changes: Sequence[Change], now: int) -> Ahead | None:
        """Look, where writes did not take, for the cell that is furthest ahead of the clock. Raises `ClockAhead`.

        A cell that is ahead by less is left to the rounds, and then waited for: time heals it.
        """
        suspects = (ahead(table, change.key, self._times(table, change), now) for change in changes[:_SUSPECTS])
        furthest = max((found for found in suspects if found is not None), key=lambda found: found.by, default=None)
        if furthest is not None and furthest.by > self._tolerance:
            raise furthest.error()
        return furthest

    def _refuse(self, found: Ahead | None) -> None:
        """Refuse to delete a row of which a part would stay."""
        if found is None:
            return
        if found.by > self._tolerance:
            raise found.error()
        raise self._too_early(found) or Unsettled(
            f"{found.table.name} {found.key!r}: {found.column} is written as fast as it is read"
        )

    def _too_early(self, found: Ahead | None) -> TooEarly | None:
        """Give the error that has the time of a cell waited for.

        None if it has come: a clock like ours may have written the cell after we had taken the time of our read.
        """
        now = self._clock.now()
        return found.too_early(now) if found is not None and found.cell >= now else None

    def _times(self, table: Table, change: Change) -> dict[str, int | None]:
        """Read when the cells were written that the change is about.

        Before Cassandra 5.0 the times of lists and maps cannot be asked for: such rows stay unsettled unexplained.
        """
        shape = self._connected.shape(table)
        statements = shape.statements
        timed = statements.timed(of_collections=self._connected.version >= _TIMES_OF_COLLECTIONS)
        about = {*change.put, *change.clear, *change.drop}
        columns = tuple(c for c in timed if change.delete or c in about)
        if not columns:
            return {}
        cells = key_cells(table, table.key, change.key)
        raws = list(self._connected.read(self._connected.bound(statements.times(columns), cells)).current_rows)
        if not raws:
            return {}
        times, maps = raws[0][: len(columns)], raws[0][len(columns) :]
        result = {column: latest(time) for column, time in zip(columns, times, strict=True)}
        codec = shape.codec
        for column, entries in zip([c for c in columns if table.columns[c].is_map], maps, strict=True):
            if entries is not None and not change.delete and column not in change.clear:
                by_entry = dict(zip(codec.decoded(column, entries), times[columns.index(column)], strict=True))
                touched = {*change.put.get(column, ()), *change.drop.get(column, ())}
                # Of an entry that is not there although we wrote it: a map that was written whole has erased it.
                if not touched <= by_entry.keys():
                    touched = set(by_entry)
                result[column] = max((by_entry[entry] for entry in touched), default=None)
        return result


class _Compared:
    """Rows as they stand now beside rows as they were: which may go, in ranges, and which were changed."""

    def __init__(self, connected: Connected, table: Table, given: Mapping[Key, Row], now: int) -> None:
        self.shape = shape = connected.shape(table)
        of_collections = connected.version >= _TIMES_OF_COLLECTIONS
        self._table, self._codec, self._given, self.now = table, shape.codec, given, now
        # The rows of one slice after the other.
        self.coming: Iterable[Iterable[Any]] = ()
        self._columns = shape.statements.timed(of_collections=of_collections)
        self.times = shape.statements.latest(of_collections=of_collections)
        self.unchanged: list[tuple[Key, Key]] = []
        self.changed: list[Row] = []
        self.ahead: Ahead | None = None

    def finish(self) -> None:
        """Take all that is coming."""
        for raws in self.coming:
            self.unchanged.extend(joined(map(self._key_if_unchanged, raws)))

    def _key_if_unchanged(self, raw: Any) -> Key | None:
        key = self._codec.key_of(raw)
        given = self._given.get(key)
        if given is None:
            return None
        width = len(self._codec.order)
        if not self._codec.holds(raw[:width], given):
            self.changed.append(self._codec.row(raw[:width]))
            return None
        times = raw[width:]
        if max(filter(None, times), default=0) >= self.now:
            found = ahead(self._table, key, dict(zip(self._columns, times, strict=True)), self.now)
            if found is not None and (self.ahead is None or found.by > self.ahead.by):
                self.ahead = found
        return key


def _effective(
    table: Table, asked: Collection[Key], standing: Mapping[Key, Row], changes: Iterable[Change]
) -> dict[Key, Change]:
    """Give the changes that change anything, by key. Raises `ValueError` for a row that was not asked for."""
    result: dict[Key, Change] = {}
    for change in changes:
        if change.key not in asked or change.key in result:
            raise ValueError(f"{table.name} {change.key!r}: a change of a row that was not asked for, or a second one")
        current = standing.get(change.key)
        if current is None:
            if not change.delete:
                result[change.key] = change
            continue
        put = _put(table, current, change.put)
        if put or change.clear or change.drop or change.delete:
            result[change.key] = change if put is change.put else Change(change.key, put, change.clear, change.drop)
    return result


def outcome(table: Table, standing: Mapping[Key, Row], changes: Mapping[Key, Change]) -> dict[Key, Row]:
    """Give what the rows will be if nobody else writes them."""
    result: dict[Key, Row] = dict(standing)
    collections = _COLLECTIONS[table]
    for key, change in changes.items():
        current = standing.get(key)
        if change.delete:
            result.pop(key, None)
            continue
        row: Row = dict(zip(table.key, key, strict=True)) if current is None else dict(current)
        if change.drop or change.clear or (collections and not collections.isdisjoint(change.put)):
            row = _mixed(table, row, change)
        else:
            row.update(change.put)
        for column in _FLOATS.get(table, ()):
            if column in change.put:
                row[column] = as_stored(Kind.FLOAT, row[column])
        result[key] = row
    return result


def _mixed(table: Table, row: Row, change: Change) -> Row:
    """Give what becomes of a row where collections are mixed with what stands, or columns go."""
    for column in change.drop.keys() | change.clear:
        dropped = change.drop.get(column, ()) if column not in change.clear else row.get(column, ())
        row[column] = merged_map(row, column, {}, dropped) if table.columns[column].is_map else None
    for column, value in change.put.items():
        row[column] = merged_map(row, column, change.put, ()) if table.columns[column].is_map else value
    return {column: value for column, value in row.items() if value is not None and value not in ([], {})}


def _is_as_expected(codec: Codec, expected: Mapping[Key, Row], found: Mapping[Key, Any]) -> bool:
    return expected.keys() == found.keys() and all(codec.holds(found[key], row) for key, row in expected.items())


_COLLECTIONS: Final = {
    table: frozenset(c for c, kind in table.columns.items() if kind not in SCALARS) for table in TABLES.values()
}
# What does not come back as it was written: floats have 32 bits.
_FLOATS: Final = {
    table: tuple(c for c, kind in table.columns.items() if kind is Kind.FLOAT)
    for table in TABLES.values()
    if Kind.FLOAT in table.columns.values()
}


def _put(table: Table, current: Row, put: Row) -> Row:
    """Leave out what stands there already, to the 32 bits of a FLOAT: it would never settle."""
    for column in _FLOATS.get(table, ()):
        if column in put and column in current:
            stored = as_stored(Kind.FLOAT, put[column])
            if same({column: stored}, {column: current[column]}):
                put = {name: value for name, value in put.items() if name != column}
    return put


def _distinct(table: Table, rows: Iterable[Row]) -> Iterator[list[Row]]:
    """Part rows so that no part has a key twice: of two with one key the later one counts, and gets a later time."""
    part: dict[Key, Row] = {}
    for row in rows:
        key = table.key_of(row)
        if key in part:
            yield list(part.values())
            part = {}
        part[key] = row
    if part:
        yield list(part.values())


def _unsettled(changes: Mapping[Key, Change]) -> str:
    key, change = next(iter(changes.items()))
    columns = ", ".join(sorted({*change.put, *change.clear, *change.drop})) or "the row"
    return (
        f"{len(changes)} rows would not settle, {key!r} ({columns}) among them: they are written as fast as they are "
        "read, or were written or deleted by a clock that is ahead of ours"
    )


def _replication(connected: Connected) -> str:
    """Give one copy in the data centre that we speak to, as Sunbird's migrations do. Production has its own."""
    # One that there is not could not be connected to.
    centre = connected.place.dc or connected.centres[0]
    return f"{{'class': 'NetworkTopologyStrategy', '{centre}': 1}}"


def _schema(names: Mapping[str, str]) -> Iterator[str]:
    lines = Path(__file__).with_name("schema.cql").read_text(encoding="utf-8").splitlines()
    text = "\n".join(line for line in lines if not line.startswith("--"))
    for name, physical in names.items():
        text = text.replace(f"@{name}@", physical)
    return (statement.strip() for statement in text.split(";") if statement.strip())
