"""Rows as the SQL stores keep them: one tuple a row, in the order of `order`, collections as JSON text.

Both directions go by plans: what has to be checked or converted depends only on the Python types of a
tuple's values, and a table knows few combinations of those. A plan is made once for each combination,
so that a row costs one look-up, and null columns cost nothing.

Lossless: NaN and the infinities survive, in JSON (as Python writes them) and in plain columns; a Decimal
is kept as its text.
"""

import json
import math
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from operator import itemgetter
from typing import Any, Final, NoReturn, TypeVar

from lern.errors import BadRow
from lern.store.tables import Key, Kind, Row, Table

Raw = tuple[Any, ...]
Convert = Callable[[Any], Any]
_T = TypeVar("_T", bound=list[Any] | dict[str, Any])

INT_MIN: Final = -(2**31)
INT_MAX: Final = 2**31 - 1
LONG_MIN: Final = -(2**63)
LONG_MAX: Final = 2**63 - 1

# More combinations than any real data shows; a bound, so that hostile rows cannot fill the memory.
_MOST_PLANS: Final = 4096


class _BadValueError(ValueError):
    """A value that is not of its column's kind; becomes a `BadRow` where row and column are known."""


@dataclass(frozen=True, slots=True)
class _Reading:
    """How to make a row of tuples with one combination of types. `ints`: the numbers that have to fit 32 bits."""

    names: tuple[str, ...]
    pick: Callable[[Sequence[Any]], Iterable[Any]]
    converts: tuple[tuple[str, Convert], ...]
    ints: Callable[[Sequence[Any]], Sequence[int]] | None


@dataclass(frozen=True, slots=True)
class Codec:
    """Turns one table's rows into tuples and back.

    `nan_as_text`: SQLite turns NaN into null, but keeps a text in a column of numbers, and numbers of any size.
    """

    table: Table
    nan_as_text: bool
    order: tuple[str, ...] = field(init=False)
    _readings: dict[tuple[type, ...], _Reading] = field(init=False, default_factory=dict)
    _writings: dict[tuple[str, ...], "Writing"] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        """Put the key first: a row's key is the head of its tuple."""
        object.__setattr__(self, "order", (*self.table.key, *self.table.values))

    def key_of(self, raw: Sequence[Any]) -> Key:
        """Give the primary key of a tuple."""
        return tuple(raw[: len(self.table.key)])

    def row(self, raw: Sequence[Any]) -> Row:
        """Read one tuple. Raises `BadRow`, naming key and column."""
        reading = self._readings.get(tuple(map(type, raw))) or self._reading(raw)
        # What could not be written again must not be read: a journal that holds it could never be carried out.
        if reading.ints is not None and not _fit(reading.ints(raw)):
            self._refuse_unfit(raw)
        # Not strict: as many names as values by the way in which a reading is made, and this is every row's path.
        row = dict(zip(reading.names, reading.pick(raw), strict=False))
        return self._converted(row, reading, raw) if reading.converts else row

    def by_key(self, raws: Iterable[Sequence[Any]]) -> dict[Key, Row]:
        """Read tuples into rows by primary key. Raises `BadRow`."""
        width, row = len(self.table.key), self.row
        return {tuple(raw[:width]): row(raw) for raw in raws}

    def writing(self, columns: tuple[str, ...]) -> "Writing":
        """Give the way to write some columns, in the table's order whatever the order given."""
        writing = self._writings.get(columns)
        if writing is None:
            chosen = frozenset(columns)
            ordered = tuple(c for c in self.order if c in chosen)
            if unknown := chosen.difference(ordered):
                raise BadRow(self.table.name, "*", min(unknown), "the table has no such column")
            if len(self._writings) >= _MOST_PLANS:
                self._writings.clear()
            writing = self._writings[columns] = Writing(self.table, ordered, self.nan_as_text)
        return writing

    def _converted(self, row: Row, reading: _Reading, raw: Sequence[Any]) -> Row:
        for name, convert in reading.converts:
            try:
                value = convert(row[name])
            except ValueError as error:
                raise BadRow(self.table.name, self.key_of(raw), name, str(error)) from error
            if value is None:
                del row[name]
            else:
                row[name] = value
        return row

    def _refuse_unfit(self, raw: Sequence[Any]) -> NoReturn:
        for name, value in zip(self.order, raw, strict=True):
            if self.table.columns[name] is Kind.INT and value is not None and not _fit([value]):
                raise BadRow(self.table.name, self.key_of(raw), name, f"{value} needs more than 32 bits")
        raise AssertionError(raw)

    def _ints(self, types: Sequence[type]) -> Callable[[Sequence[Any]], Sequence[int]] | None:
        """Give the way to pick a tuple's 32-bit numbers, where the database does not see to their size."""
        if not self.nan_as_text:
            return None
        places = [i for i, name in enumerate(self.order) if self.table.columns[name] is Kind.INT and types[i] is int]
        # Of one place alone it would give the value, not a tuple.
        return itemgetter(*places, places[0]) if places else None

    def _reading(self, raw: Sequence[Any]) -> _Reading:
        types = tuple(map(type, raw))
        present: list[int] = []
        converts: list[tuple[str, Convert]] = []
        for index, (name, kind) in enumerate(zip(self.order, types, strict=True)):
            if kind is type(None) and index >= len(self.table.key):
                continue
            present.append(index)
            by_type = _READ[self.table.columns[name]]
            if kind not in by_type:
                expected = self.table.columns[name].value
                raise BadRow(self.table.name, self.key_of(raw), name, f"{_shown(raw[index])} is not of kind {expected}")
            convert = by_type[kind]
            if convert is not None:
                converts.append((name, convert))
        if len(self._readings) >= _MOST_PLANS:
            self._readings.clear()
        names = tuple(self.order[index] for index in present)
        reading = self._readings[types] = _Reading(names, itemgetter(*present), tuple(converts), self._ints(types))
        return reading


