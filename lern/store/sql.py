"""The store in a SQL database: SQLite and PostgreSQL, with the same code. The contract is in `lern.store.base`."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain, islice
from pathlib import Path
from typing import Any, Final

from sqlalchemy.schema import CreateTable

from lern.errors import BadRow, Unsettled
from lern.store.base import Bad, Change, Decide, First, Look, Part, Swap, refused
from lern.store.sql_codec import Codec, Raw, merged_map, same
from lern.store.sql_engine import Connection, Engines, UnfitError, dialect_of
from lern.store.sql_statements import MOST_KEYS, Statement, Statements, define_tables
from lern.store.tables import Key, Row, Table

# On SQLite one round is enough. On PostgreSQL a row may be created between our read, which found none, and our
# write, which then leaves it alone: the next round sees it.
_ROUNDS: Final = 3

# Rows of one statement when whole tables are read or written.
_PAGE: Final = 1000

# Any number that nobody else uses: two processes must not create the tables at once.
_SCHEMA_LOCK: Final = 0x6C65726E

_LONG_BITS: Final = 64


class SqlStore:
    """Learner rows in a SQL database.

    `url`: any SQLAlchemy URL of SQLite or PostgreSQL. `names`: physical table names, where they differ from
    the tables' own. Nothing is opened before the first use, and each process opens connections of its own.
    """

    # The server is this process, or answers from memory: a second thread would only take turns with the first.
    reads_ahead = False

    def __init__(self, url: str, names: Mapping[str, str] | None = None) -> None:
        """Prepare; the first statement connects."""
        self._engines = Engines(url)
        tables = define_tables(names or {})
        dialect = dialect_of(self._engines.url)
        self._schema = [str(CreateTable(sql, if_not_exists=True).compile(dialect=dialect)) for sql in tables.values()]
        self._shapes = {
            table: (Codec(table, nan_as_text=dialect.name == "sqlite"), Statements(table, sql, dialect))
            for table, sql in tables.items()
        }

    def create(self) -> None:
        """Create the tables that are missing. Safe when several processes do so at once."""
        database = self._engines.url.database
        if self._engines.backend == "sqlite" and database:
            Path(database).parent.mkdir(parents=True, exist_ok=True)
        with self._engines.writing() as connection:
            if self._engines.backend == "postgresql":
                connection.run(f"SELECT pg_advisory_xact_lock({_SCHEMA_LOCK})")
            for text in self._schema:
                connection.run(text)

    def check(self) -> None:
        """Read from every table. Raises as every method does, if the server or a table is missing."""
        for table in self._shapes:
            with self._engines.reading() as connection:
                self._session(connection).page(table, None, limit=1)

    def must_fit(self, tables: Iterable[Table]) -> None:
        """Nothing to look at: the tables are our own, and nobody else's migrations touch them."""

    def rows(self, table: Table, where: Key, after: Key | None = None, limit: int | None = None) -> list[Row]:
        """Read one slice in its order."""
        with self._engines.reading() as connection:
            return self._session(connection).rows(table, where, after, limit)

    def slices(self, table: Table, wheres: Sequence[Key], limit: int) -> list[list[Row]]:
        """Read the first rows of several slices."""
        with self._engines.reading() as connection:
            session = self._session(connection)
            return [session.rows(table, where, None, limit) for where in wheres]

    def read(self, table: Table, keys: Collection[Key]) -> dict[Key, Row]:
        """Read rows by primary key."""
        with self._engines.reading() as connection:
            return self._session(connection).standing(table, keys, lock=False)

    def look(self, table: Table, keys: Collection[Key]) -> Look:
        """Read rows by primary key. A unit locks what it settles, and reads it again for that."""
        return Look(self.read(table, keys))

    @contextmanager
    def unit(self, guard: Callable[[], None]) -> Iterator["SqlUnit"]:
        """Begin a unit: one transaction, which ends with the block. `guard` is called before it is committed, too."""
        with self._engines.writing() as connection:
            unit = SqlUnit(self._session(connection), guard)
            yield unit
            unit.before_end()

    def insert(self, table: Table, rows: Iterable[Row]) -> None:
        """Write whole rows, all or none."""
        remaining = iter(rows)
        with self._engines.writing() as connection:
            session = self._session(connection)
            while page := list(islice(remaining, _PAGE)):
                session.upsert(table, page)

    def scan(self, table: Table, where: Key = (), bad: Bad = refused) -> Iterator[Row]:
        """Read every row, or every one of a slice, a page at a time; no transaction is left open in between."""
        codec, _ = self._shapes[table]
        after: Key | None = None
        is_last = False
        while not is_last:
            with self._engines.reading() as connection:
                page, is_last = self._session(connection).raw_page(table, where, after)
            for raw in page:
                try:
                    row = codec.row(raw)
                except BadRow as error:
                    bad(error)
                else:
                    yield row
            after = codec.key_of(page[-1]) if page else None

    def compare_and_set(self, table: Table, swaps: Sequence[Swap], guard: Callable[[], None]) -> frozenset[Key]:
        """Change the rows that are as expected, in one transaction."""
        by_key = {swap.key: swap for swap in swaps}
        made: set[Key] = set()

        def decide(standing: Mapping[Key, Row]) -> Iterator[Change]:
            for key, row in standing.items():
                if by_key[key].fits(row):
                    made.add(key)
                    put = {column: value for column, value in by_key[key].put.items() if value is not None}
                    yield Change(key, put, frozenset(by_key[key].put.keys() - put.keys()))

        with self.unit(guard) as unit:
            unit.settle(table, by_key.keys(), decide)
        return frozenset(made)

    def parts(self, table: Table, columns: Collection[str]) -> Iterator[Part]:
        """Go through a table in the order of its key, a page at a time."""
        chosen = frozenset((*table.key, *columns))
        after: Key | None = None
        done = 0
        with self._engines.reading() as connection:
            total = self._session(connection).count(table)
        while True:
            with self._engines.reading() as connection:
                page = self._session(connection).page(table, after, _PAGE)
            done += len(page)
            last = len(page) < _PAGE
            rows = [{column: value for column, value in row.items() if column in chosen} for row in page]
            yield Part(rows, 1.0 if last else min(1.0, done / max(total, 1)))
            if last:
                return
            after = table.key_of(page[-1])

    def close(self) -> None:
        """Close the connections of this process."""
        self._engines.close()

    def _session(self, connection: Connection) -> "_Session":
        return _Session(connection, self._shapes)


