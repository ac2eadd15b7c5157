"""The journal: what a chunk read and is about to do, saved before it writes."""

import json
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from lern.errors import LockLost
from lern.ledger import contributed, outbox, runs
from lern.ledger.database import Database
from lern.ledger.prepared import Prepared
from lern.ledger.records import Chunk, Contributions, NewChunk, packed, text_of, unpacked
from lern.ledger.schema import chunks
from lern.outgoing import OutgoingEvent
from lern.store.tables import Key

_PLACE: Final = ["run_id", "step", "number"]
_COLUMNS: Final = (
    chunks.c.id,
    chunks.c.run_id,
    chunks.c.step,
    chunks.c.number,
    chunks.c.kind,
    chunks.c.source,
    chunks.c.target,
    chunks.c.state,
    chunks.c.counts,
    chunks.c.created_at,
    chunks.c.ended_at,
    chunks.c.payload,
    chunks.c.scope,
)
_COUNTS: Final = 8
_ADD: Final = Prepared(
    {
        "sqlite": sqlite.insert(chunks).on_conflict_do_nothing(index_elements=_PLACE).returning(chunks.c.id),
        "postgresql": postgresql.insert(chunks).on_conflict_do_nothing(index_elements=_PLACE).returning(chunks.c.id),
    }
)
_AT: Final = sa.select(*_COLUMNS).where(
    chunks.c.run_id == sa.bindparam("run_id"),
    chunks.c.step == sa.bindparam("step"),
    chunks.c.number == sa.bindparam("number"),
)
_MARK: Final = Prepared(
    chunks.update()
    .where(chunks.c.id == sa.bindparam("chunk_id"), chunks.c.state == "open")
    .values(state="done", counts=sa.bindparam("new_counts"), ended_at=sa.bindparam("now"))
    .returning(chunks.c.source)
)
_USERS: Final[sa.BindParameter[str]] = sa.bindparam("users", expanding=True)
_KINDS: Final[sa.BindParameter[str]] = sa.bindparam("kinds", expanding=True)
# The word is written out, because a database takes an index over some rows only if it sees that they suffice.
_IS_OPEN: Final = sa.text("state = 'open'")
# Two small questions, because SQLite answers "source or target" by reading the whole table.
_OPEN: Final = (
    sa.select(*_COLUMNS)
    .where(
        chunks.c.id.in_(
            sa.union_all(
                sa.select(chunks.c.id).where(_IS_OPEN, chunks.c.source.in_(_USERS)),
                sa.select(chunks.c.id).where(_IS_OPEN, chunks.c.target.in_(_USERS)),
            )
        )
    )
    .order_by(chunks.c.id)
)
_OPEN_OF_KINDS: Final = _OPEN.where(chunks.c.kind.in_(_KINDS))
_ONE: Final = sa.select(*_COLUMNS).where(chunks.c.id == sa.bindparam("chunk_id"))
_LAST: Final = Prepared(
    sa.select(sa.func.max(chunks.c.number)).where(
        chunks.c.run_id == sa.bindparam("run_id"), chunks.c.step == sa.bindparam("step")
    )
)
_COUNTED: Final = Prepared(
    sa.select(chunks.c.counts)
    .where(chunks.c.run_id == sa.bindparam("run_id"), chunks.c.step == sa.bindparam("step"))
    .order_by(chunks.c.id)
)


def _scopes_of(column: "sa.Column[str]") -> Prepared:
    return Prepared(
        sa.select(chunks.c.id, chunks.c.scope)
        .where(column == sa.bindparam("of"), chunks.c.scope.is_not(None), chunks.c.id > sa.bindparam("last"))
        .order_by(chunks.c.id)
        .limit(sa.bindparam("limit"))
    )


_SCOPES_OF_RUN: Final = _scopes_of(chunks.c.run_id)
_SCOPES_OF_SOURCE: Final = _scopes_of(chunks.c.source)

# How many are in memory at once, packed: a payload may have some hundred kilobytes, a scope a few.
_PAYLOADS: Final = 4
_SCOPES: Final = 64