@dataclass(frozen=True, slots=True)
class Writing:
    """How to write some columns (`columns`, in the table's order) of a table."""

    table: Table
    columns: tuple[str, ...]
    nan_as_text: bool
    _plans: dict[tuple[type, ...], tuple[tuple[int, Convert], ...]] = field(init=False, default_factory=dict)

    def values(self, row: Row, key: Key) -> Raw:
        """Give the columns' values as the database takes them; absent ones are null. Raises `BadRow`."""
        values = tuple([row.get(column) for column in self.columns])
        types = tuple(map(type, values))
        plan = self._plans.get(types)
        if plan is None:
            plan = self._plan(types, values, key)
        if not plan:
            return values
        result = list(values)
        for index, convert in plan:
            try:
                result[index] = convert(values[index])
            except (ValueError, TypeError, OverflowError) as error:
                raise BadRow(self.table.name, key, self.columns[index], str(error)) from error
        return tuple(result)

    def _plan(self, types: tuple[type, ...], values: Raw, key: Key) -> tuple[tuple[int, Convert], ...]:
        plan: list[tuple[int, Convert]] = []
        for index, (column, kind) in enumerate(zip(self.columns, types, strict=True)):
            if kind is type(None) and column in self.table.values:
                continue
            expected = self.table.columns[column]
            by_type = _WRITE[expected]
            if kind not in by_type:
                problem = f"{_shown(values[index])} is not of kind {expected.value}"
                raise BadRow(self.table.name, key, column, problem)
            convert = by_type[kind]
            if kind is float and self.nan_as_text:
                convert = _nan_as_text
            if convert is not None:
                plan.append((index, convert))
        if len(self._plans) >= _MOST_PLANS:
            self._plans.clear()
        return self._plans.setdefault(types, tuple(plan))


