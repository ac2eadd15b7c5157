"""The live services beside a merge, as Cassandra sees them: lms-service, and the jobs of progress and of assessments.

Each reads rows, computes, and writes absolute values: nobody here knows that accounts are being merged.
"""

import json
import random
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from cassandra.cluster import Session
from cassandra.query import BatchStatement, BatchType

from lern.rules.aggregates import identity_of_attempt
from lern.store.base import Store, Unit
from lern.store.tables import (
    ASSESSMENT_AGGREGATOR,
    USER_ACTIVITY_AGG,
    USER_CONTENT_CONSUMPTION,
    USER_ENROLMENTS,
    Key,
    Row,
    Table,
)
from tasks.step import now_ms

COMPLETED: Final = 2
MAX_SCORE: Final = 10.0
TESTED: Final = "c000"  # the content of each course that is an assessment

Meanwhile = Callable[[Table, Sequence[Key], int], None]

# What a learner has got to, by a name for it. It only ever goes forward.
Facts = dict[tuple[str, ...], float]

_FORWARD: Final[Mapping[Table, Sequence[str]]] = {
    USER_CONTENT_CONSUMPTION: (
        "status",
        "progress",
        "completionpercentage",
        "last_access_time",
        "last_completed_time",
        "last_updated_time",
    ),
    USER_ENROLMENTS: ("status", "lastcontentaccesstime", "contentstatus"),
    USER_ACTIVITY_AGG: ("aggregates", "agg_last_updated"),
    ASSESSMENT_AGGREGATOR: ("last_attempted_on",),
}


def facts(table: Table, row: Row) -> Facts:
    """Give what a row says of how far its learner is."""
    key = (table.name, *(str(row[column]) for column in table.key if column != table.user))
    found: Facts = {}
    for column in _FORWARD[table]:
        value = row.get(column)
        if isinstance(value, dict):
            found.update({(*key, column, name): float(entry) for name, entry in value.items()})
        elif value is not None:
            found[*key, column] = float(value)
    found.update({(*key, "attempt", *map(str, identity_of_attempt(text))): 1.0 for text in row.get("agg_details", ())})
    return found


def furthest(several: Sequence[Facts]) -> Facts:
    """Give the furthest of what several rows say."""
    result: Facts = {}
    for some in several:
        for name, value in some.items():
            result[name] = max(value, result.get(name, value))
    return result


@dataclass(frozen=True)
class Written:
    """One write that was acknowledged: when it was sent and confirmed (microseconds), and what it says.

    `seen`: the course and content of which it counts one more view and completion.
    """

    sent: int
    confirmed: int
    table: Table
    row: Row
    seen: Key | None = None


class _Question(NamedTuple):
    """Cassandra's type of that name."""

    id: str
    assess_ts: int
    max_score: float
    score: float
    type: str = "mcq"
    title: str = "title"
    resvalues: Sequence[Mapping[str, str]] = ()
    params: Sequence[Mapping[str, str]] = ()
    description: str = ""
    duration: None = None


