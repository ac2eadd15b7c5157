"""The rows of some users in one table, also where the table cannot be asked by user alone."""

from collections.abc import Iterable, Iterator
from typing import cast

from lern.cli import console
from lern.cli.stack import is_sql
from lern.errors import BadRow
from lern.services import Services
from lern.store.base import Bad, Store
from lern.store.tables import (
    ASSESSMENT_AGGREGATOR,
    CONTENT_CONSUMPTION,
    USER_ACTIVITY_AGG,
    USER_CONTENT_CONSUMPTION,
    USER_COURSES,
    USER_ENROLMENTS,
    Key,
    Row,
    Table,
)

# (course, batch, content) that a user's own rows name; the content is None where the row has none.
Place = tuple[str, str, str | None]


def rows_of_user(parts: Services, table: Table, users: Iterable[str], bad: Bad) -> Iterator[Row]:
    """Give the rows of some users in a table, each user's in the order of the table's key.

    Where a slice needs more than the user: SQL looks at every row. Cassandra cannot; there the courses, batches
    and units are those that the user's contents and enrolments name, so rows of others are not found. `bad`: told of
    those rows of theirs that cannot be read.
    """
    if table.user is None:
        return
    wanted = sorted(set(users))
    if table.slice == (table.user,):
        for user in wanted:
            yield from parts.store.scan(table, (user,), bad)
    elif is_sql(parts.settings.store_url_or_default):
        rows = parts.store.scan(table, bad=_of(wanted, table, bad))
        found = [row for row in rows if row[table.user] in set(wanted)]
        yield from sorted(found, key=lambda row: (row[str(table.user)], table.key_of(row)))
    else:
        console.remark(f"{table.name}: Cassandra cannot be asked by user alone; looking where the user's contents are")
        for user in wanted:
            for where in sorted(_slices(parts, table, user)):
                yield from parts.store.scan(table, where, bad)


def _of(users: Iterable[str], table: Table, bad: Bad) -> Bad:
    """Tell only of the rows of these users."""

    def told(error: BadRow) -> None:
        key = dict(zip(table.key, cast("Key", error.key), strict=True))
        if key[str(table.user)] in users:
            bad(error)

    return told


def _slices(parts: Services, table: Table, user: str) -> set[Key]:
    places = set(_places(parts.store, user))
    if table is USER_COURSES:
        return {(batch, user) for _, batch, _ in places}
    if table is ASSESSMENT_AGGREGATOR:
        return {(user, course, batch) for course, batch, _ in places}
    if table is USER_ACTIVITY_AGG:
        return {("Course", activity, user) for activity in _activities(parts, places)}
    raise ValueError(f"{table.name}: no way to its slices is known")


def _places(store: Store, user: str) -> Iterator[Place]:
    for table in (USER_CONTENT_CONSUMPTION, USER_ENROLMENTS, CONTENT_CONSUMPTION):
        for row in store.scan(table, (user,)):
            yield row["courseid"], row["batchid"], row.get("contentid")


def _activities(parts: Services, places: Iterable[Place]) -> set[str]:
    """Give the courses, and every unit above the contents."""
    contents: dict[str, set[str]] = {}
    for course, _, content in places:
        contents.setdefault(course, set()).update([content] if content is not None else [])
    units = (
        unit
        for course, found in contents.items()
        for above in parts.relations.ancestors_of(course, sorted(found)).values()
        for unit in above
    )
    return {*contents, *units}