def same(one: Row, other: Row) -> bool:
    """Tell whether two rows are the same, cell by cell; NaN is the same as NaN."""
    return one == other or _canonical(one) == _canonical(other)


def merged_map(current: Row, column: str, put: Row, drop: Iterable[str]) -> dict[str, Any]:
    """Give a map column with some entries put and some keys removed."""
    entries = {**current.get(column, {}), **put.get(column, {})}
    for key in drop:
        entries.pop(key, None)
    return entries


def _canonical(row: Row) -> str:
    return json.dumps(row, sort_keys=True, default=str)


def _shown(value: object) -> str:
    """Show a value in an error: enough to recognise it, never a whole document."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."  # noqa: PLR2004 - a line's worth


def _fit(numbers: Collection[int], least: int = INT_MIN, most: int = INT_MAX) -> bool:
    """Tell whether numbers (at least one) fit 32 bits, or what else is given."""
    return max(numbers) <= most and min(numbers) >= least


def _fit_long(numbers: Collection[int]) -> bool:
    """Tell whether numbers (at least one) fit 64 bits."""
    return _fit(numbers, LONG_MIN, LONG_MAX)


# --- reading


def _boolean(value: int) -> bool:
    if value in {0, 1}:
        return value == 1
    raise _BadValueError(f"{value} is neither 0 nor 1")


def _nan(value: str) -> float:
    if value == "NaN":
        return math.nan
    raise _BadValueError(f"{_shown(value)} is not a number")


def _json(text: str, kind: Kind, outer: type[_T], check: Callable[[_T], bool]) -> _T | None:
    """Read JSON that is empty, which is no value, or an `outer` that passes the check."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _BadValueError(f"{_shown(text)} is not JSON: {error}") from error
    if value is None or value in ([], {}):
        return None
    if not isinstance(value, outer) or not check(value):
        raise _BadValueError(f"{_shown(text)} is not of kind {kind.value}")
    # What could not be written again must not be read, here either: JSON can escape half of a character.
    if "\\u" in text and not _is_utf8(value):
        raise _BadValueError(f"{_shown(text)} has half of a surrogate pair")
    return value


def _is_utf8(value: object) -> bool:
    try:
        _encode(value).encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_texts(value: Iterable[Any]) -> bool:
    return set(map(type, value)) <= {str}


def _is_record(value: object) -> bool:
    return isinstance(value, dict) and _is_texts(value.values())


def _texts(text: str) -> list[str] | None:
    return _json(text, Kind.TEXTS, list, _is_texts)


def _ints(text: str) -> dict[str, int] | None:
    return _json(text, Kind.INTS, dict, lambda value: set(map(type, value.values())) <= {int} and _fit(value.values()))


def _times(text: str) -> dict[str, int] | None:
    def fit(value: dict[str, Any]) -> bool:
        return set(map(type, value.values())) <= {int} and _fit_long(value.values())

    return _json(text, Kind.TIMESTAMPS, dict, fit)


def _doubles(text: str) -> dict[str, float] | None:
    value = _json(text, Kind.DOUBLES, dict, lambda value: set(map(type, value.values())) <= {int, float})
    try:
        return value and {key: float(number) for key, number in value.items()}
    except OverflowError as error:
        raise _BadValueError(f"{_shown(text)} holds a number that no double holds") from error


def _records(text: str) -> list[dict[str, str]] | None:
    return _json(text, Kind.RECORDS, list, lambda value: all(map(_is_record, value)))


def _record_map(text: str) -> dict[str, dict[str, str]] | None:
    return _json(text, Kind.RECORD_MAP, dict, lambda value: all(map(_is_record, value.values())))


def _questions(text: str) -> list[dict[str, Any]] | None:
    value = _json(text, Kind.QUESTIONS, list, lambda value: set(map(type, value)) <= {dict})
    return value and [_question(question) for question in value]


