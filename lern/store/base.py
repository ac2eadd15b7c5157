"""The store's contract: what every implementation promises about learner rows. Tested by tests/contract."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Protocol

from lern.errors import BadRow
from lern.store.tables import Key, Row, Table


@dataclass(frozen=True)
class Change:
    """What is to become of one row. Nothing that is not named here is touched.

    `put`: columns to their new value; of a map column only the entries to put (others stay); an empty
    list makes the column null. `clear`: columns to become null; none of them is in `put`. `drop`: map column
    to the keys to remove from it; none of them is put as well. `delete`: the whole row goes (then the rest is
    empty). A change of a row that does not stand creates it, even when `put` is empty; deleting it does nothing.
    """

    key: Key
    put: Row = field(default_factory=dict)
    clear: frozenset[str] = frozenset()
    drop: Mapping[str, frozenset[str]] = field(default_factory=dict)
    delete: bool = False


@dataclass(frozen=True)
class Swap:
    """One row to be changed if it still is what was read: compare and set.

    `expected`: columns and their values as read, None for null; at least one of them is not null, since a
    condition on nulls alone is met by a row that does not stand, and would create a ghost of it. `put`: columns
    to their new values, whole; None or an empty list makes them null. None of them is a map.
    """

    key: Key
    expected: Row
    put: Row

    def __post_init__(self) -> None:
        """Refuse a condition that a missing row would meet."""
        if all(_present(value) is None for value in self.expected.values()):
            raise ValueError(f"{self.key!r}: a condition on nulls alone would create the row")

    def fits(self, row: Row) -> bool:
        """Whether a row is what was expected."""
        return all(_present(row.get(column)) == _present(value) for column, value in self.expected.items())


def _present(value: object) -> object:
    """Give a value; an empty list is null, as in Cassandra."""
    return None if value == [] else value


@dataclass(frozen=True)
class Part:
    """A part of a table that was gone through: rows, and how much of the table is done by now (0 to 1)."""

    rows: Sequence[Row]
    done: float


Decide = Callable[[Mapping[Key, Row]], Iterable[Change]]

# What becomes of a row that breaks the contract.
Bad = Callable[[BadRow], None]


def refused(error: BadRow) -> None:
    """Raise it: who must have every row cannot go on without this one."""
    raise error


@dataclass(frozen=True)
class Look:
    """Rows as they stood when they were read by their keys.

    `at`: the time (microseconds) that was taken before that read, where a store can write as of then; None where a
    unit has to read for itself.
    """

    rows: Mapping[Key, Row]
    at: int | None = None


@dataclass(frozen=True)
class First:
    """What `decide` has made of a look at the very keys that are to be settled. Good for one settlement."""

    look: Look
    changes: Sequence[Change]


class Unit(Protocol):
    """What one chunk does to the learner rows.

    On SQL a unit is one transaction: nothing of it is seen before it ends, and it ends whole or not at
    all. On Cassandra it is not; there every write carries the time taken before the read that it rests
    on, so that a live write after that read wins.
    """

    def settle(
        self,
        table: Table,
        keys: Collection[Key],
        decide: Decide,
        first: First | None = None,
        then: Sequence[Row] = (),
    ) -> int:
        """Read the rows of `keys`, write what `decide` makes of them, until nothing is left to write.

        `decide` gets the rows that stand (absent ones are not in the mapping), must be idempotent, and
        may be called up to three times. It gives at most one change for each key, of `keys` alone
        (`ValueError`), and may read slices through the unit. `first`: a decision that a store whose writes carry
        the time of its look begins with, instead of reading and asking; what was written since is seen afterwards.
        `then`: the very rows that `remove` is to be given next; a store may look at them already.
        Returns how many changes were written. Raises `Unsettled` if the third round still wanted to write,
        `ClockAhead` if a cell's time makes writing useless, `BadRow` if a value is not one of its column's kind.
        """

    def remove(self, table: Table, rows: Sequence[Row]) -> list[Row]:
        """Delete those of `rows` that still stand exactly as given.

        Rows are given in slice order. Returns the rows that stand differently now, as they stand: they were
        changed by someone since, and stay. A row that is gone already is fine. Equal is what has the same value
        in every cell; NaN equals NaN, and the order of a map's entries is nothing.
        """

    def rows(self, table: Table, where: Key, after: Key | None = None, limit: int | None = None) -> list[Row]:
        """Read a slice as `Store.rows` does, within the unit."""


class Store(Protocol):
    """Learner rows and course batches.

    `reads_ahead`: whether reading while something else is written makes both faster.
    Every method raises `Unreachable` when the server does not answer, `Transient` when a call failed
    that may be repeated, `BadRow` when what stands there cannot be read as the column's kind. Values come
    back as they were written: a FLOAT to 32 bits at least, everything else exactly, NaN and infinities too.
    A process may fork: parent and child both go on, each with connections of its own.
    """

    reads_ahead: bool

    def create(self) -> None:
        """Create the tables that are missing, and leave the others. Safe when several processes do so at once."""

    def check(self) -> None:
        """Reach the server and every table. Returns nothing; raises as every method does."""

    def must_fit(self, tables: Iterable[Table]) -> None:
        """Make sure that rows of these tables can be moved whole. Costs nothing. Raises `Refused`."""

    def rows(self, table: Table, where: Key, after: Key | None = None, limit: int | None = None) -> list[Row]:
        """Read one slice in its order.

        `where` gives the values of `table.slice`; more values narrow it by the first columns of
        `table.order`. `after` is a place (all of `table.order`): rows beyond it. At most `limit` rows.
        """

    def slices(self, table: Table, wheres: Sequence[Key], limit: int) -> list[list[Row]]:
        """Read the first rows of several slices, at most `limit` of each; in the order of `wheres`, which differ.

        For slices that are small as a rule: it is one question, or several at once, instead of one after the other.
        """

    def read(self, table: Table, keys: Collection[Key]) -> dict[Key, Row]:
        """Read rows by primary key; those that do not stand are not in the answer."""

    def look(self, table: Table, keys: Collection[Key]) -> Look:
        """Read rows by primary key, for a settlement that may begin with what is found."""

    def unit(self, guard: Callable[[], None]) -> AbstractContextManager[Unit]:
        """Begin a unit, which ends with the block. `guard` is called before every write (it raises `LockLost`).

        What the block raises comes out as it is; on SQL nothing is written then.
        """

    def insert(self, table: Table, rows: Iterable[Row]) -> None:
        """Write whole rows (upsert; absent columns are left alone, maps written whole). For loading and for tests."""

    def scan(self, table: Table, where: Key = (), bad: Bad = refused) -> Iterable[Row]:
        """Every row of a table, in bounded memory, in no promised order. For dumps and checks, never in a step.

        `where` as for `rows`: only that slice, in its order. What cannot be read is given to `bad`; unless that raises
        it, the scan goes on with the next row.
        """

    def compare_and_set(self, table: Table, swaps: Sequence[Swap], guard: Callable[[], None]) -> frozenset[Key]:
        """Make those changes whose row is still as expected; give their keys. Each row by itself, atomically.

        A row that does not stand is not created. `guard` is called before every write. That a change was made
        does not mean that it is seen: on Cassandra a plain write whose clock is ahead wins against it. Read it
        back. Raises `Transient` when nobody knows whether a change was made.
        """

    def parts(self, table: Table, columns: Collection[str]) -> Iterable[Part]:
        """Go through a whole table, of which only the key and `columns` are read, in bounded memory.

        In no promised order, each row that stands throughout exactly once; fit for a table of a million rows.
        """

    def close(self) -> None:
        """Give back connections. The store must not be used afterwards."""
