"""Rows as Cassandra's protocol carries them: bytes, one value a cell.

Out: by our own encoders, because the driver's cost more than the server's part of a write, and take a bool for an int.
In: by the driver, except for what `lern.store.cassandra_protocol` has it leave to us.
"""

import struct
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Final

from lern.errors import BadRow
from lern.store.cassandra_layout import Found
from lern.store.sql_codec import same
from lern.store.tables import QUESTION, Key, Kind, Row, Table

Encode = Callable[[Any], bytes | None]
Decode = Callable[[Any], Any]

# Columns that are one cell.
SCALARS: Final = frozenset({Kind.TEXT, Kind.INT, Kind.FLOAT, Kind.DOUBLE, Kind.BOOLEAN, Kind.TIMESTAMP})

# One value of a statement that the driver sends: its bytes, None for null.
Cell = bytes | None

_INT: Final = struct.Struct(">i")
_LONG: Final = struct.Struct(">q")
_FLOAT: Final = struct.Struct(">f")
_DOUBLE: Final = struct.Struct(">d")

# A value within a mutation, or within another: how many bytes it has, then these. Null, and "leave it alone".
NULL: Final = _INT.pack(-1)
UNSET: Final = _INT.pack(-2)
_TRUE, _FALSE = b"\x01", b"\x00"


@dataclass(frozen=True, slots=True)
class Codec:
    """Turns one table's rows into cells and back. `order`: the columns in the order of a SELECT, key first."""

    table: Table
    found: Found
    order: tuple[str, ...] = field(init=False)
    collections: frozenset[str] = field(init=False)
    _encoders: Mapping[str, Encode] = field(init=False)
    _cells: Mapping[str, Callable[[Any], bytes]] = field(init=False)
    _decoders: Sequence[tuple[str, Decode]] = field(init=False)

    def __post_init__(self) -> None:
        """Choose the functions for the columns that there are."""
        table, found = self.table, self.found
        order = (*table.key, *(c for c in table.values if c in found.columns))
        kinds = {column: table.columns[column] for column in order}
        encoders = {c: _encoder(kind, found.question) for c, kind in kinds.items()}
        object.__setattr__(self, "order", order)
        object.__setattr__(self, "collections", frozenset(c for c, kind in kinds.items() if kind not in SCALARS))
        object.__setattr__(self, "_encoders", encoders)
        object.__setattr__(self, "_cells", {c: _CELLS.get(kinds[c]) or _cell_of(e) for c, e in encoders.items()})
        decoders = {c: _decoder(kind, found.question) for c, kind in kinds.items()}
        object.__setattr__(self, "_decoders", [(c, decode) for c, decode in decoders.items() if decode])

    def row(self, raw: Sequence[Any]) -> Row:
        """Read one result row, whose columns are `order`."""
        row = {name: value for name, value in zip(self.order, raw, strict=True) if value is not None}
        for name, decode in self._decoders:
            if name in row:
                row[name] = decode(row[name])
        return row

    def key_of(self, raw: Sequence[Any]) -> Key:
        """Give the primary key of a result row."""
        return tuple(raw[: len(self.table.key)])

    def holds(self, raw: Sequence[Any], row: Row) -> bool:
        """Tell whether a result row is a row, cell by cell, in the columns that there are; NaN is the same as NaN."""
        return tuple(map(row.get, self.order)) == raw or same(self.row(raw), row)

    def fill(self, cells: list[bytes], places: Mapping[str, int], values: Row, key: Key) -> None:
        """Put values into their places of a mutation; an empty collection is null. Raises `BadRow`."""
        encoders = self._cells
        column = ""
        try:
            for column, value in values.items():
                cells[places[column]] = encoders[column](value)
        except (KeyError, ValueError, TypeError, OverflowError, struct.error) as error:
            raise self._bad(key, column, error) from error

    def encode(self, column: str, value: Any, key: Key) -> Cell:
        """Encode one value, None and an empty collection as null. Raises `BadRow`."""
        try:
            return None if value is None else self._encoders[column](value)
        except (KeyError, ValueError, TypeError, OverflowError, struct.error) as error:
            raise self._bad(key, column, error) from error

    def _bad(self, key: Key, column: str, error: Exception) -> BadRow:
        problem = "the table has no such column" if isinstance(error, KeyError) else str(error)
        return BadRow(self.table.name, key, column, problem)

    def decoded(self, column: str, value: Any) -> Any:
        """Read one value of a result row."""
        return next((decode(value) for name, decode in self._decoders if name == column), value)

    def refuse_unknown(self, column: str, key: Key) -> None:
        """Raise `BadRow` if there is no such column."""
        if column not in self.order:
            raise BadRow(self.table.name, key, column, "the table has no such column")


