"""Counters that source rows have given to their targets: merging the same pair again adds only what is new."""

import json
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Final

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from lern.ledger.prepared import Prepared
from lern.ledger.records import Contributions, text_of
from lern.ledger.schema import contributed
from lern.store.tables import Key

_KEY: Final = ("source", "table_name", "identity")
_REMEMBER: Final = {
    "sqlite": (_sqlite := sqlite.insert(contributed)).on_conflict_do_update(
        index_elements=_KEY, set_={"counters": _sqlite.excluded.counters}
    ),
    "postgresql": (_postgresql := postgresql.insert(contributed)).on_conflict_do_update(
        index_elements=_KEY, set_={"counters": _postgresql.excluded.counters}
    ),
}
_FORGET: Final = contributed.delete().where(
    contributed.c.source == sa.bindparam("of_source"),
    contributed.c.table_name == sa.bindparam("of_table"),
    contributed.c.identity == sa.bindparam("of_identity"),
)
_OF: Final = sa.select(contributed.c.identity, contributed.c.counters).where(
    contributed.c.source == sa.bindparam("of_source"),
    contributed.c.table_name == sa.bindparam("of_table"),
    contributed.c.identity.in_(sa.bindparam("identities", expanding=True)),
)
_ANY: Final = Prepared(
    sa.select(contributed.c.source)
    .where(contributed.c.source == sa.bindparam("of_source"), contributed.c.table_name == sa.bindparam("of_table"))
    .limit(1)
)
# Databases allow some ten thousand parameters in a statement.
_AT_ONCE: Final = 2_000


def remember(connection: sa.Connection, source: str, given: Contributions) -> None:
    """Remember what rows of a source have given, or forget it, within the caller's transaction."""
    kept = [
        {"source": source, "table_name": table, "identity": text_of(identity), "counters": text_of(dict(counters))}
        for (table, identity), counters in given.items()
        if counters is not None
    ]
    gone = [
        {"of_source": source, "of_table": table, "of_identity": text_of(identity)}
        for (table, identity), counters in given.items()
        if counters is None
    ]
    if kept:
        connection.execute(_REMEMBER[connection.dialect.name], kept)
    if gone:
        connection.execute(_FORGET, gone)


def read(
    connection: sa.Connection, source: str, table: str, identities: Iterable[Key]
) -> Iterator[tuple[Key, dict[str, int]]]:
    """Give what rows have given so far; rows that have given nothing are left out."""
    # Most accounts are merged once: none of their rows has given anything.
    if _ANY.first(connection, of_source=source, of_table=table) is None:
        return
    texts = map(text_of, identities)
    while some := list(islice(texts, _AT_ONCE)):
        rows = connection.execute(_OF, {"of_source": source, "of_table": table, "identities": some})
        for identity, counters in rows:
            yield tuple(json.loads(identity)), json.loads(counters)