class Journal:
    """The part of the ledger that remembers what was to be done to rows."""

    _database: Database

    def journal(self, chunk: NewChunk, events: Sequence[OutgoingEvent], now: int, *, token: str | None = None) -> Chunk:
        """Save a chunk and the events that announce it, durably, before anything of it is written.

        Whoever comes second at (run, step, number) is given the first's chunk (`new` False), and its own
        events are dropped. With `token`, only the execution that holds the run's step may journal; any
        other gets `LockLost`: a worker that was away too long would plan over its successor's work.
        """
        values = _values(chunk, now)
        with self._database.write() as connection:
            if token is not None:
                run = runs.lock(connection, chunk.run_id)
                if run is None or (run.token, run.step) != (token, chunk.step):
                    raise LockLost(f"{chunk.step} was taken over by another worker")
            chunk_id = _ADD.scalar(connection, **values)
            if chunk_id is None:
                place = {name: values[name] for name in _PLACE}
                return _chunk_of(connection.execute(_AT, place).one())
            outbox.plan(connection, chunk.run_id, chunk.step, events, now)
        return Chunk(
            id=chunk_id,
            run_id=chunk.run_id,
            step=chunk.step,
            number=chunk.number,
            kind=chunk.kind,
            source=chunk.source,
            target=chunk.target,
            state="open",
            counts={},
            created_at=now,
            ended_at=None,
            packed_payload=values["payload"],
            packed_scope=values["scope"],
            new=True,
        )

    def mark(self, chunk_id: int, counts: Mapping[str, Any], given: Contributions, now: int) -> None:
        """Mark a chunk as carried out, with what its source's rows have given to counters.

        `counts`: numbers by name, and `warnings`, a list of texts. Marking it again changes nothing,
        whatever is given then. Losing the mark in a power failure is harmless until something durable was based on
        it, and with that it is saved: the chunk is carried out again, which changes nothing.
        """
        with self._database.write(durable=False) as connection:
            source = _MARK.scalar(connection, chunk_id=chunk_id, new_counts=text_of(dict(counts)), now=now)
            if source is not None:
                contributed.remember(connection, source, given)

    def open_chunks(self, users: Collection[str], kinds: Collection[str] | None = None) -> list[Chunk]:
        """Give the unmarked chunks of any run that name one of the users, the earliest first. `kinds`: of these."""
        query, values = (_OPEN, {}) if kinds is None else (_OPEN_OF_KINDS, {"kinds": list(kinds)})
        with self._database.read() as connection:
            return [_chunk_of(row) for row in connection.execute(query, {"users": sorted(users), **values})]

    def later_chunks(self, than: Chunk, user: str, kinds: Collection[str]) -> Iterator[Chunk]:
        """Give the chunks of some kinds that other runs have journalled about a user after a chunk, the earliest first.

        As `chunks` does. It goes through whatever was journalled since: for a run that is seldom far behind.
        """
        query = sa.select(*_COLUMNS).where(
            chunks.c.id > than.id,
            chunks.c.run_id != than.run_id,
            chunks.c.kind.in_(list(kinds)),
            sa.or_(chunks.c.source == user, chunks.c.target == user),
        )
        yield from map(_chunk_of, self._paged(query.order_by(chunks.c.id), _PAYLOADS))

    def chunks(self, run_id: str, step: str | None = None, *, newest_first: bool = False) -> Iterator[Chunk]:
        """Give the chunks of a run, or of one step of it, in the order in which they were journalled.

        A few at a time are in memory, and no connection is held between them.
        """
        query = sa.select(*_COLUMNS).where(chunks.c.run_id == run_id)
        if step is not None:
            query = query.where(chunks.c.step == step)
        query = query.order_by(chunks.c.id.desc() if newest_first else chunks.c.id)
        for row in self._paged(query, _PAYLOADS, newest_first=newest_first):
            yield _chunk_of(row)

    def next_number(self, run_id: str, step: str) -> int:
        """Give the number that the next chunk of a step is to have, from 1."""
        with self._database.read() as connection:
            return int(_LAST.scalar(connection, run_id=run_id, step=step) or 0) + 1

    def chunk(self, chunk_id: int) -> Chunk | None:
        """Give one chunk, None if there is none of this id."""
        with self._database.read() as connection:
            row = connection.execute(_ONE, {"chunk_id": chunk_id}).first()
        return None if row is None else _chunk_of(row)

    def tally(self, run_id: str, step: str) -> tuple[dict[str, int], list[str]]:
        """Add up the counts of a step's marked chunks, whichever attempt carried them out, and list their warnings."""
        total: Counter[str] = Counter()
        warnings: dict[str, None] = {}
        with self._database.read() as connection:
            for (text,) in _COUNTED.all(connection, run_id=run_id, step=step):
                counts = json.loads(text)
                warnings.update(dict.fromkeys(counts.pop("warnings", ())))
                total.update(counts)
        return dict(total), list(warnings)

    def scope_of_run(self, run_id: str) -> Iterator[Any]:
        """Give the scope of each chunk of a run, in order. In bounded memory; chunks without one are left out."""
        return self._scopes(_SCOPES_OF_RUN, run_id)

    def scope_of_source(self, source: str) -> Iterator[Any]:
        """Give the scope of each chunk that ever moved rows away from an account, as `scope_of_run` does."""
        return self._scopes(_SCOPES_OF_SOURCE, source)

    def contributed(self, source: str, table: str, identities: Iterable[Key]) -> dict[Key, dict[str, int]]:
        """Give what a source's rows have given to counters so far; rows that gave nothing are left out."""
        with self._database.read() as connection:
            return dict(contributed.read(connection, source, table, identities))

    def _scopes(self, statement: Prepared, of: str) -> Iterator[Any]:
        last, is_full = 0, True
        while is_full:
            with self._database.read() as connection:
                rows = statement.all(connection, of=of, last=last, limit=_SCOPES)
            yield from (unpacked(scope) for _, scope in rows)
            is_full = len(rows) == _SCOPES
            last = rows[-1][0] if rows else last

    def _paged(self, query: "sa.Select[Any]", page: int, *, newest_first: bool = False) -> Iterator["sa.Row[Any]"]:
        """Read page by page, by id."""
        last = sa.bindparam("last", type_=sa.BigInteger)
        beyond = query.where(chunks.c.id < last if newest_first else chunks.c.id > last).limit(page)
        with self._database.read() as connection:
            rows = connection.execute(query.limit(page)).all()
        while rows:
            yield from rows
            if len(rows) < page:
                return
            with self._database.read() as connection:
                rows = connection.execute(beyond, {"last": rows[-1].id}).all()


def _values(chunk: NewChunk, now: int) -> dict[str, Any]:
    return {
        "run_id": chunk.run_id,
        "step": chunk.step,
        "number": chunk.number,
        "kind": chunk.kind,
        "source": chunk.source,
        "target": chunk.target,
        "state": "open",
        "counts": "{}",
        "created_at": now,
        "scope": None if chunk.scope is None else packed(chunk.scope),
        "payload": packed(chunk.payload),
    }


def _chunk_of(row: Sequence[Any]) -> Chunk:
    values = list(row)
    values[_COUNTS] = json.loads(values[_COUNTS])
    return Chunk(*values)