@dataclass
class LiveServices:
    """What happens to one account while it is merged into. `units`: of each course, the contents of each unit."""

    session: Session
    user: str
    units: Mapping[str, Mapping[str, Sequence[str]]]
    chance: random.Random = field(default_factory=lambda: random.Random(4))
    written: list[Written] = field(default_factory=list)
    _attempts: int = 0
    _prepared: dict[str, Any] = field(default_factory=dict)

    def something(self) -> None:
        """Do one thing that a learner does."""
        course = self.chance.choice(sorted(self.units))
        what = self.chance.randrange(10)
        if what == 0:
            self.enrol(course)
        elif what == 1:
            self.attempt(course, "shared")
        elif what in {2, 3}:
            self.attempt(course)
        else:
            self.study(course, self._any(course))

    def of(self, table: Table, key: Key) -> None:
        """Do something that changes this row of a table."""
        row = dict(zip(table.key, key, strict=True))
        if table is USER_CONTENT_CONSUMPTION:
            self.study(row["courseid"], row["contentid"])
        elif table is USER_ENROLMENTS:
            self.enrol(row["courseid"])
            self.study(row["courseid"], self._any(row["courseid"]))
        elif table is ASSESSMENT_AGGREGATOR:
            self.attempt(row["course_id"], row["attempt_id"])
            self.attempt(row["course_id"])
        else:
            course = row["context_id"].removeprefix("cb:")
            self.attempt(course)
            self.study(course, self._any(course))

    def _any(self, course: str) -> str:
        return self.chance.choice(sorted(name for unit in self.units[course].values() for name in unit))

    def study(self, course: str, name: str) -> None:
        """Have lms-service take in the state of a content (contracts/lms_service.md 3.2)."""
        is_done, gained, now = self.chance.randrange(4) == 0, self.chance.randrange(30), now_ms()
        key = {"userid": self.user, "courseid": course, "batchid": course, "contentid": name}
        found = self._one("SELECT status, progress FROM user_content_consumption WHERE {}", key)
        status, progress = (found.status or 0, found.progress or 0) if found else (0, 0)
        row: Row = {**key, "last_access_time": now, "last_updated_time": now}
        row["status"] = status = max(status, COMPLETED if is_done else 1)
        row["progress"] = 100 if is_done else max(progress, min(99, progress + gained)) if found else 0
        row["completionpercentage"] = float(row["progress"])
        if is_done:
            row["last_completed_time"] = now
        self._put(USER_CONTENT_CONSUMPTION, row)
        place = {"userid": self.user, "courseid": course, "batchid": course}
        last = {"lastreadcontentid": name, "lastreadcontentstatus": status, "lastcontentaccesstime": now}
        self._put(USER_ENROLMENTS, {**place, **last})
        if is_done:
            self._progress(course, name)

    def enrol(self, course: str) -> None:
        """Have lms-service enrol the learner, unless it finds that he is (3.5)."""
        place = {"userid": self.user, "courseid": course, "batchid": course}
        found = self._one("SELECT active FROM user_enrolments WHERE {}", place)
        if found is None or not found.active:
            now = now_ms()
            new = {"active": True, "enrolled_date": now, "datetime": now, "status": 0, "progress": 0}
            self._put(USER_ENROLMENTS, {**place, **new})

    def attempt(self, course: str, name: str | None = None) -> None:
        """Have the job of assessments take in an attempt, and compute the scores of its course again (jobs.md 7.3)."""
        self._attempts += 1
        now = now_ms()
        key = {
            "user_id": self.user,
            "course_id": course,
            "batch_id": course,
            "content_id": TESTED,
            "attempt_id": name or f"live-{self._attempts}",
        }
        found = self._one("SELECT total_score, created_on FROM assessment_aggregator WHERE {}", key)
        # Nobody does worse the second time, so that scores go forward, too.
        score = min(MAX_SCORE, found.total_score + 0.5) if found else float(self.chance.randrange(9))
        question = _Question(f"q-{self._attempts}", now, MAX_SCORE, score, resvalues=[{"1": "yes"}])
        self._put(
            ASSESSMENT_AGGREGATOR,
            {
                **key,
                "created_on": found.created_on if found else now,
                "last_attempted_on": now,
                "updated_on": now,
                "total_score": score,
                "total_max_score": MAX_SCORE,
                "grand_total": f"{score}/{MAX_SCORE}",
                "question": [question],
            },
        )
        self._scores(course, now)

    def _progress(self, course: str, name: str) -> None:
        """Do what the job of progress does about a content that was completed (jobs.md 7.2)."""
        now = now_ms()
        slice_ = {"userid": self.user, "courseid": course, "batchid": course}
        rows = self._all(
            "SELECT contentid, status, viewcount, completedcount FROM user_content_consumption WHERE {}", slice_
        )
        counts = BatchStatement(BatchType.UNLOGGED)
        for row in rows:
            new = row.contentid == name
            values = ((row.viewcount or 0) + new, (row.completedcount or 0) + new)
            cql = "UPDATE user_content_consumption SET viewcount = ?, completedcount = ? WHERE {}"
            counts.add(*self._bound(cql, {**slice_, "contentid": row.contentid}, values))
        self._send([counts], USER_CONTENT_CONSUMPTION, {**slice_, "contentid": name}, (course, name))
        done = {row.contentid for row in rows if row.status == COMPLETED}
        leaves = {leaf for unit in self.units[course].values() for leaf in unit}
        for activity, wanted in {course: leaves, **self.units[course]}.items():
            self._aggregate(activity, course, {"completedCount": float(len(done & set(wanted)))}, now)
        found = self._one("SELECT status FROM user_enrolments WHERE {}", slice_)
        if found is not None and found.status != COMPLETED:
            state: Row = {"status": 1, "progress": len(done & leaves), "datetime": now}
            state["contentstatus"] = {row.contentid: row.status or 1 for row in rows}
            if done >= leaves:
                state.update(status=COMPLETED, completedon=now)
            self._put(USER_ENROLMENTS, {**slice_, **state})

    def _scores(self, course: str, now: int) -> None:
        slice_ = {"user_id": self.user, "course_id": course, "batch_id": course}
        rows = self._all("SELECT attempt_id, total_score FROM assessment_aggregator WHERE {}", slice_)
        best = max(row.total_score for row in rows)
        scores = {f"score:{TESTED}": best, f"max_score:{TESTED}": MAX_SCORE, f"attempts_count:{TESTED}": len(rows)}
        details = [
            json.dumps({"attempt_id": row.attempt_id, "content_id": TESTED, "score": row.total_score}) for row in rows
        ]
        self._aggregate(course, course, scores, now, details)

    def _aggregate(
        self, activity: str, batch: str, aggregates: Mapping[str, float], now: int, details: Sequence[str] = ()
    ) -> None:
        key = {"activity_type": "Course", "activity_id": activity, "user_id": self.user, "context_id": f"cb:{batch}"}
        updated = dict.fromkeys(aggregates, now)
        row: Row = {**key, "aggregates": dict(aggregates), "agg_last_updated": updated}
        cql = "aggregates = aggregates + ?, agg_last_updated = agg_last_updated + ?"
        values: list[Any] = [aggregates, updated]
        if details:
            row["agg_details"] = list(details)
            cql, values = f"{cql}, agg_details = ?", [*values, list(details)]
        self._send(self._bound(f"UPDATE user_activity_agg SET {cql} WHERE {{}}", key, values), USER_ACTIVITY_AGG, row)  # noqa: S608

    def _put(self, table: Table, row: Row) -> None:
        """Write columns of a row as they are given: of maps and lists, too, nothing else is left."""
        marks = ", ".join("?" * len(row))
        cql = f"INSERT INTO {table.name} ({', '.join(row)}) VALUES ({marks})"  # noqa: S608 - our own tables
        self._send([self._statement(cql), list(row.values())], table, row)

    def _send(self, statement: Sequence[Any], table: Table, row: Row, seen: Key | None = None) -> None:
        sent = time.time_ns() // 1000
        self.session.execute(*statement)
        self.written.append(Written(sent, time.time_ns() // 1000, table, row, seen))

    def _one(self, cql: str, key: Mapping[str, str]) -> Any:
        return next(iter(self._all(cql, key)), None)

    def _all(self, cql: str, key: Mapping[str, str]) -> list[Any]:
        return list(self.session.execute(*self._bound(cql, key)))

    def _bound(self, cql: str, key: Mapping[str, str], values: Sequence[Any] = ()) -> list[Any]:
        where = " AND ".join(f"{column} = ?" for column in key)
        return [self._statement(cql.format(where)), [*values, *key.values()]]

    def _statement(self, cql: str) -> Any:
        if cql not in self._prepared:
            self._prepared[cql] = self.session.prepare(cql)
        return self._prepared[cql]


@contextmanager
def at_work(live: LiveServices) -> Iterator[None]:
    """Have the live services do one thing after the other, as fast as they can, for the length of the block."""
    ending = threading.Event()

    def work() -> None:
        while not ending.is_set():
            live.something()

    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(work)
        try:
            yield
        finally:
            ending.set()
        done.result()


class Between:
    """A store between whose reads and writes something happens to the very rows that were read.

    `meanwhile(table, keys, number)`: called when a settlement begins, whose rows were read when it was planned (number
    0), and before each of its writes (from 1).
    """

    def __init__(self, store: Store, meanwhile: Meanwhile) -> None:
        """Stand before a store."""
        self._store = store
        self._meanwhile = meanwhile
        # One chunk is carried out while the next is planned, by a thread of its own.
        self._lock = threading.Lock()

    def __getattr__(self, name: str) -> Any:
        """Have the store do all that it is not watched at."""
        return getattr(self._store, name)

    @contextmanager
    def unit(self, guard: Callable[[], None]) -> Iterator["UnitBetween"]:
        """Begin a unit that is watched."""
        watched = UnitBetween(self._one_by_one)

        def before_a_write() -> None:
            guard()
            watched.goes_on()

        with self._store.unit(before_a_write) as watched.unit:
            yield watched

    def _one_by_one(self, table: Table, keys: Sequence[Key], number: int) -> None:
        with self._lock:
            self._meanwhile(table, keys, number)


class UnitBetween:
    """A unit of such a store."""

    unit: Unit

    def __init__(self, meanwhile: Meanwhile) -> None:
        """Remember what is to happen."""
        self._meanwhile = meanwhile
        self._settling: tuple[Table, Sequence[Key]] | None = None
        self._number = 0

    def __getattr__(self, name: str) -> Any:
        """Have the unit do all that it is not watched at."""
        return getattr(self.unit, name)

    def settle(self, table: Table, keys: Collection[Key], *more: Any) -> int:
        """Settle, while something happens to the rows."""
        self._settling, self._number = (table, sorted(keys)), -1
        self.goes_on()
        try:
            return self.unit.settle(table, keys, *more)
        finally:
            self._settling = None

    def goes_on(self) -> None:
        """Let it happen, if this is a settlement: a deletion is another matter."""
        if self._settling is not None:
            self._number += 1
            self._meanwhile(*self._settling, self._number)