def text(value: str) -> bytes:
    """Encode text. Raises ValueError for half of a surrogate pair, and for what is no text."""
    if type(value) is not str:
        raise _unfit(value, "text")
    return value.encode()


def integer(value: int) -> bytes:
    """Encode a 32-bit number. Raises ValueError or struct.error for anything else."""
    if type(value) is not int:
        raise _unfit(value, "int")
    return _INT.pack(value)


def long(value: int) -> bytes:
    """Encode a 64-bit number, or a time. Raises ValueError or struct.error for anything else."""
    if type(value) is not int:
        raise _unfit(value, "a number of milliseconds")
    return _LONG.pack(value)


def cell(encoded: bytes) -> bytes:
    """Give a value of a mutation."""
    return _INT.pack(len(encoded)) + encoded


def text_cell(value: str) -> bytes:
    """Encode text as a value of a mutation. Raises ValueError as `text` does."""
    return cell(text(value))


def sequence(items: Sequence[bytes]) -> bytes:
    """Encode a list of what is encoded already."""
    return _INT.pack(len(items)) + b"".join([part for item in items for part in (_INT.pack(len(item)), item)])


def tuple_of(parts: Iterable[bytes]) -> bytes:
    """Encode a tuple of what is encoded already."""
    return b"".join([piece for part in parts for piece in (_INT.pack(len(part)), part)])


def as_stored(kind: Kind, value: Any) -> Any:
    """Give the value as it will come back: a FLOAT has 32 bits. What cannot be written is given as it is."""
    if kind is not Kind.FLOAT or type(value) not in {int, float}:
        return value
    try:
        return _FLOAT.unpack(_FLOAT.pack(value))[0]
    except OverflowError:
        return value


def _unfit(value: object, kind: str) -> ValueError:
    shown = repr(value)
    return ValueError(f"{shown if len(shown) <= 60 else shown[:57] + '...'} is not {kind}")  # noqa: PLR2004 - a line's worth


# --- out


def _boolean(value: bool) -> bytes:
    if type(value) is not bool:
        raise _unfit(value, "boolean")
    return _TRUE if value else _FALSE


def _number(pack: Callable[[float], bytes]) -> Callable[[float], bytes]:
    def encode(value: float) -> bytes:
        if type(value) not in {int, float}:
            raise _unfit(value, "a number")
        return pack(value)

    return encode


