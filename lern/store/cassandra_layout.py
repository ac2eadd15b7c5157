"""How the learner tables are keyed in Cassandra, and whether what stands there is what we can work with.

Sunbird's migrations, tests and documents disagree on one table: assessment_aggregator is partitioned by course alone,
or by user and course. Both are in use, and every query names user, course and batch, which works with either. Any
other difference is refused: a statement would mean other rows than it says. So is a column that we do not know, where
rows are moved: it would be neither copied nor journalled, and be gone with the source's row.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from lern.errors import Refused
from lern.store.tables import QUESTION, TABLES, Table

_UDT: Final = "question"
_MIGRATE: Final = "Sunbird's migrations create it, or `lern migrate --create-tables`"


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
    """A table as it stands: its physical name, its layout, which of our columns it has, the fields of a question.

    `seen`: what of the driver's metadata was looked at. The driver replaces what has changed.
    """

    name: str
    layout: Layout
    columns: tuple[str, ...]
    question: tuple[str, ...]
    seen: tuple[Any, Any] = field(repr=False, compare=False)

    def is_current(self, keyspace: Any) -> bool:
        """Whether the table stands as it was found, as far as the driver has heard."""
        now = _there(keyspace, self.name)
        # The driver puts an altered keyspace in place and its tables into it afterwards. Of a table that is really gone
        # the server tells.
        return all(part is None or part is then for part, then in zip(now, self.seen, strict=True))


def find(keyspace: Any | None, table: Table, name: str) -> Found:
    """Look a table up in the driver's metadata of its keyspace. Raises `Refused` if we cannot work with it."""
    if keyspace is None:
        raise Refused(f"Cassandra: the keyspace does not exist: {_MIGRATE}")
    there, udt = _there(keyspace, name)
    if problems := list(_fatal(there, udt, table, name)):
        raise Refused(f"Cassandra: {'; '.join(problems)}")
    return Found(
        name,
        _layout(there),
        tuple(column for column in table.columns if column in there.columns),
        () if udt is None else tuple(udt.field_names),
        (there, udt),
    )


def layout_problems(session: Any, keyspace: str, names: Mapping[str, str], tables: Collection[str] = ()) -> list[str]:
    """Say what is wrong with the tables, one sentence each; for `lern doctor`.

    `session`: of the driver, connected. `names`: physical names, where they differ. `tables`: which of them to look
    at, all if none is named. A column that a migration would add is a problem here, though it is worked without.
    """
    metadata = session.cluster.metadata.keyspaces.get(keyspace)
    if metadata is None:
        return [f"there is no keyspace {keyspace}: {_MIGRATE}"]
    problems: list[str] = []
    for table in (TABLES[name] for name in tables or TABLES):
        name = names.get(table.name, table.name)
        there, udt = _there(metadata, name)
        problems += _fatal(there, udt, table, name)
        problems += _missing_columns(there, table, name)
    return problems


def _there(keyspace: Any, name: str) -> tuple[Any, Any]:
    """Give the driver's metadata of a table and of the type of questions, None for what there is not."""
    return keyspace.tables.get(name), keyspace.user_types.get(_UDT)


def _fatal(there: Any, udt: Any, table: Table, name: str) -> Iterator[str]:
    if there is None:
        yield f"there is no table {name}: {_MIGRATE}"
        return
    yield from _wrong_key(there, table, name)
    yield from _wrong_kinds(there, table, name)
    # The rows of other tables stay where they are, whatever else they hold.
    if table.user is not None:
        yield from _unknown(name, "column", there.columns.keys() - table.columns.keys())
    if _UDT in "".join(kind.value for kind in table.columns.values()):
        yield from _wrong_fields(udt, name)


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


def _wrong_fields(udt: Any, name: str) -> Iterator[str]:
    kinds = {} if udt is None else dict(zip(udt.field_names, udt.field_types, strict=True))
    for part, kind in QUESTION.items():
        if kinds.get(part, kind) != kind:
            yield f"{name}: {part} of type {_UDT} is {kinds[part]}, and {kind} was expected"
    yield from _unknown(name, f"field of type {_UDT}", kinds.keys() - QUESTION.keys())


def _unknown(name: str, what: str, unknown: Collection[str]) -> Iterator[str]:
    for column in sorted(unknown):
        yield (
            f"{name} has a {what} that this version of Lern does not know, {column}, and a merge would lose what is "
            "in it: upgrade Lern and retry"
        )


def _missing_columns(there: Any, table: Table, name: str) -> Iterator[str]:
    if there is not None and (missing := [c for c in table.values if c not in there.columns]):
        yield f"{name} has no column {', '.join(missing)}: Sunbird's migrations add them"


def _layout(there: Any) -> Layout:
    return Layout(tuple(c.name for c in there.partition_key), tuple(c.name for c in there.clustering_key))
