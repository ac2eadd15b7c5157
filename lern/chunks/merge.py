"""A chunk of the merge: source rows of one table, and the target rows they are merged into."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any, Final, NamedTuple, Self

from lern.chunks import Carried, Contributed, Counts, Json
from lern.ledger import Ledger
from lern.rules.merge import COUNTERS, EnrolmentPolicy, difference, keeps, settle
from lern.store import rows as lines
from lern.store.base import Change, First, Look, Store
from lern.store.tables import TABLES, Key, Row, Table, picking

KIND: Final = "merge"


class Entry(NamedTuple):
    """One source row of a chunk.

    `before`: the target's row when the chunk was journalled, None if it did not stand.
    `contributed`: what the source row's counters had given already. `remove`: whether the source row
    is to be deleted once its target is in place.
    """

    source: Row
    before: Row | None
    contributed: Mapping[str, int]
    remove: bool


@dataclass(frozen=True)
class MergeChunk:
    """Rows of one table on their way from the source's account to the target's."""

    table: Table
    source: str
    target: str
    policy: EnrolmentPolicy
    entries: tuple[Entry, ...]
    # A later check settles again what an earlier chunk has settled: nothing is contributed a second time.
    again: bool = False
    # What was made of the very read that was journalled, in the process that did both; nobody else has it.
    first: First | None = field(default=None, compare=False, repr=False)

    @classmethod
    def from_payload(cls, payload: Mapping[str, Any]) -> Self:
        """Read a chunk back from the journal."""
        table = TABLES[payload["table"]]
        return cls(
            table,
            payload["source"],
            payload["target"],
            EnrolmentPolicy(payload["policy"]),
            tuple(
                Entry(
                    lines.unpack(table, source),
                    None if before is None else lines.unpack(table, before),
                    contributed,
                    remove,
                )
                for source, before, contributed, remove in payload["entries"]
            ),
            payload["again"],
        )

    def to_payload(self) -> Json:
        """Give what the journal keeps."""
        table = self.table
        return {
            "table": table.name,
            "source": self.source,
            "target": self.target,
            "policy": self.policy.value,
            "entries": [
                [
                    lines.pack(table, e.source),
                    None if e.before is None else lines.pack(table, e.before),
                    dict(e.contributed),
                    e.remove,
                ]
                for e in self.entries
            ],
            "again": self.again,
        }

    def target_keys(self) -> list[Key]:
        """Give the primary keys at the target, in the order of the entries."""
        table, target = self.table, self.target
        return [key_at(table, entry.source, target) for entry in self.entries]

    def wanted(self, entry: Entry, current: Row | None) -> Row | None:
        """Give the row that the target is to hold, seen from the row it holds now."""
        source = self.table.with_user(entry.source, self.target)
        return settle(self.table, current, source, entry.before, entry.contributed, self.policy)

    def carry_out(self, store: Store, guard: Callable[[], None]) -> Carried:
        """Settle the target's rows, then delete the source rows that have not changed since."""
        if not self.entries:
            return Carried({})
        by_key = dict(zip(self.target_keys(), self.entries, strict=True))

        def decide(current: Mapping[Key, Row]) -> Iterator[Change]:
            for key, entry in by_key.items():
                row = current.get(key)
                wanted = self.wanted(entry, row)
                change = None if wanted is None else difference(self.table, row, wanted)
                if change is not None:
                    yield change

        removable = [entry.source for entry in self.entries if entry.remove]
        with store.unit(guard) as unit:
            unit.settle(self.table, by_key.keys(), decide, self.first, removable)
            changed = unit.remove(self.table, removable) if removable else []
        counts = {"mended": len(self.entries)} if self.again else self._counts(len(removable) - len(changed))
        contributed = {} if self.again else self._contributions(changed)
        return Carried(counts, contributed, rows={self.table.name: counts})

    def taken_back(self, store: Store) -> "MergeChunk | None":
        """Give the part of this chunk that somebody has taken back since, as a chunk that settles it again.

        A slow writer's stale row does that: it was read before the merge and written after it. What only
        moves forward can be told from that; a learner who has left a batch since cannot, so whether an
        enrolment is active is not looked at. A row that is gone was moved or deleted since, and stays so.
        """
        current = store.read(self.table, self.target_keys())
        entries: list[Entry] = []
        for entry, key in zip(self.entries, self.target_keys(), strict=True):
            row = current.get(key)
            if row is None:
                continue
            source = {column: value for column, value in entry.source.items() if column != "active"}
            again = Entry(source, entry.before, entry.contributed, remove=False)
            wanted = self.wanted(again, row)
            if wanted is not None and difference(self.table, row, wanted) is not None:
                entries.append(again)
        return replace(self, entries=tuple(entries), again=True) if entries else None

    def _counts(self, deleted: int) -> Counts:
        outcome = Counter("copied" if entry.before is None else "merged" for entry in self.entries)
        return {"read": len(self.entries), "copied": outcome["copied"], "merged": outcome["merged"], "deleted": deleted}

    def _contributions(self, changed: Sequence[Row]) -> Contributed:
        """Remember what the rows that still stand have given; forget the rows that are gone."""
        columns = COUNTERS.get(self.table.name)
        if not columns:
            return {}
        standing = {self.table.key_of(row) for row in changed}
        result: Contributed = {}
        for entry in self.entries:
            gone = entry.remove and (not standing or self.table.key_of(entry.source) not in standing)
            if gone and not entry.contributed:
                continue
            given = {c: entry.source[c] for c in columns if c in entry.source}
            result[self.table.name, identity_of(self.table, entry.source)] = None if gone else given
        return result


