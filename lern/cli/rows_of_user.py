"""The rows of some users in one table, also where the table cannot be asked by user alone."""

from collections.abc import Iterable, Iterator

from lern.cli import console
from lern.cli.stack import is_sql
from lern.services import Services
from lern.store.base import Store
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

PAGE = 1_000

# (course, batch, content) that a user's own rows name; the content is None where the row has none.
Place = tuple[str, str, str | None]


def rows_of_user(parts: Services, table: Table, users: Iterable[str]) -> Iterator[Row]:
    """Give the rows of some users in a table, each user's in the order of the table's key.

    Where a slice needs more than the user: SQL looks at every row. Cassandra cannot; there the courses, batches
    and units are those that the user's contents and enrolments name, so rows of others are not found.
    """
    if table.user is None:
        return
    wanted = sorted(set(users))
    if table.slice == (table.user,):
        for user in wanted:
            yield from _slice(parts.store, table, (user,))
    elif is_sql(parts.settings.store_url_or_default):
        found = [row for row in parts.store.scan(table) if row[table.user] in set(wanted)]
        yield from sorted(found, key=lambda row: (row[str(table.user)], table.key_of(row)))
    else:
        console.remark(f"{table.name}: Cassandra cannot be asked by user alone; looking where the user's contents are")
        for user in wanted:
            for where in sorted(_slices(parts, table, user)):
                yield from _slice(parts.store, table, where)


def _slice(store: Store, table: Table, where: Key) -> Iterator[Row]:
    """Read a slice in pages."""
    after: Key | None = None
    while rows := store.rows(table, where, after, PAGE):
        yield from rows
        if len(rows) < PAGE:
            return
        after = table.order_of(rows[-1])


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
        for row in _slice(store, table, (user,)):
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
