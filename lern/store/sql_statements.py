"""The SQL that the store speaks, built with SQLAlchemy Core and compiled once for each shape.

What is run is the text; parameters go to the driver as tuples, in the order in which each method names them.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from lern.store.tables import TABLES, Kind, Table

# How many keys one statement reads; fewer are filled up to a power of two, so that the texts are few.
# Five key columns make 2,560 parameters: all databases take that.
MOST_KEYS: Final = 512

# The one tuple of a VALUES list.
_VALUES: Final = re.compile(r"VALUES (\([^()]*\))")


@dataclass(frozen=True, slots=True)
class Statement:
    """A compiled statement. `fixed`: values that the dialect wants behind the parameters, the same every time."""

    text: str
    fixed: tuple[Any, ...]


def define_tables(names: Mapping[str, str]) -> dict[Table, sa.Table]:
    """Give the SQL tables of the learner tables. `names`: physical names, where they differ."""
    metadata = sa.MetaData()
    return {table: _define(metadata, table, names.get(table.name, table.name)) for table in TABLES.values()}


def _define(metadata: sa.MetaData, table: Table, name: str) -> sa.Table:
    key = [sa.Column(c, _KEY, primary_key=True, nullable=False) for c in table.key]
    values = [sa.Column(c, _TYPES.get(table.columns[c], sa.Text())) for c in table.values]
    # WITHOUT ROWID keeps the rows in key order, as Cassandra does: one tree to write instead of two.
    return sa.Table(name, metadata, *key, *values, sqlite_with_rowid=False)


# Slices are read in the order of the bytes, as in Cassandra and SQLite, whatever the database's language.
_KEY: Final = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
# Collections are JSON, as text.
_TYPES: Final[dict[Kind, sa.types.TypeEngine[Any]]] = {
    Kind.INT: sa.Integer(),
    Kind.FLOAT: sa.Double(),
    Kind.DOUBLE: sa.Double(),
    Kind.BOOLEAN: sa.Boolean(),
    Kind.TIMESTAMP: sa.BigInteger(),
}


@dataclass(frozen=True, slots=True)
class Statements:
    """The statements of one table in one dialect."""

    table: Table
    sql: sa.Table
    dialect: sa.Dialect
    _compiled: dict[tuple[Any, ...], Statement] = field(init=False, default_factory=dict)

    def read(self, keys: int, *, lock: bool) -> Statement:
        """Read rows by `keys` primary keys (a power of two); `lock` keeps others from changing them."""
        shape = ("read", keys, lock)
        statement = self._compiled.get(shape)
        if statement is None:
            # Compiled for one key and repeated as text: compiling thousands of parameters takes a third of a second.
            one = self._compile(self._read(lock=lock))
            head, values, tail = _VALUES.split(one.text, maxsplit=1)
            statement = self._compiled[shape] = Statement(head + "VALUES " + ", ".join([values] * keys) + tail, ())
        return statement

    def slice(self, where: int, *, after: bool, limit: bool) -> Statement:
        """Read a slice in its order, by the first `where` columns of slice and order."""
        return self._once(("slice", where, after, limit), lambda: self._slice(where, after=after, limit=limit))

    def page(self, *, after: bool) -> Statement:
        """Read a page of the whole table in the order of the key."""
        return self._once(("page", after), lambda: self._page(after=after))

    def count(self) -> Statement:
        """Count the rows of the table."""
        return self._once(("count",), lambda: sa.select(sa.func.count()).select_from(self.sql))

    def create(self) -> Statement:
        """Insert whole rows; one that stands by now is left alone."""
        return self._once(("create",), lambda: self._insert(self._columns(self.table.values), update=False))

    def upsert(self, columns: tuple[str, ...]) -> Statement:
        """Insert rows, or overwrite just `columns` of those that stand."""
        return self._once(("upsert", columns), lambda: self._insert(self._columns(columns), update=True))

    def update(self, columns: tuple[str, ...]) -> Statement:
        """Overwrite `columns` of rows that stand."""
        return self._once(("update", columns), lambda: self._update(columns))

    def delete(self) -> Statement:
        """Delete rows by primary key."""
        return self._once(("delete",), lambda: sa.delete(self.sql).where(*self._is_key()))

    def _once(self, shape: tuple[Any, ...], build: Callable[[], sa.ClauseElement]) -> Statement:
        statement = self._compiled.get(shape)
        if statement is None:
            statement = self._compiled[shape] = self._compile(build())
        return statement

    def _compile(self, clause: sa.ClauseElement) -> Statement:
        compiled = clause.compile(dialect=self.dialect)
        values = [compiled.params[name] for name in compiled.positiontup or ()]  # type: ignore[attr-defined]
        return Statement(compiled.string, tuple(value for value in values if value is not None))

    def _columns(self, values: Sequence[str]) -> tuple[str, ...]:
        return (*self.table.key, *values)

    def _selected(self) -> list[sa.Column[Any]]:
        return [self.sql.c[c] for c in self._columns(self.table.values)]

    def _is_key(self) -> list[sa.ColumnElement[bool]]:
        return [self.sql.c[c] == sa.bindparam(f"key_{c}", type_=sa.Text()) for c in self.table.key]

    def _read(self, *, lock: bool) -> sa.Select[Any]:
        names = self.table.key
        wanted = (
            sa.values(*(sa.column(c, sa.Text()) for c in names))
            .data([tuple(sa.bindparam(f"is_{c}", type_=sa.Text()) for c in names)])
            .cte("wanted")
        )
        on = sa.and_(*(self.sql.c[c] == wanted.c[c] for c in names))
        query = sa.select(*self._selected()).select_from(wanted.join(self.sql, on))
        # In one order, so that two who lock the same rows wait for each other and not in a circle.
        return query.order_by(*(self.sql.c[c] for c in names)).with_for_update(of=self.sql) if lock else query

    def _slice(self, where: int, *, after: bool, limit: bool) -> sa.Select[Any]:
        fixed = (*self.table.slice, *self.table.order)[:where]
        order = self.table.order
        query = sa.select(*self._selected()).where(
            *(self.sql.c[c] == sa.bindparam(f"where_{c}", type_=sa.Text()) for c in fixed)
        )
        query = query.where(self._beyond(order)) if after else query
        query = query.order_by(*(self.sql.c[c] for c in order)) if order else query
        return query.limit(sa.bindparam("limit", type_=sa.Integer())) if limit else query

    def _page(self, *, after: bool) -> sa.Select[Any]:
        key = self.table.key
        query = sa.select(*self._selected()).order_by(*(self.sql.c[c] for c in key))
        query = query.where(self._beyond(key)) if after else query
        return query.limit(sa.bindparam("limit", type_=sa.Integer()))

    def _beyond(self, columns: Sequence[str]) -> sa.ColumnElement[bool]:
        place = sa.tuple_(*(sa.bindparam(f"after_{c}", type_=sa.Text()) for c in columns))
        return sa.tuple_(*(self.sql.c[c] for c in columns)) > place

    def _insert(self, columns: tuple[str, ...], *, update: bool) -> sa.Insert:
        insert = (sqlite.insert if self.dialect.name == "sqlite" else postgresql.insert)(self.sql)
        insert = insert.values({c: sa.bindparam(c) for c in columns})
        overwritten = {c: insert.excluded[c] for c in columns if c in self.table.values}
        if update and overwritten:
            return insert.on_conflict_do_update(index_elements=list(self.table.key), set_=overwritten)
        return insert.on_conflict_do_nothing()

    def _update(self, columns: tuple[str, ...]) -> sa.Update:
        values = {c: sa.bindparam(f"to_{c}", type_=self.sql.c[c].type) for c in columns}
        return sa.update(self.sql).where(*self._is_key()).values(values)