@dataclass(frozen=True)
class Planned:
    """A planned chunk, empty where there is nothing to do, and the source rows that must stay, with the reason."""

    chunk: MergeChunk
    left: tuple[tuple[Key, str], ...]


@dataclass(frozen=True)
class Planner:
    """Plans chunks of one merge. `keep` leaves source rows (`LERN_MERGE_SOURCE_ROWS=keep`)."""

    store: Store
    ledger: Ledger
    source: str
    target: str
    policy: EnrolmentPolicy
    keep: bool

    def look(self, table: Table, rows: Sequence[Row]) -> Look:
        """Read the targets of some source rows."""
        return self.store.look(table, [key_at(table, row, self.target) for row in rows])

    def plan(self, table: Table, rows: Sequence[Row], look: Look) -> Planned:
        """Say what is to be done with some source rows, whose targets are as that look has found them."""
        current = look.rows
        contributed = self._contributed(table, rows)
        nothing: Mapping[str, int] = {}
        entries: list[Entry] = []
        left: list[tuple[Key, str]] = []
        changes: list[Change] = []
        for row in rows:
            before = current.get(key_at(table, row, self.target))
            given = contributed.get(identity_of(table, row), nothing) if contributed else nothing
            at_target = table.with_user(row, self.target)
            wanted = settle(table, before, at_target, before, given, self.policy)
            reason = keeps(table, wanted, row, self.policy)
            if reason is not None:
                left.append((table.key_of(row), reason))
            remove = not self.keep and reason is None
            # Where the look is not what is begun with, the decision is made again anyway.
            matters = not remove or look.at is not None
            change = difference(table, before, wanted) if matters and wanted is not None else None
            if change is not None:
                changes.append(change)
            if remove or change is not None:
                entries.append(Entry(row, before, given, remove))
        first = First(look, changes) if look.at is not None else None
        chunk = MergeChunk(table, self.source, self.target, self.policy, tuple(entries), first=first)
        return Planned(chunk, tuple(left))

    def _contributed(self, table: Table, rows: Sequence[Row]) -> Mapping[Key, Mapping[str, int]]:
        if table.name not in COUNTERS:
            return {}
        return self.ledger.contributed(self.source, table.name, (identity_of(table, row) for row in rows))


def identity_of(table: Table, row: Row) -> Key:
    """Give a row's primary key without the user: what two accounts' rows are matched by."""
    before, after = _around_user(table)
    return (*before(row), *after(row))


def key_at(table: Table, row: Row, user: str) -> Key:
    """Give the primary key that a row has in another learner's account."""
    before, after = _around_user(table)
    return (*before(row), user, *after(row))


@cache
def _around_user(table: Table) -> tuple[Callable[[Row], Key], Callable[[Row], Key]]:
    at = table.key.index(str(table.user))
    return picking(table.key[:at]), picking(table.key[at + 1 :])


def scope_of(table: Table, rows: Iterable[Row], course_of: Mapping[str, str]) -> Json:
    """Give what later steps need to know of source rows: course → batch → contents.

    `course_of` leads from a unit to its course; aggregates name only the unit.
    """
    scope: dict[str, dict[str, list[str]]] = {}
    for row in rows:
        course, batch, content = place_of(table, row)
        contents = scope.setdefault(course_of.get(course, course), {}).setdefault(batch, [])
        if content is not None:
            contents.append(content)
    return scope


def place_of(table: Table, row: Row) -> tuple[str, str, str | None]:
    """Give the course, the batch and the content that a row is about (content None where it has none)."""
    if table.name == "user_activity_agg":
        return row["activity_id"], row["context_id"].removeprefix("cb:"), None
    if table.name == "assessment_aggregator":
        return row["course_id"], row["batch_id"], row["content_id"]
    return row.get("courseid", ""), row["batchid"], row.get("contentid")
