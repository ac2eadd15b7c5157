"""Events that can never become runs, kept with their reason and their bytes."""

import hashlib
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from lern.ledger import audit
from lern.ledger.database import Database
from lern.ledger.records import DeadLetter, DeadState, NewDeadLetter, safe
from lern.ledger.schema import dead_letters

_Insert = postgresql.Insert | sqlite.Insert

_ONE: Final = sa.select(dead_letters).where(dead_letters.c.id == sa.bindparam("dead_id"))
_REPLAYED: Final = (
    dead_letters.update()
    .where(dead_letters.c.id == sa.bindparam("dead_id"), dead_letters.c.state == "open")
    .values(state="replayed", run_id=sa.bindparam("run"))
)


def _counted(insert: _Insert) -> _Insert:
    """Make an insert that counts a letter that is there already, and opens it again.

    A place that is no later in its partition is the bridge reading again after a crash, which is no repeat. Only the
    latest place is known, so what lies in two partitions may be counted once more when both are read again.
    """
    new, old = insert.excluded, dead_letters.c
    read_again = sa.and_(old.partition == new.partition, new.offset <= old.offset)
    renewed = ("partition", "key", "code", "field", "reason", "last_at", "state")
    return insert.on_conflict_do_update(
        index_elements=["topic", "hash"],
        set_={
            **{name: new[name] for name in renewed},
            "offset": sa.case((read_again, old.offset), else_=new.offset),
            "count": old.count + sa.case((read_again, 0), else_=1),
        },
    )


_KEEP: Final = {
    "sqlite": _counted(sqlite.insert(dead_letters)),
    "postgresql": _counted(postgresql.insert(dead_letters)),
}


def keep(connection: sa.Connection, dead: list[NewDeadLetter], now: int) -> None:
    """Keep dead letters, within the caller's transaction."""
    statement = _KEEP[connection.dialect.name]
    for letter in dead:
        connection.execute(statement, _values(letter, now))


def _values(letter: NewDeadLetter, now: int) -> dict[str, Any]:
    return {
        "topic": safe(letter.topic),
        "hash": hashlib.sha256(letter.value).hexdigest(),
        "partition": letter.partition,
        "offset": letter.offset,
        "key": letter.key,
        "value": letter.value,
        "code": letter.code,
        "field": safe(letter.field),
        "reason": safe(letter.reason),
        "count": 1,
        "first_at": now,
        "last_at": now,
        "state": "open",
    }


class DeadLetters:
    """The part of the ledger that knows which events became no run, and why."""

    _database: Database

    def dead_letters(
        self,
        *,
        state: DeadState | None = None,
        code: str | None = None,
        topic: str | None = None,
        text: str | None = None,
        limit: int = 100,
        after: tuple[int, int] | None = None,
    ) -> list[DeadLetter]:
        """List dead letters, the latest first; what is None does not restrict.

        `text` is found in the reason, whatever the case. `after`: (last_at, id) of the last one of the page before.
        """
        letters = dead_letters.c
        query = sa.select(dead_letters).order_by(letters.last_at.desc(), letters.id.desc()).limit(limit)
        for column, value in ((letters.state, state), (letters.code, code), (letters.topic, topic)):
            if value is not None:
                query = query.where(column == value)
        if text is not None:
            query = query.where(letters.reason.icontains(text, autoescape=True))
        if after is not None:
            query = query.where(sa.tuple_(letters.last_at, letters.id) < sa.tuple_(*after))
        with self._database.read() as connection:
            return [DeadLetter(*row) for row in connection.execute(query)]

    def dead_letter(self, dead_id: int) -> DeadLetter | None:
        """Give one dead letter, None if there is none of this id."""
        with self._database.read() as connection:
            row = connection.execute(_ONE, {"dead_id": dead_id}).first()
        return None if row is None else DeadLetter(*row)

    def replayed(self, dead_id: int, now: int, who: str, run_id: str | None = None) -> bool:
        """Note that a dead letter was taken in again, as run `run_id` if it became one.

        False if it is not there or someone else was quicker: then nothing has changed.
        """
        with self._database.write() as connection:
            changed = connection.execute(_REPLAYED, {"dead_id": dead_id, "run": run_id}).rowcount == 1
            if changed:
                audit.note(connection, audit.Act(now, who, "replay", run_id=run_id, dead_id=dead_id))
            return changed