def _question(question: dict[str, Any]) -> dict[str, Any]:
    for name, value in question.items():
        check = _QUESTION_CHECKS.get(name)
        if check is None:
            raise _BadValueError(f"a question has no field {name}")
        if not check(value):
            raise _BadValueError(f"{_shown(value)} in the field {name} of a question")
    if "duration" in question:
        try:
            return {**question, "duration": Decimal(question["duration"])}
        except InvalidOperation as error:
            raise _BadValueError(f"{_shown(question['duration'])} in the field duration of a question") from error
    return question


def _is_text(value: object) -> bool:
    return type(value) is str


def _is_long(value: object) -> bool:
    return type(value) is int and _fit_long([value])


def _is_number(value: object) -> bool:
    return type(value) is float or _is_long(value)


def _is_records(value: object) -> bool:
    return isinstance(value, list) and all(map(_is_record, value))


_QUESTION_CHECKS: Final[dict[str, Callable[[Any], bool]]] = {
    "id": _is_text,
    "assess_ts": _is_long,
    "max_score": _is_number,
    "score": _is_number,
    "type": _is_text,
    "title": _is_text,
    "resvalues": _is_records,
    "params": _is_records,
    "description": _is_text,
    "duration": _is_text,
}

_READ: Final[dict[Kind, dict[type, Convert | None]]] = {
    Kind.TEXT: {str: None},
    Kind.INT: {int: None},
    Kind.FLOAT: {float: None, int: float, str: _nan},
    Kind.DOUBLE: {float: None, int: float, str: _nan},
    Kind.BOOLEAN: {bool: None, int: _boolean},
    Kind.TIMESTAMP: {int: None},
    Kind.TEXTS: {str: _texts},
    Kind.INTS: {str: _ints},
    Kind.DOUBLES: {str: _doubles},
    Kind.TIMESTAMPS: {str: _times},
    Kind.RECORDS: {str: _records},
    Kind.RECORD_MAP: {str: _record_map},
    Kind.QUESTIONS: {str: _questions},
}


# --- writing


def _dumped(value: object) -> str | None:
    """Give the JSON text; an empty collection is null, as in Cassandra."""
    return _encode(value) if value else None


def _dumped_ints(value: dict[str, int]) -> str | None:
    if set(map(type, value.values())) - {int}:
        raise _BadValueError(f"{_shown(value)} does not hold whole numbers alone")
    for number in value.values():
        _checked_int(number)
    return _dumped(value)


def _dumped_questions(value: list[dict[str, Any]]) -> str | None:
    return _dumped([{**q, "duration": str(q["duration"])} if "duration" in q else q for q in value])


# Not escaped: learners' names and titles are rarely ASCII.
_encode: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def _checked_int(value: int) -> int:
    if INT_MIN <= value <= INT_MAX:
        return value
    raise _BadValueError(f"{value} needs more than 32 bits")


def _nan_as_text(value: float) -> float | str:
    return value if value == value else "NaN"  # noqa: PLR0124 - only NaN differs from itself; half the cost of isnan


_LISTS: Final[dict[type, Convert | None]] = {list: _dumped}
_MAPS: Final[dict[type, Convert | None]] = {dict: _dumped}
_WRITE: Final[dict[Kind, dict[type, Convert | None]]] = {
    Kind.TEXT: {str: None},
    Kind.INT: {int: _checked_int},
    Kind.FLOAT: {float: None, int: float},
    Kind.DOUBLE: {float: None, int: float},
    Kind.BOOLEAN: {bool: None},
    Kind.TIMESTAMP: {int: None},
    Kind.TEXTS: _LISTS,
    Kind.INTS: {dict: _dumped_ints},
    Kind.DOUBLES: _MAPS,
    Kind.TIMESTAMPS: _MAPS,
    Kind.RECORDS: _LISTS,
    Kind.RECORD_MAP: _MAPS,
    Kind.QUESTIONS: {list: _dumped_questions},
}
