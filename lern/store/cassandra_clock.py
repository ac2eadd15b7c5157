"""The times of our writes, and cells that other clocks have put ahead of them."""

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from lern.errors import ClockAhead, TooEarly
from lern.store.tables import Key, Table

_MICROSECONDS: Final = 1_000_000
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass
class Clock:
    """Gives microseconds since 1970, never the same twice: a list that is written twice with one time is doubled."""

    _last: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def now(self) -> int:
        """Give a time for reads and the writes that rest on them. Take it before the read."""
        with self._lock:
            self._last = max(time.time_ns() // 1000, self._last + 1)
            return self._last


@dataclass(frozen=True)
class Ahead:
    """A cell whose time is later than that of our write, which is lost therefore. Times in microseconds."""

    table: Table
    key: Key
    column: str
    by: int
    cell: int

    def error(self) -> ClockAhead:
        """Give the error that names the row, for a cell that is too far ahead to be waited for."""
        return ClockAhead(
            self.table.name,
            self.key,
            self.column,
            f"{self._when()}, and would win against any write until then: mend the clock of the host that wrote it, "
            "let that time come, and retry",
        )

    def too_early(self, now: int) -> TooEarly:
        """Give the error that has the cell's time waited for."""
        return TooEarly(
            f"{self.table.name} {self.key!r}, column {self.column} {self._when()}: its time is waited for",
            (self.cell - now) / _MICROSECONDS,
        )

    def _when(self) -> str:
        return f"was written at {_moment(self.cell)}, {self.by / _MICROSECONDS:.0f} s ahead of this clock"


def _moment(microseconds: int) -> str:
    try:
        return f"{_EPOCH + timedelta(microseconds=microseconds):%Y-%m-%dT%H:%M:%SZ}"
    except OverflowError:
        # Who writes nanoseconds is some fifty thousand years ahead.
        return f"{microseconds} microseconds, a time of no calendar"


def ahead(table: Table, key: Key, times: Mapping[str, int | None], now: int) -> Ahead | None:
    """Find the cell that is furthest ahead of `now`; `times` are by column. Null cells have no time."""
    late = {column: cell for column, cell in times.items() if cell is not None and cell >= now}
    if not late:
        return None
    column = max(late, key=lambda name: late[name])
    return Ahead(table, key, column, late[column] - now, late[column])


def latest(written: Any) -> int | None:
    """Give the latest of what WRITETIME gives: one time, or one for each element of a collection."""
    return max((time for time in written if time is not None), default=None) if isinstance(written, list) else written
