"""A chunk of the batch enrolment sync: enrolments whose progress is computed again from their contents.

The rows are not sums or maxima of two accounts but what the target's own content rows say, so settling
reads those again every time: a live writer's newer content counts as well.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Self

from lern import events
from lern.chunks import Carried, Json
from lern.outgoing import OutgoingEvent
from lern.relations import Relations
from lern.rules.enrolments import COMPLETED, ghost
from lern.rules.merge import difference
from lern.rules.progress import Progress, course_progress, settle_aggregate, settle_enrolment
from lern.rules.progress import Relations as Nodes
from lern.rules.rule import same
from lern.store import rows as lines
from lern.store.base import Change, Store, Unit
from lern.store.tables import TABLES, USER_ACTIVITY_AGG, USER_CONTENT_CONSUMPTION, USER_ENROLMENTS, Key, Row

KIND: Final = "sync"
# Rows read at once.
PAGE: Final = 1000


@dataclass(frozen=True)
class Item:
    """One enrolment to compute again. `before` and `wanted` are rows by (table, key), for undo and for show."""

    course: str
    batch: str
    nodes: Nodes
    units: Mapping[str, Nodes]
    before: Mapping[tuple[str, Key], Row]
    wanted: Mapping[tuple[str, Key], Row]


@dataclass(frozen=True)
class SyncChunk:
    """Enrolments of one learner. `time` (ms) is the event's: what is written must not depend on the clock."""

    user: str
    time: int
    items: tuple[Item, ...]

    @classmethod
    def from_payload(cls, payload: Mapping[str, Any]) -> Self:
        """Read a chunk back from the journal."""
        return cls(payload["user"], payload["time"], tuple(_item(raw) for raw in payload["items"]))

    def to_payload(self) -> Json:
        """Give what the journal keeps."""
        return {"user": self.user, "time": self.time, "items": [_raw(item) for item in self.items]}

    def carry_out(self, store: Store, guard: Callable[[], None]) -> Carried:
        """Bring enrolments and aggregates to what the content rows say.

        No enrolment is completed that was not journalled as such, and so announced: a learner who came to the end
        since is for the next plan, which has the events for it.
        """
        if not self.items:
            return Carried({})
        held_back: set[Key] = set()
        with store.unit(guard) as unit:
            unit.settle(USER_ENROLMENTS, [self._key(item) for item in self.items], self._enrolments(unit, held_back))
            aggregates = [(item, activity) for item in self.items for activity in (item.course, *item.units)]
            keys = [aggregate_key(self.user, activity, item.batch) for item, activity in aggregates]
            unit.settle(USER_ACTIVITY_AGG, keys, self._aggregates(unit))
        changed = self._to_change
        rows = {name: {"computed": number} for name, number in changed.items()}
        return Carried({"computed": changed.total()}, rows=rows, again=bool(held_back))

    @property
    def rows_to_change(self) -> int:
        """How many rows are to become others. By the journal: who finishes a chunk of the dead finds less to write."""
        return self._to_change.total()

    @property
    def _to_change(self) -> Counter[str]:
        """Count these rows by table."""
        rows = ((place, item.before.get(place), row) for item in self.items for place, row in item.wanted.items())
        return Counter(table for (table, _), before, row in rows if not same(before, row))

    def _key(self, item: Item) -> Key:
        return (self.user, item.course, item.batch)

    def _progress(self, unit: Unit, item: Item) -> Progress:
        contents = Contents(unit, (self.user, item.course, item.batch))
        return course_progress(contents, item.nodes, item.units, self.time)

    def _enrolments(self, unit: Unit, held_back: set[Key]) -> Callable[[Mapping[Key, Row]], Iterator[Change]]:
        def decide(current: Mapping[Key, Row]) -> Iterator[Change]:
            held_back.clear()
            for item in self.items:
                key = self._key(item)
                row = current.get(key)
                if row is None or ghost(row):
                    continue
                progress = self._progress(unit, item)
                may_complete = item.wanted[USER_ENROLMENTS.name, key].get("status") == COMPLETED
                if progress.complete and not may_complete:
                    held_back.add(key)
                wanted = settle_enrolment(row, progress, self.time, may_complete=may_complete)
                change = difference(USER_ENROLMENTS, row, wanted)
                if change is not None:
                    yield change

        return decide

    def _aggregates(self, unit: Unit) -> Callable[[Mapping[Key, Row]], Iterator[Change]]:
        def decide(current: Mapping[Key, Row]) -> Iterator[Change]:
            for item in self.items:
                progress = self._progress(unit, item)
                wanted = wanted_aggregates(self.user, item, progress, current, self.time)
                for key, row in wanted.items():
                    change = difference(USER_ACTIVITY_AGG, current.get(key), row)
                    if change is not None:
                        yield change

        return decide


