"""Rows outside a store: lines of JSON for people (`lern rows load`, `lern rows dump`), a fast form for the journal.

A line is `{"table": NAME, "row": {COLUMN: VALUE, ...}}`. Null columns are left out. Timestamps are ISO-8601
UTC with milliseconds (`2022-02-21T05:54:43.853Z`), or the number of milliseconds where the year is not one of
1 to 9999; NaN and the infinities are the texts "NaN", "Infinity", "-Infinity"; the `duration` of a question is
its decimal as text. A line of the table "relations" is `{"key": ..., "members": [...]}`, a set in Redis.
"""

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from difflib import get_close_matches
from typing import Any, Final, NoReturn

from lern.errors import LernError
from lern.phrases import shortened
from lern.store.tables import QUESTION, TABLES, Kind, Row, Table

RELATIONS: Final = "relations"

_INT: Final = (-(2**31), 2**31 - 1)
_LONG: Final = (-(2**63), 2**63 - 1)
_LARGEST_FLOAT: Final = (2 - 2**-23) * 2.0**127
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_FIRST_YEAR: Final = (datetime(1, 1, 1, tzinfo=UTC) - _EPOCH) // timedelta(milliseconds=1)
_LAST_YEAR: Final = (datetime(9999, 12, 31, 23, 59, 59, 999000, tzinfo=UTC) - _EPOCH) // timedelta(milliseconds=1)
_MILLISECOND: Final = 1000  # microseconds
_NOT_FINITE: Final = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


class BadInput(LernError):
    """A row from outside that breaks the contract.

    `column` is None where the fault is not in one column; `line` counts from 1, None where there are no lines.
    """

    code = "BAD_INPUT"

    def __init__(self, problem: str, column: str | None = None, line: int | None = None) -> None:
        """Say what is wrong, and where as far as it is known."""
        places = (f"line {line}" if line is not None else "", f"column {column}" if column else "")
        where = ", ".join(filter(None, places))
        super().__init__(f"{where}: {problem}" if where else problem)
        self.problem, self.column, self.line = problem, column, line


@dataclass(frozen=True, slots=True)
class RowLine:
    """One learner row of a file."""

    table: Table
    row: Row


@dataclass(frozen=True, slots=True)
class RelationLine:
    """One set of relations of a file: the Redis key and the set's members."""

    key: str
    members: frozenset[str]


# --- the journal's form


def pack(table: Table, row: Row) -> Row:
    """Give a row in a form that `json` keeps without loss. The row itself, mostly: do not change it afterwards."""
    questions = _questions_column(table)
    if questions is None or questions not in row:
        return row
    return {**row, questions: [_packed_question(q) for q in row[questions]]}


def unpack(table: Table, packed: Row) -> Row:
    """Give back the row of a packed one. Raises nothing on what `pack` made."""
    questions = _questions_column(table)
    if questions is None or questions not in packed:
        return packed
    return {**packed, questions: [_unpacked_question(q) for q in packed[questions]]}


_QUESTIONS: Final = {
    name: next((c for c, kind in table.columns.items() if kind is Kind.QUESTIONS), None)
    for name, table in TABLES.items()
}


def _questions_column(table: Table) -> str | None:
    return _QUESTIONS[table.name]


def _packed_question(question: dict[str, Any]) -> dict[str, Any]:
    return {**question, "duration": str(question["duration"])} if "duration" in question else question


def _unpacked_question(question: dict[str, Any]) -> dict[str, Any]:
    return {**question, "duration": Decimal(question["duration"])} if "duration" in question else question


# --- the lines


def dump_line(table: Table, row: Row) -> str:
    """Give a row as one line of JSON, without the newline."""
    return json.dumps({"table": table.name, "row": encode(table, row)}, ensure_ascii=False, allow_nan=False)


def dump_relation(key: str, members: Iterable[str]) -> str:
    """Give a set of relations as one line of JSON, without the newline; the members in their order."""
    return json.dumps({"table": RELATIONS, "row": {"key": key, "members": sorted(members)}}, ensure_ascii=False)


def load_lines(lines: Iterable[str | bytes]) -> Iterator[RowLine | RelationLine]:
    """Read lines one by one; empty ones are skipped. Raises `BadInput`, which names line and column."""
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                yield _load(line)
            except BadInput as error:
                raise BadInput(error.problem, error.column, number) from error


def _load(line: str | bytes) -> RowLine | RelationLine:
    document = _parsed(line)
    if not isinstance(document, dict) or document.keys() != {"table", "row"}:
        raise BadInput('an object {"table": ..., "row": {...}} was expected')
    name, row = document["table"], document["row"]
    if not isinstance(row, dict):
        raise BadInput(f"{_what(row)} as row; an object was expected")
    if name == RELATIONS:
        return _relation(row)
    if not isinstance(name, str) or name not in TABLES:
        known = (*TABLES, RELATIONS)
        raise BadInput(f"no table is called {name!r}{_suggestion(name, known)}; one of {', '.join(known)} was expected")
    return RowLine(TABLES[name], decode(TABLES[name], row))