class SqlUnit:
    """One transaction on the learner rows."""

    def __init__(self, session: "_Session", guard: Callable[[], None]) -> None:
        """Take the transaction's session; `guard` is called before every write."""
        self._session = session
        self._guard = guard
        self._wrote = False

    def settle(
        self,
        table: Table,
        keys: Collection[Key],
        decide: Decide,
        first: First | None = None,
        then: Sequence[Row] = (),
    ) -> int:
        """Write what `decide` makes of the rows of `keys`."""
        # What was read outside the transaction may be out of date, and nothing is to be had by looking ahead.
        del first, then
        written = 0
        wanted = frozenset(keys)
        for _ in range(_ROUNDS):
            standing = self._session.standing(table, keys, lock=True)
            changes = _Changes(table, wanted, standing, decide(standing))
            self._delete(table, changes.doomed)
            self._update(table, changes.updated)
            created = self._create(table, changes.created)
            written += changes.certain + created
            if created == len(changes.created):
                return written
        raise Unsettled(f"{table.name}: rows are created by somebody else as fast as they are read")

    def remove(self, table: Table, rows: Sequence[Row]) -> list[Row]:
        """Delete those of `rows` that still stand exactly as given; give back what stands in place of the others."""
        unchanged, changed = self._session.compare(table, rows)
        self._delete(table, unchanged)
        return changed

    def rows(self, table: Table, where: Key, after: Key | None = None, limit: int | None = None) -> list[Row]:
        """Read one slice in its order, as the transaction sees it."""
        return self._session.rows(table, where, after, limit)

    def before_end(self) -> None:
        """Make sure, where anything was written, that it may be committed."""
        if self._wrote:
            self._guard()

    def _writing(self) -> None:
        self._guard()
        self._wrote = True

    def _delete(self, table: Table, keys: Sequence[Key]) -> None:
        if keys:
            self._writing()
            self._session.delete(table, keys)

    def _update(self, table: Table, updated: Mapping[tuple[str, ...], Sequence[tuple[Key, Row]]]) -> None:
        for columns, rows in updated.items():
            self._writing()
            self._session.update(table, columns, rows)

    def _create(self, table: Table, rows: Sequence[Row]) -> int:
        if not rows:
            return 0
        self._writing()
        return self._session.create(table, rows)


