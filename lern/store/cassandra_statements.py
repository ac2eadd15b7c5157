"""The statements of `statements.cql`, filled in for one table. Text only: sessions prepare it."""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Final

from lern.store.cassandra_codec import SCALARS
from lern.store.cassandra_layout import Found
from lern.store.tables import Table

# The aggregates of one user are a partition for each activity: they are read together by this column.
SPREAD: Final = {"user_activity_agg": "activity_id"}

_NAMED: Final = re.compile(r"^-- name: (\w+).*\n(.*)$", re.MULTILINE)
_GAP: Final = re.compile(r"@(\w+)@")


@dataclass(frozen=True)
class Placed:
    """A statement, and which of its values is for which column."""

    cql: str
    places: Mapping[str, int]


@dataclass(frozen=True)
class Statements:
    """Statements on one table. `columns`: those that there are, the key first. Built once, as they are asked for."""

    keyspace: str
    table: Table
    found: Found
    columns: tuple[str, ...]
    _built: dict[tuple[object, ...], str] = field(init=False, default_factory=dict, repr=False)

    # --- reading

    def rows(self, fixed: int, *, after: bool, limit: bool) -> str:
        """Read a slice: the first `fixed` columns of slice and order, then a place in the rest, then a limit."""
        names = (*self.table.slice, *self.table.order)
        name = "rows_after" if after else "rows"
        gaps = {"is_where": _is(names[:fixed]), "rest": ", ".join(names[fixed:]), "places": _marks(names[fixed:])}
        return self._fill(name, **gaps) + (" LIMIT ?" if limit else "")

    @cached_property
    def rows_spread(self) -> str:
        """Read the first rows of one user's slices: fixed columns, a list of the spread column's values, how many."""
        spread = SPREAD[self.table.name]
        fixed = [column for column in self.table.slice if column != spread]
        return self._fill("rows_spread", is_fixed=_is(fixed), spread=spread)

    def read(self, times: Sequence[str] = ()) -> str:
        """Read rows of one slice by a list of their places, with `times`."""
        return self._fill("read_places" if self.table.order else "read", times=_more(times))

    def read_spread(self, times: Sequence[str] = ()) -> str:
        """Read rows of one user by lists of the spread column's and the order's values, with `times`."""
        spread = SPREAD[self.table.name]
        fixed = [column for column in self.table.slice if column != spread]
        return self._fill("read_spread", is_fixed=_is(fixed), spread=spread, times=_more(times))

    def between(self, times: Sequence[str] = ()) -> str:
        """Read the rows of a slice from one place to another, with `times`."""
        return self._fill("between", times=_more(times))

    def first_between(self, times: Sequence[str] = ()) -> str:
        """Read the first rows of a slice from one place to another, with `times`: the slice, the places, how many."""
        return self._fill("first_between", times=_more(times))

    @cached_property
    def places_between(self) -> str:
        """Read which places are taken, from one to another."""
        return self._fill("places_between")

    @cached_property
    def scan(self) -> str:
        """Read the whole table."""
        return self._fill("scan")

    def part(self, columns: Sequence[str]) -> str:
        """Read some columns of everything between two tokens: above the first, up to the second."""
        partition = ", ".join(self.found.layout.partition)
        return self._fill("part", columns=", ".join(columns), partition=partition)

    def timed(self, *, of_collections: bool) -> tuple[str, ...]:
        """Give the columns whose write times can be asked for; those of collections only since Cassandra 5.0."""
        values = self.columns[len(self.table.key) :]
        return values if of_collections else tuple(c for c in values if self.table.columns[c] in SCALARS)

    def latest(self, *, of_collections: bool) -> tuple[str, ...]:
        """Give what selects the latest time of each column of `timed`, in that order."""
        function = "MAXWRITETIME" if of_collections else "WRITETIME"
        return tuple(f"{function}({c})" for c in self.timed(of_collections=of_collections))

    def times(self, columns: Collection[str]) -> str:
        """Read the times of some columns of a row, then those that are maps: their entries go with the times."""
        selected = (*(f"WRITETIME({c})" for c in columns), *(c for c in columns if self.table.columns[c].is_map))
        return self._fill("times", times=", ".join(selected))

    # --- writing

    @cached_property
    def whole(self) -> tuple[str, ...]:
        """The columns that are written whole: all but the maps."""
        return tuple(c for c in self.columns if c not in self.table.key and not self.table.columns[c].is_map)

    @cached_property
    def maps(self) -> tuple[str, ...]:
        """The columns that are maps."""
        return tuple(c for c in self.columns if self.table.columns[c].is_map)

    @cached_property
    def create(self) -> Placed:
        """Create a row: the key, the columns that are written whole, the time."""
        return self._insert(self.whole)

    @cached_property
    def insert(self) -> Placed:
        """Write a row with its maps as they are: the key, all columns, the time."""
        return self._insert((*self.whole, *self.maps))

    @cached_property
    def update(self) -> Placed:
        """Set columns and put entries into maps: the time, the columns that are written whole, the maps, the key."""
        sets = (*(f"{c} = ?" for c in self.whole), *(f"{c} = {c} + ?" for c in self.maps))
        places = {c: 1 + i for i, c in enumerate((*self.whole, *self.maps))}
        return Placed(self._fill("update", sets=", ".join(sets)), places)

    def swap(self, put: Sequence[str], expected: Sequence[str]) -> str:
        """Set columns of a row if others are as expected: the values, the key, what is expected."""
        return self._fill("swap", sets=", ".join(f"{c} = ?" for c in put), is_expected=_is(expected))

    def drop(self, column: str) -> str:
        """Remove entries from a map: the time, a set of its keys, the key."""
        return self._fill("drop", column=column)

    def clear(self, column: str) -> str:
        """Make a map empty: the time, the key."""
        return self._fill("clear", column=column)

    @cached_property
    def delete(self) -> str:
        """Delete a row: the time, the key."""
        return self._fill("delete")

    @cached_property
    def delete_between(self) -> str:
        """Delete the rows of a slice from one place to another: the time, the slice, the places."""
        return self._fill("delete_between")

    def _insert(self, columns: Sequence[str]) -> Placed:
        names = (*self.table.key, *columns)
        cql = self._fill("insert", names=", ".join(names), marks=_marks(names))
        return Placed(cql, {c: names.index(c) for c in columns})

    @cached_property
    def _gaps(self) -> Mapping[str, str]:
        order = self.table.order
        rest = ", ".join(order)
        return {
            "table": f"{self.keyspace}.{self.found.name}",
            "columns": ", ".join(self.columns),
            "is_slice": _is(self.table.slice),
            "is_key": _is(self.table.key),
            # One column is compared with a list of values, several with a list of tuples.
            "order": rest if len(order) == 1 else f"({rest})",
            "rest": rest,
            "places": _marks(order),
        }

    def _fill(self, name: str, **gaps: str) -> str:
        shape = (name, *gaps.items())
        cql = self._built.get(shape)
        if cql is None:
            values = {**self._gaps, **gaps}
            cql = self._built[shape] = _GAP.sub(lambda gap: values[gap[1]], _texts()[name])
        return cql


@cache
def _texts() -> Mapping[str, str]:
    return dict(_NAMED.findall(Path(__file__).with_name("statements.cql").read_text(encoding="utf-8")))


def _is(columns: Sequence[str]) -> str:
    return " AND ".join(f"{c} = ?" for c in columns)


def _marks(columns: Sequence[str]) -> str:
    return ", ".join("?" for _ in columns)


def _more(columns: Sequence[str]) -> str:
    return "".join(f", {c}" for c in columns)