def wanted_aggregates(
    user: str, item: Item, progress: Progress, current: Mapping[Key, Row], time: int
) -> dict[Key, Row]:
    """Give the aggregate rows of an enrolment's course and units as the progress says they are."""
    counts = {item.course: progress.completed_count, **progress.unit_counts}
    floor = item.before.get((USER_ENROLMENTS.name, (user, item.course, item.batch)), {}).get("status") == COMPLETED
    result: dict[Key, Row] = {}
    for activity, count in counts.items():
        key = aggregate_key(user, activity, item.batch)
        row = settle_aggregate(current.get(key), key, count, time, floor=floor)
        if row is not None:
            result[key] = row
    return result


def aggregate_key(user: str, activity: str, batch: str) -> Key:
    """Give the key of an activity's aggregates: the literal type `Course` also for units, context `cb:<batch>`."""
    return ("Course", activity, user, f"cb:{batch}")


class Contents:
    """A learner's contents of one course and batch, read page by page each time they are gone over.

    A single page is kept: nearly every course fits one, and is then read once.
    """

    def __init__(self, reader: Store | Unit, where: Key) -> None:
        """Read from a store, or within a unit."""
        self._reader = reader
        self._where = where
        self._only: list[Row] | None = None

    def __iter__(self) -> Iterator[Row]:
        """Go over the rows."""
        for page in self.pages():
            yield from page

    def pages(self) -> Iterator[list[Row]]:
        """Go over the rows a page at a time."""
        if self._only is not None:
            yield self._only
            return
        after: Key | None = None
        while True:
            page = self._reader.rows(USER_CONTENT_CONSUMPTION, self._where, after, PAGE)
            if after is None and len(page) < PAGE:
                self._only = page
            yield page
            if len(page) < PAGE:
                return
            after = USER_CONTENT_CONSUMPTION.order_of(page[-1])


@dataclass(frozen=True)
class Topics:
    """Where the events of the sync go."""

    job_request: str
    certificate: str
    telemetry: str


@dataclass(frozen=True)
class Synced:
    """A planned chunk with its events, and the courses whose relations are missing."""

    chunk: SyncChunk
    events: tuple[OutgoingEvent, ...]
    unknown: tuple[str, ...]


