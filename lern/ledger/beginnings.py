"""Which topics the bridges' groups have begun to read, and since when the messages are theirs.

Kafka forgets a group's offsets, and a topic can come later than the group: then it is this that tells a group that
has begun from one that is to be told where to.
"""

from collections.abc import Mapping
from typing import Final

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from lern.ledger.database import Database
from lern.ledger.schema import beginnings

_PLACE: Final = ["consumer_group", "topic"]
_BEGIN: Final = {
    "sqlite": sqlite.insert(beginnings).on_conflict_do_nothing(index_elements=_PLACE),
    "postgresql": postgresql.insert(beginnings).on_conflict_do_nothing(index_elements=_PLACE),
}


class Beginnings:
    """The part of the ledger that knows where reading has begun."""

    _database: Database

    def beginnings(self, group: str) -> dict[str, int]:
        """Give the topics that a group has begun to read, each with the time (ms) since which its messages count."""
        query = sa.select(beginnings.c.topic, beginnings.c.since).where(beginnings.c.consumer_group == group)
        with self._database.read() as connection:
            return {row.topic: row.since for row in connection.execute(query)}

    def begin_topics(self, group: str, since: Mapping[str, int]) -> None:
        """Write down that a group has begun to read topics. What was written down first stays."""
        rows = [{"consumer_group": group, "topic": topic, "since": time} for topic, time in since.items()]
        if rows:
            with self._database.write() as connection:
                connection.execute(_BEGIN[connection.dialect.name], rows)
