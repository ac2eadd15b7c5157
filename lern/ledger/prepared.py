"""Statements that every step runs: built by SQLAlchemy once, then run on the driver's own connection.

A step asks the ledger a handful of small questions, and describing each anew costs more than answering it.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa

_PARAMSTYLE: Final = {"sqlite": ("qmark", "?"), "postgresql": ("format", "%s")}
# Where SQLAlchemy leaves room for a list.
_LIST: Final = re.compile(r"__\[POSTCOMPILE_(\w+)\]")
_EMPTY_LIST: Final = "SELECT NULL WHERE 1 = 0"


@dataclass(frozen=True, slots=True)
class _Text:
    """A statement in one database's words: its text, the names of its parameters in order, their usual values."""

    text: str
    names: tuple[str, ...]
    usual: dict[str, Any]
    lists: frozenset[str]


class Prepared:
    """A statement whose values are given by name; it hands out the driver's tuples.

    `clause`: one for both databases, or one for each by its dialect's name. Values go to the driver as they are, so
    columns hold only what drivers understand: texts, numbers, bytes. To be run within `Database.read` or `write`.
    """

    def __init__(self, clause: sa.ClauseElement | dict[str, Any]) -> None:
        """Keep the clause; it is compiled when it is first run."""
        self._clause = clause
        self._texts: dict[tuple[str, ...], _Text] = {}

    def first(self, connection: sa.Connection, **values: Any) -> Any:
        """Run it and give the first row, None if there is none."""
        return self._run(connection, values).fetchone()

    def all(self, connection: sa.Connection, **values: Any) -> list[Any]:
        """Run it and give all rows."""
        rows: list[Any] = self._run(connection, values).fetchall()
        return rows

    def scalar(self, connection: sa.Connection, **values: Any) -> Any:
        """Run it and give the first row's first value, None if there is no row."""
        row = self.first(connection, **values)
        return None if row is None else row[0]

    def run(self, connection: sa.Connection, **values: Any) -> None:
        """Run it. Of an insert or update, the names of the values say which columns are set."""
        self._run(connection, values)

    def _run(self, connection: sa.Connection, values: dict[str, Any]) -> Any:
        driver: Any = connection.connection.dbapi_connection
        text = self._text(connection.dialect, values)
        parameters = [values[name] if name in values else text.usual[name] for name in text.names]
        try:
            if text.lists:
                return _send(driver, *_spread(text, parameters, connection.dialect.name))
            return _send(driver, text.text, parameters)
        except connection.dialect.loaded_dbapi.Error as error:
            # One that is broken must not be lent to the next one.
            if connection.dialect.is_disconnect(error, driver, None):
                connection.invalidate(error)
            raise

    def _text(self, dialect: sa.Dialect, values: dict[str, Any]) -> _Text:
        shape = (dialect.name, *values)
        text = self._texts.get(shape)
        if text is None:
            text = self._texts[shape] = self._compiled(dialect, list(values))
        return text

    def _compiled(self, dialect: sa.Dialect, names: list[str]) -> _Text:
        clause = self._clause[dialect.name] if isinstance(self._clause, dict) else self._clause
        style, _ = _PARAMSTYLE[dialect.name]
        own = type(dialect)(paramstyle=style)  # type: ignore[call-arg]  # every dialect that we use takes it
        made: Any = clause.compile(dialect=own, column_keys=names)
        lists = frozenset(found.group(1) for found in _LIST.finditer(made.string))
        return _Text(made.string, tuple(made.positiontup or ()), dict(made.params), lists)


def _send(driver: Any, text: str, parameters: Sequence[Any]) -> Any:
    return driver.execute(text, parameters)


def _spread(text: _Text, parameters: Sequence[Any], dialect: str) -> tuple[str, list[Any]]:
    """Make room in a text for lists as long as they are, and put their values in place."""
    _, mark = _PARAMSTYLE[dialect]
    lengths: dict[str, int] = {}
    flat: list[Any] = []
    for name, value in zip(text.names, parameters, strict=True):
        if name in text.lists:
            lengths[name] = len(value)
            flat.extend(value)
        else:
            flat.append(value)

    def room(found: re.Match[str]) -> str:
        return ", ".join([mark] * lengths[found.group(1)]) or _EMPTY_LIST

    return _LIST.sub(room, text.text), flat
