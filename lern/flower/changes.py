"""What a run did to learner rows, from the journal: each row before and after, cell by cell."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from lern import chunks
from lern.chunks.undo import Item, UndoChunk
from lern.ledger import Chunk
from lern.rules.rule import same
from lern.store import rows as lines

_MISSING: Final = object()


@dataclass(frozen=True, slots=True)
class Cell:
    """One column of a row; None: it holds nothing."""

    column: str
    before: str | None
    after: str | None

    @property
    def changed(self) -> bool:
        """Whether the run changed it."""
        return self.before != self.after


@dataclass(frozen=True, slots=True)
class RowChange:
    """One row of a table. `kind`: created, changed, deleted or unchanged."""

    table: str
    key: tuple[tuple[str, str], ...]
    kind: str
    cells: tuple[Cell, ...]

    @property
    def changed(self) -> tuple[Cell, ...]:
        """The cells that the run changed."""
        return tuple(cell for cell in self.cells if cell.changed)


@dataclass(frozen=True, slots=True)
class ChangePage:
    """Some of a chunk's rows. `payload`: the journal's own words, where it is no chunk that we can tell row by row."""

    rows: tuple[RowChange, ...]
    total: int
    payload: str | None = None


def page(chunk: Chunk, start: int, limit: int) -> ChangePage:
    """Give some of the rows of a chunk, in the journal's order."""
    items = _items(chunk)
    if items is None:
        return ChangePage((), 0, json.dumps(chunk.payload, indent=2, ensure_ascii=False)[:200_000])
    return ChangePage(tuple(map(_change, items[start : start + limit])), len(items))


def _items(chunk: Chunk) -> Sequence[Item] | None:
    try:
        read = chunks.read(chunk.kind, chunk.payload)
        if isinstance(read, UndoChunk):
            return [Item(item.table, item.key, after=item.before, before=item.after) for item in read.items]
        return UndoChunk.of(read).items
    except (TypeError, KeyError, ValueError):
        return None


def _change(item: Item) -> RowChange:
    before, after = item.before, item.after
    columns = [column for column in item.table.values if column in {**(before or {}), **(after or {})}]
    cells = tuple(_cells(item, columns))
    if before is None:
        kind = "created" if after is not None else "unchanged"
    elif after is None:
        kind = "deleted"
    else:
        kind = "changed" if any(cell.changed for cell in cells) else "unchanged"
    return RowChange(item.table.name, tuple(zip(item.table.key, item.key, strict=True)), kind, cells)


def _cells(item: Item, columns: Sequence[str]) -> Iterator[Cell]:
    before, after = item.before or {}, item.after or {}
    shown = {"before": _encoded(item, before), "after": _encoded(item, after)}
    for column in columns:
        left, right = shown["before"].get(column, _MISSING), shown["after"].get(column, _MISSING)
        if same(before.get(column), after.get(column)):
            left = right
        yield Cell(column, _text(left), _text(right))


def _encoded(item: Item, row: dict[str, Any]) -> dict[str, Any]:
    """Give a row as `lern rows dump` writes it: times to be read, numbers that JSON has no word for as text."""
    return lines.encode(item.table, row) if row else {}


def _text(value: object) -> str | None:
    if value is _MISSING:
        return None
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True)