class _Changes:
    """Changes sorted by what is to be done: each sort, and each set of columns, is one statement."""

    def __init__(
        self, table: Table, keys: frozenset[Key], standing: Mapping[Key, Row], changes: Iterable[Change]
    ) -> None:
        self.doomed: list[Key] = []
        self.updated: dict[tuple[str, ...], list[tuple[Key, Row]]] = {}
        self.created: list[Row] = []
        self._table = table
        self._maps = frozenset(c for c, kind in table.columns.items() if kind.is_map)
        for change in changes:
            if change.key not in keys:
                raise ValueError(f"{table.name} {change.key!r}: a change of a row that was not asked for")
            self._add(change, standing.get(change.key))

    @property
    def certain(self) -> int:
        """How many of the changes are of rows that stand: those are locked, so nothing can prevent them."""
        return len(self.doomed) + sum(map(len, self.updated.values()))

    def _add(self, change: Change, current: Row | None) -> None:
        if change.delete:
            if current is not None:
                self.doomed.append(change.key)
        elif current is None:
            self.created.append({**change.put, **dict(zip(self._table.key, change.key, strict=True))})
        elif values := self._values(change, current):
            self.updated.setdefault(tuple(values), []).append((change.key, values))

    def _values(self, change: Change, current: Row) -> Row:
        """Give the columns to overwrite; a map is kept as one value, so its other entries go with it."""
        if not change.clear and not change.drop and self._maps.isdisjoint(change.put):
            return change.put
        values = dict(change.put)
        for column in self._maps.intersection((*change.put, *change.drop)):
            values[column] = merged_map(current, column, change.put, change.drop.get(column, ()))
        values.update(dict.fromkeys(change.clear))
        return values


