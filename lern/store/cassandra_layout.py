"""How the learner tables are keyed in Cassandra, and whether what stands there is what we can work with.

Sunbird's migrations, tests and documents disagree on one table: assessment_aggregator is partitioned by course alone,
or by user and course. Both are in use, and every query names user, course and batch, which works with either. Any
other difference is refused: a statement would mean other rows than it says.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from lern.errors import Refused
from lern.store.tables import QUESTION, TABLES, Table

_UDT: Final = "question"


@dataclass(frozen=True)
class Layout:
    """The primary key as Cassandra has it: the columns of the partition key, then those that order a partition."""

    partition: tuple[str, ...]
    clustering: tuple[str, ...]

    def __str__(self) -> str:
        return f"PRIMARY KEY (({', '.join(self.partition)}), {', '.join(self.clustering)})"


# The first is the one that `lern.store.schema.cql` makes.
LAYOUTS: Final[Mapping[str, tuple[Layout, ...]]] = {
    "user_content_consumption": (Layout(("userid",), ("courseid", "batchid", "contentid")),),
    "user_enrolments": (Layout(("userid",), ("courseid", "batchid")),),
    "user_activity_agg": (Layout(("activity_type", "activity_id", "user_id"), ("context_id",)),),
    "assessment_aggregator": (
        Layout(("user_id", "course_id"), ("batch_id", "content_id", "attempt_id")),
        Layout(("course_id",), ("batch_id", "user_id", "content_id", "attempt_id")),
    ),
    "course_batch": (Layout(("courseid",), ("batchid",)),),
    "content_consumption": (Layout(("userid",), ("contentid", "batchid", "courseid")),),
    "user_courses": (Layout(("batchid",), ("userid",)),),
}


@dataclass(frozen=True)
class Found:
    """A table as it stands: its physical name, its layout, which of our columns it has, the fields of a question."""

    name: str
    layout: Layout
    columns: tuple[str, ...]
    question: tuple[str, ...]


def find(keyspace: Any | None, table: Table, name: str) -> Found:
    """Look a table up in the driver's metadata of its keyspace. Raises `Refused` if we cannot work with it."""
    if problems := list(_fatal(keyspace, table, name)):
        raise Refused(f"Cassandra: {'; '.join(problems)}")
    there = keyspace.tables[name]  # type: ignore[union-attr]  # a missing keyspace is a problem
    udt = keyspace.user_types.get(_UDT)  # type: ignore[union-attr]
    return Found(
        name,
        _layout(there),
        tuple(column for column in table.columns if column in there.columns),
        () if udt is None else tuple(udt.field_names),
    )


def layout_problems(session: Any, keyspace: str, names: Mapping[str, str], tables: Collection[str] = ()) -> list[str]:
    """Say what is wrong with the tables, one sentence each; for `lern doctor`.

    `session`: of the driver, connected. `names`: physical names, where they differ. `tables`: which of them to look
    at, all if none is named. A column that a migration would add is a problem here, though it is worked without.
    """
    there = session.cluster.metadata.keyspaces.get(keyspace)
    if there is None:
        return list(_no_keyspace(keyspace))
    problems: list[str] = []
    for table in (TABLES[name] for name in tables or TABLES):
        name = names.get(table.name, table.name)
        problems += _fatal(there, table, name)
        problems += _missing_columns(there, table, name)
    return problems


def _no_keyspace(keyspace: str) -> Iterator[str]:
    yield f"there is no keyspace {keyspace}: Sunbird's migrations create it, or `lern migrate --create-tables`"


def _fatal(keyspace: Any | None, table: Table, name: str) -> Iterator[str]:
    if keyspace is None:
        yield "the keyspace does not exist: Sunbird's migrations create it, or `lern migrate --create-tables`"
        return
    there = keyspace.tables.get(name)
    if there is None:
        yield f"there is no table {name}: Sunbird's migrations create it, or `lern migrate --create-tables`"
        return
    yield from _wrong_key(there, table, name)
    yield from _wrong_kinds(there, table, name)
    if _UDT in "".join(kind.value for kind in table.columns.values()):
        yield from _wrong_fields(keyspace, name)


def _wrong_key(there: Any, table: Table, name: str) -> Iterator[str]:
    expected = LAYOUTS[table.name]
    if _layout(there) not in expected:
        yield f"{name} has {_layout(there)}, and {' or '.join(map(str, expected))} was expected"
    for column in there.clustering_key:
        if column.is_reversed:
            yield f"{name} is ordered by {column.name} descending, and ascending was expected"


def _wrong_kinds(there: Any, table: Table, name: str) -> Iterator[str]:
    for column, kind in table.columns.items():
        if column in there.columns and there.columns[column].cql_type != kind.value:
            yield f"{name}.{column} is {there.columns[column].cql_type}, and {kind.value} was expected"


def _wrong_fields(keyspace: Any, name: str) -> Iterator[str]:
    udt = keyspace.user_types.get(_UDT)
    kinds = {} if udt is None else dict(zip(udt.field_names, udt.field_types, strict=True))
    for field, kind in QUESTION.items():
        if kinds.get(field, kind) != kind:
            yield f"{name}: {field} of type {_UDT} is {kinds[field]}, and {kind} was expected"


def _missing_columns(keyspace: Any, table: Table, name: str) -> Iterator[str]:
    there = keyspace.tables.get(name)
    if there is not None and (missing := [c for c in table.values if c not in there.columns]):
        yield f"{name} has no column {', '.join(missing)}: Sunbird's migrations add them"


def _layout(there: Any) -> Layout:
    return Layout(tuple(c.name for c in there.partition_key), tuple(c.name for c in there.clustering_key))