def _decimal(value: Decimal) -> bytes:
    if type(value) is not Decimal or not value.is_finite():
        raise _unfit(value, "decimal")
    sign, digits, exponent = value.as_tuple()
    unscaled = int("".join(map(str, digits)) or "0") * (-1 if sign else 1)
    return _INT.pack(-int(exponent)) + unscaled.to_bytes(unscaled.bit_length() // 8 + 1, "big", signed=True)


def _map_of(encode: Callable[[Any], bytes]) -> Callable[[Any], bytes]:
    def encode_map(value: Mapping[str, Any]) -> bytes:
        if type(value) is not dict:
            raise _unfit(value, "a map")
        parts = [_INT.pack(len(value))]
        for key, item in value.items():
            key_bytes, item_bytes = text(key), encode(item)
            parts += (_INT.pack(len(key_bytes)), key_bytes, _INT.pack(len(item_bytes)), item_bytes)
        return b"".join(parts)

    return encode_map


def _list_of(encode: Callable[[Any], bytes]) -> Callable[[Any], bytes]:
    def encode_list(value: list[Any]) -> bytes:
        if type(value) is not list:
            raise _unfit(value, "a list")
        return sequence([encode(item) for item in value])

    return encode_list


def _question(fields: Sequence[str]) -> Callable[[Any], bytes]:
    def encode_question(value: Mapping[str, Any]) -> bytes:
        if type(value) is not dict:
            raise _unfit(value, "a question")
        if unknown := value.keys() - set(fields):
            raise ValueError(f"a question has no field {min(unknown)} here")
        parts = []
        for name in fields:
            if value.get(name) is None:
                parts.append(NULL)
            else:
                encoded = _QUESTION_ENCODERS[QUESTION[name]](value[name])
                parts += (_INT.pack(len(encoded)), encoded)
        return b"".join(parts)

    return encode_question


def _number_cell(code: str, types: Collection[type], kind: str) -> Callable[[Any], bytes]:
    packing = struct.Struct(f">i{code}")
    pack, size = packing.pack, packing.size - _INT.size

    def encode(value: Any) -> bytes:
        if type(value) not in types:
            raise _unfit(value, kind)
        return pack(size, value)

    return encode


def _cell_of(encode: Encode) -> Callable[[Any], bytes]:
    def encode_cell(value: Any) -> bytes:
        encoded = encode(value)
        return NULL if encoded is None else cell(encoded)

    return encode_cell


# Made at once, where a row has many of them.
_CELLS: Final[Mapping[Kind, Callable[[Any], bytes]]] = {
    Kind.TEXT: text_cell,
    Kind.INT: _number_cell("i", {int}, "int"),
    Kind.TIMESTAMP: _number_cell("q", {int}, "a number of milliseconds"),
}
_RECORD: Final = _map_of(text)
_ENCODERS: Final[Mapping[Kind, Callable[[Any], bytes]]] = {
    Kind.TEXT: text,
    Kind.INT: integer,
    Kind.FLOAT: _number(_FLOAT.pack),
    Kind.DOUBLE: _number(_DOUBLE.pack),
    Kind.BOOLEAN: _boolean,
    Kind.TIMESTAMP: long,
    Kind.TEXTS: _list_of(text),
    Kind.INTS: _map_of(integer),
    Kind.DOUBLES: _map_of(_number(_DOUBLE.pack)),
    Kind.TIMESTAMPS: _map_of(long),
    Kind.RECORDS: _list_of(_RECORD),
    Kind.RECORD_MAP: _map_of(_RECORD),
}
_QUESTION_ENCODERS: Final[Mapping[str, Callable[[Any], bytes]]] = {
    **{kind.value: encode for kind, encode in _ENCODERS.items()},
    "decimal": _decimal,
}


def _or_null(encode: Callable[[Any], bytes]) -> Encode:
    """Encode a column that is a collection: Cassandra keeps none that is empty. Within others they are kept."""
    return lambda value: None if value in ([], {}) else encode(value)


def _encoder(kind: Kind, fields: Sequence[str]) -> Encode:
    encode = _list_of(_question(fields)) if kind is Kind.QUESTIONS else _ENCODERS[kind]
    return encode if kind in SCALARS else _or_null(encode)


# --- in


def _entries(decode: Callable[[bytes], Any]) -> Callable[[bytes], dict[str, Any]]:
    def decode_map(raw: bytes) -> dict[str, Any]:
        result = {}
        unpack = _INT.unpack_from
        at = 4
        for _ in range(unpack(raw)[0]):
            start = at + 4
            at = start + unpack(raw, at)[0]
            key = raw[start:at].decode()
            start = at + 4
            at = start + unpack(raw, at)[0]
            result[key] = decode(raw[start:at])
        return result

    return decode_map


def _number_from(packed: struct.Struct) -> Callable[[bytes], Any]:
    def decode(raw: bytes) -> Any:
        return packed.unpack(raw)[0]

    return decode


_record: Final = _entries(bytes.decode)


def _records(raws: list[bytes]) -> list[dict[str, str]]:
    return [_record(raw) for raw in raws]


def _questions(fields: Sequence[str]) -> Decode:
    nested = {name for name in fields if QUESTION[name] == Kind.RECORDS.value}

    def decode(raws: Sequence[Sequence[Any]]) -> list[dict[str, Any]]:
        return [
            {
                name: _records(value) if name in nested else value
                for name, value in zip(fields, raw, strict=True)
                if value is not None
            }
            for raw in raws
        ]

    return decode


_DECODERS: Final[Mapping[Kind, Decode]] = {
    Kind.INTS: _entries(_number_from(_INT)),
    Kind.DOUBLES: _entries(_number_from(_DOUBLE)),
    Kind.TIMESTAMPS: _entries(_number_from(_LONG)),
    Kind.RECORDS: _records,
    Kind.RECORD_MAP: _entries(_record),
}


def _decoder(kind: Kind, fields: Sequence[str]) -> Decode | None:
    return _questions(fields) if kind is Kind.QUESTIONS else _DECODERS.get(kind)