class _Session:
    """Rows through one connection: statements, tuples and rows together."""

    def __init__(self, connection: Connection, shapes: Mapping[Table, tuple[Codec, Statements]]) -> None:
        self._connection = connection
        self._shapes = shapes

    def rows(self, table: Table, where: Key, after: Key | None, limit: int | None) -> list[Row]:
        if after is not None and not table.order:
            return []
        codec, statements = self._shapes[table]
        statement = statements.slice(len(where), after=after is not None, limit=limit is not None)
        parameters = (*where, *(after or ()), *(() if limit is None else (limit,)))
        return list(map(codec.row, self._fetch(statement, parameters)))

    def page(self, table: Table, after: Key | None, limit: int) -> list[Row]:
        codec, statements = self._shapes[table]
        statement = statements.page(after=after is not None)
        return list(map(codec.row, self._fetch(statement, (*(after or ()), limit))))

    def raw_page(self, table: Table, where: Key, after: Key | None) -> tuple[Sequence[Raw], bool]:
        """Give the next rows of a slice, or of the whole table, and whether they are the last. `after`: a key."""
        codec, statements = self._shapes[table]
        if where:
            statement = statements.slice(len(where), after=after is not None, limit=True)
            beyond = after and table.order_of(dict(zip(table.key, after, strict=True)))
        else:
            statement, beyond = statements.page(after=after is not None), after
        limit = _PAGE
        while True:
            raws = self._fetch(statement, (*where, *(beyond or ()), limit))
            if len(raws) < limit or all(isinstance(part, str) for part in codec.key_of(raws[-1])):
                return raws, len(raws) < limit
            # The next page cannot be asked for by what is no text, so this one ends with a later row.
            limit *= 2

    def count(self, table: Table) -> int:
        _, statements = self._shapes[table]
        return int(self._fetch(statements.count(), ())[0][0])

    def standing(self, table: Table, keys: Collection[Key], *, lock: bool) -> dict[Key, Row]:
        codec, _ = self._shapes[table]
        return codec.by_key(self._raw(table, keys, lock=lock))

    def compare(self, table: Table, rows: Sequence[Row]) -> tuple[list[Key], list[Row]]:
        """Give the keys of the rows that stand exactly as given, and what stands in place of the others."""
        codec, _ = self._shapes[table]
        writing = codec.writing(codec.order)
        given = {table.key_of(row): row for row in rows}
        raws = {codec.key_of(raw): raw for raw in self._raw(table, given.keys(), lock=True)}
        unchanged: list[Key] = []
        changed: list[Row] = []
        for key, row in given.items():
            raw = raws.get(key)
            if raw is None:
                continue
            # Mostly the tuples are the same; that of a map may differ by the order of its keys.
            if raw == writing.values(row, key) or same(row, current := codec.row(raw)):
                unchanged.append(key)
            else:
                changed.append(current)
        return unchanged, changed

    def create(self, table: Table, rows: Sequence[Row]) -> int:
        """Insert rows that did not stand when they were read. Gives how many did not stand now, either."""
        codec, statements = self._shapes[table]
        writing = codec.writing(codec.order)
        for row in rows:
            _known(table, row)
        values = [writing.values(row, table.key_of(row)) for row in rows]
        return self._write(table, statements.create(), writing.columns, values)

    def update(self, table: Table, columns: tuple[str, ...], rows: Sequence[tuple[Key, Row]]) -> None:
        codec, statements = self._shapes[table]
        writing = codec.writing(columns)
        values = [(*writing.values(row, key), *key) for key, row in rows]
        self._write(table, statements.update(writing.columns), (*writing.columns, *table.key), values)

    def delete(self, table: Table, keys: Sequence[Key]) -> None:
        _, statements = self._shapes[table]
        self._write(table, statements.delete(), table.key, keys)

    def upsert(self, table: Table, rows: Iterable[Row]) -> None:
        """Write whole rows in the order given: of two with one key the later one counts, column by column."""
        pending: dict[tuple[str, ...], list[Raw]] = {}
        seen: set[Key] = set()
        for row in rows:
            key = table.key_of(row)
            if key in seen:
                self._upsert(table, pending)
                pending, seen = {}, set()
            seen.add(key)
            writing = self._shapes[table][0].writing(tuple(row))
            pending.setdefault(writing.columns, []).append(writing.values(row, key))
        self._upsert(table, pending)

    def _upsert(self, table: Table, pending: Mapping[tuple[str, ...], list[Raw]]) -> None:
        _, statements = self._shapes[table]
        for columns, values in pending.items():
            self._write(table, statements.upsert(columns[len(table.key) :]), columns, values)

    def _raw(self, table: Table, keys: Collection[Key], *, lock: bool) -> Iterator[Raw]:
        _, statements = self._shapes[table]
        remaining = iter(keys)
        nothing = (None,) * len(table.key)
        while part := list(islice(remaining, MOST_KEYS)):
            size = 1 << (len(part) - 1).bit_length()
            part.extend([nothing] * (size - len(part)))  # type: ignore[list-item]  # null equals no key
            yield from self._fetch(statements.read(size, lock=lock), tuple(chain.from_iterable(part)))

    def _fetch(self, statement: Statement, parameters: tuple[Any, ...]) -> Sequence[Any]:
        return self._connection.fetch(statement.text, parameters + statement.fixed)

    def _write(self, table: Table, statement: Statement, columns: tuple[str, ...], values: Sequence[Raw]) -> int:
        """Run a statement for each tuple of values. Gives how many rows it changed."""
        try:
            return self._connection.run_many(statement.text, values)
        except UnfitError as error:
            _name_unfit(table, columns, values)
            raise BadRow(table.name, "?", "?", str(error)) from error


def _name_unfit(table: Table, columns: tuple[str, ...], values: Iterable[Raw]) -> None:
    """Find the value that the database refused. Raises `BadRow`; returns if none looks wrong."""
    for raw in values:
        row = dict(zip(columns, raw, strict=True))
        for column, value in row.items():
            if problem := _unfit(value):
                raise BadRow(table.name, table.key_of(row), column, problem)


def _unfit(value: object) -> str | None:
    if isinstance(value, int) and value.bit_length() >= _LONG_BITS:
        return f"{value} needs more than {_LONG_BITS} bits"
    if isinstance(value, str) and "\0" in value:
        return "text with a NUL character"
    if isinstance(value, str) and any("\ud800" <= character <= "\udfff" for character in value):
        return "text with half of a surrogate pair"
    return None


def _known(table: Table, row: Row) -> None:
    if unknown := row.keys() - table.columns.keys():
        raise BadRow(table.name, table.key_of(row), min(unknown), "the table has no such column")