@dataclass(frozen=True)
class Planner:
    """Plans the sync of one learner's enrolments for one run."""

    store: Store
    relations: Relations
    topics: Topics
    run: str
    user: str
    time: int
    _nodes: dict[tuple[str, str], Nodes] = field(default_factory=dict)

    def plan(self, pairs: Sequence[tuple[str, str]]) -> Synced:
        """Plan the enrolments of some (course, batch) pairs that the learner really has."""
        # Those of courses that were planned before would add up.
        self._nodes.clear()
        keys = [(self.user, course, batch) for course, batch in pairs]
        enrolments = self.store.read(USER_ENROLMENTS, keys)
        real = [key for key, row in enrolments.items() if not ghost(row)]
        self._read_nodes(sorted({(course, course) for _, course, _ in real}))
        items: list[Item] = []
        outgoing: list[OutgoingEvent] = []
        unknown: list[str] = []
        for key in sorted(real):
            row = enrolments[key]
            _, course, batch = key
            outgoing.append(
                events.enrolment_sync(self.topics.job_request, self.run, self.time, self.user, course, batch)
            )
            nodes = self._nodes_of(course, [course])[course]
            if not nodes.leafnodes:
                unknown.append(course)
                continue
            item, completed = self._item(row, course, batch, nodes)
            items.append(item)
            outgoing.extend(self._completed(course, batch) if completed else ())
        return Synced(SyncChunk(self.user, self.time, tuple(items)), tuple(outgoing), tuple(unknown))

    def _item(self, row: Row, course: str, batch: str, nodes: Nodes) -> tuple[Item, bool]:
        contents = Contents(self.store, (self.user, course, batch))
        units = self._units(course, contents)
        unit_nodes = {unit: found for unit, found in self._nodes_of(course, units).items() if found.leafnodes}
        progress = course_progress(contents, nodes, unit_nodes, self.time)
        keys = [aggregate_key(self.user, activity, batch) for activity in (course, *unit_nodes)]
        aggregates = self.store.read(USER_ACTIVITY_AGG, keys)
        enrolment_key = (USER_ENROLMENTS.name, (self.user, course, batch))
        before = {enrolment_key: row, **{(USER_ACTIVITY_AGG.name, key): agg for key, agg in aggregates.items()}}
        bare = Item(course, batch, nodes, unit_nodes, before, {})
        enrolment = settle_enrolment(row, progress, self.time)
        wanted_rows = wanted_aggregates(self.user, bare, progress, aggregates, self.time)
        wanted = {enrolment_key: enrolment, **{(USER_ACTIVITY_AGG.name, k): v for k, v in wanted_rows.items()}}
        completed = row.get("status") != COMPLETED and enrolment.get("status") == COMPLETED
        return Item(course, batch, nodes, unit_nodes, before, wanted), completed

    def _units(self, course: str, contents: "Contents") -> list[str]:
        """Give the units above the contents, the course itself left out."""
        found: set[str] = set()
        for page in contents.pages():
            above = self.relations.above({course: [content["contentid"] for content in page]})
            found |= above[course].collections
        return sorted(found - {course})

    def _completed(self, course: str, batch: str) -> Iterable[OutgoingEvent]:
        arguments = (self.run, self.time, self.user, course, batch)
        yield events.issue_certificate(self.topics.certificate, *arguments)
        yield events.enrolment_completed(self.topics.telemetry, *arguments)

    def _nodes_of(self, course: str, collections: Sequence[str]) -> dict[str, Nodes]:
        """Read leaf and optional nodes, once for a plan: an enrolment's units come up again and again."""
        missing = [c for c in collections if (course, c) not in self._nodes]
        if missing:
            self._read_nodes([(course, collection) for collection in missing])
        return {collection: self._nodes[course, collection] for collection in collections}

    def _read_nodes(self, collections: Sequence[tuple[str, str]]) -> None:
        for collection, nodes in zip(collections, self.relations.nodes(collections), strict=True):
            self._nodes[collection] = nodes


def _raw(item: Item) -> Json:
    return {
        "course": item.course,
        "batch": item.batch,
        "nodes": _raw_nodes(item.nodes),
        "units": {unit: _raw_nodes(nodes) for unit, nodes in item.units.items()},
        "before": _raw_rows(item.before),
        "wanted": _raw_rows(item.wanted),
    }


def _raw_nodes(nodes: Nodes) -> list[list[str]]:
    return [sorted(nodes.leafnodes), sorted(nodes.optional)]


def _raw_rows(rows: Mapping[tuple[str, Key], Row]) -> list[list[Any]]:
    return [[table, list(key), lines.pack(TABLES[table], row)] for (table, key), row in rows.items()]


def _item(raw: Mapping[str, Any]) -> Item:
    return Item(
        raw["course"],
        raw["batch"],
        _nodes(raw["nodes"]),
        {unit: _nodes(nodes) for unit, nodes in raw["units"].items()},
        _rows(raw["before"]),
        _rows(raw["wanted"]),
    )


def _nodes(raw: Sequence[Sequence[str]]) -> Nodes:
    return Nodes(frozenset(raw[0]), frozenset(raw[1]))


def _rows(raw: Iterable[Sequence[Any]]) -> dict[tuple[str, Key], Row]:
    return {(table, tuple(key)): lines.unpack(TABLES[table], row) for table, key, row in raw}