def _parsed(line: str | bytes) -> object:
    try:
        text = line.decode() if isinstance(line, bytes) else line
        return json.loads(text, object_pairs_hook=_without_duplicates, parse_constant=_refuse_constant)
    except UnicodeDecodeError as error:
        raise BadInput(f"byte {error.start} is not UTF-8") from error
    except RecursionError as error:
        raise BadInput("nested too deep") from error
    except ValueError as error:
        raise BadInput(f"not JSON: {error}") from error


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        names = [name for name, _ in pairs]
        raise BadInput(f"{next(n for n in names if names.count(n) > 1)!r} stands twice in one object")
    return result


def _refuse_constant(name: str) -> NoReturn:
    raise BadInput(f'{name} is not JSON: write it as the text "{name}"')


def _relation(row: Mapping[str, Any]) -> RelationLine:
    if unknown := row.keys() - {"key", "members"}:
        raise BadInput("relations have only key and members", min(unknown))
    key = _text(row.get("key"), "key")
    if not key.strip():
        raise BadInput("blank; the key of a set in Redis was expected", "key")
    members = row.get("members")
    if not isinstance(members, list):
        raise BadInput(f"{_what(members)}; a list of text was expected", "members")
    return RelationLine(key, frozenset(_text(member, f"members[{i}]") for i, member in enumerate(members)))


# --- out


def encode(table: Table, row: Row) -> dict[str, Any]:
    """Give a row as JSON for people, in the table's column order."""
    return {column: _ENCODE[kind](row[column]) for column, kind in table.columns.items() if column in row}


def encode_time(value: int) -> str | int:
    """Give milliseconds since 1970 as ISO-8601 UTC, or as they are where no calendar reaches."""
    if not _FIRST_YEAR <= value <= _LAST_YEAR:
        return value
    time = _EPOCH + timedelta(milliseconds=value)
    return f"{time:%H:%M:%S}".join((f"{time.year:04}-{time:%m-%d}T", f".{time.microsecond // _MILLISECOND:03}Z"))


def _encode_number(value: float) -> float | str:
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")


def _as_is(value: object) -> object:
    return value


def _encode_entries(encode_value: Callable[[Any], Any]) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    return lambda entries: {key: encode_value(value) for key, value in entries.items()}


def _encode_question(question: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _ENCODE_FIELD[kind](question[name]) for name, kind in QUESTION.items() if name in question}


def _encode_questions(questions: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [_encode_question(question) for question in questions]


_ENCODE: Final[Mapping[Kind, Callable[[Any], Any]]] = {
    Kind.TEXT: _as_is,
    Kind.INT: _as_is,
    Kind.FLOAT: _encode_number,
    Kind.DOUBLE: _encode_number,
    Kind.BOOLEAN: _as_is,
    Kind.TIMESTAMP: encode_time,
    Kind.TEXTS: _as_is,
    Kind.INTS: _as_is,
    Kind.DOUBLES: _encode_entries(_encode_number),
    Kind.TIMESTAMPS: _encode_entries(encode_time),
    Kind.RECORDS: _as_is,
    Kind.RECORD_MAP: _as_is,
    Kind.QUESTIONS: _encode_questions,
}
_ENCODE_FIELD: Final[Mapping[str, Callable[[Any], Any]]] = {
    **{kind.value: encode_value for kind, encode_value in _ENCODE.items()},
    "decimal": str,
}


# --- in


def decode(table: Table, given: Mapping[str, Any]) -> Row:
    """Read a row from JSON. A null column counts as absent, and so does an empty collection.

    Raises `BadInput`, which names the column and what was expected of it.
    """
    for column in given:
        if column not in table.columns:
            raise BadInput(f"{table.name} has no such column{_suggestion(column, table.columns)}", column)
    for column in table.key:
        if given.get(column) is None:
            raise BadInput(f"missing; {table.name} has it in its key", column)
    row: Row = {}
    for column, kind in table.columns.items():
        if given.get(column) is not None:
            value = _DECODE[kind](given[column], column)
            if value not in ([], {}):
                row[column] = value
    for column in table.key:
        if not row[column].strip():
            raise BadInput("blank; text was expected", column)
    return row


def _suggestion(name: object, known: Iterable[str]) -> str:
    close = get_close_matches(str(name), list(known), n=1)
    return f" (is {close[0]} meant?)" if close else ""


def _what(value: object) -> str:
    """Name a JSON value's kind and show it, shortened."""
    kinds = {str: "text", bool: "boolean", int: "number", float: "number", list: "list", dict: "object"}
    if value is None:
        return "null"
    return f"{kinds.get(type(value), 'value')} {shortened(json.dumps(value, ensure_ascii=False))}"


def _text(value: object, column: str) -> str:
    if not isinstance(value, str):
        raise BadInput(f"{_what(value)}; text was expected", column)
    if "\0" in value:
        raise BadInput("text with a NUL character; PostgreSQL refuses it", column)
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise BadInput("half of a surrogate pair; text that UTF-8 can hold was expected", column) from error
    return value


def _whole(value: object, column: str, limits: tuple[int, int], expected: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise BadInput(f"{_what(value)}; {expected} was expected", column)
    if not limits[0] <= value <= limits[1]:
        raise BadInput(f"{value} is out of range; {expected} was expected", column)
    return value


def _int(value: object, column: str) -> int:
    return _whole(value, column, _INT, "a whole number of 32 bits")


def _double(value: object, column: str) -> float:
    if isinstance(value, str) and value in _NOT_FINITE:
        return _NOT_FINITE[value]
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise BadInput(f"{_what(value)}; a number was expected", column)
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise BadInput("a number that is too large; one that a double holds was expected", column)
    return number


def _float(value: object, column: str) -> float:
    number = _double(value, column)
    if math.isfinite(number) and abs(number) > _LARGEST_FLOAT:
        raise BadInput(f"{number} is out of range; a number of 32 bits was expected", column)
    return number


def _boolean(value: object, column: str) -> bool:
    if not isinstance(value, bool):
        raise BadInput(f"{_what(value)}; true or false was expected", column)
    return value


def _time(value: object, column: str) -> int:
    expected = "a time like 2022-02-21T05:54:43.853Z, or milliseconds since 1970,"
    if not isinstance(value, str):
        return _whole(value, column, _LONG, expected)
    try:
        time = datetime.fromisoformat(value)
    except ValueError as error:
        raise BadInput(f"{_what(value)}; {expected} was expected", column) from error
    if time.tzinfo is None or "T" not in value:
        raise BadInput(f"{_what(value)}; {expected} was expected", column)
    if time.microsecond % _MILLISECOND:
        raise BadInput(f"{_what(value)} is finer than a millisecond; {expected} was expected", column)
    return (time - _EPOCH) // timedelta(milliseconds=1)


def _decimal(value: object, column: str) -> Decimal:
    text = str(value) if type(value) in {int, float} else _text(value, column)
    try:
        number = Decimal(text)
    except InvalidOperation as error:
        raise BadInput(f"{_what(value)}; a decimal number was expected", column) from error
    if not number.is_finite():
        raise BadInput(f"{_what(value)}; a finite decimal number was expected", column)
    return number


Decode = Callable[[Any, str], Any]


def _list_of(decode_value: Decode) -> Decode:
    def decode_list(value: object, column: str) -> list[Any]:
        if not isinstance(value, list):
            raise BadInput(f"{_what(value)}; a list was expected", column)
        return [decode_value(item, f"{column}[{i}]") for i, item in enumerate(value)]

    return decode_list


def _map_of(decode_value: Decode) -> Decode:
    def decode_map(value: object, column: str) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise BadInput(f"{_what(value)}; an object was expected", column)
        return {_text(key, column): decode_value(item, f"{column}[{key}]") for key, item in value.items()}

    return decode_map


def _question(value: object, column: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise BadInput(f"{_what(value)}; an object was expected", column)
    result: dict[str, Any] = {}
    for name, field in value.items():
        if name not in QUESTION:
            raise BadInput(f"a question has no field {name!r}{_suggestion(name, QUESTION)}", column)
        if field is not None:
            decoded = _DECODE_FIELD[QUESTION[name]](field, f"{column}.{name}")
            if decoded != []:
                result[name] = decoded
    return result


_record: Final = _map_of(_text)

_DECODE: Final[Mapping[Kind, Decode]] = {
    Kind.TEXT: _text,
    Kind.INT: _int,
    Kind.FLOAT: _float,
    Kind.DOUBLE: _double,
    Kind.BOOLEAN: _boolean,
    Kind.TIMESTAMP: _time,
    Kind.TEXTS: _list_of(_text),
    Kind.INTS: _map_of(_int),
    Kind.DOUBLES: _map_of(_double),
    Kind.TIMESTAMPS: _map_of(_time),
    Kind.RECORDS: _list_of(_record),
    Kind.RECORD_MAP: _map_of(_record),
    Kind.QUESTIONS: _list_of(_question),
}
_DECODE_FIELD: Final[Mapping[str, Decode]] = {
    **{kind.value: decode_value for kind, decode_value in _DECODE.items()},
    "decimal": _decimal,
}
