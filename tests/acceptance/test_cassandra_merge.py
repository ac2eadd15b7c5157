"""The merge on Cassandra: beside a live service, clocks that are wrong, servers that are slow, and there and back.

What the store cannot promise, as `docs/decisions/cassandra-store.md` says, stands here as a test of the later check:
a row that was read before the merge and written whole after it takes the merge back, until the check settles it again.
"""

import json
import os
import re
import subprocess
import sys
import time
from bisect import bisect
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, ClassVar, Final

import pytest
import redis
from cassandra.cluster import Session

import tasks.undo
import tasks.verify  # noqa: F401 - the steps that a check and an undo consist of
from lern import undo, verification
from lern.doctor import cassandra as doctor
from lern.kafka import KafkaSender
from lern.ledger import Run
from lern.rules.aggregates import identity_of_attempt
from lern.settings import Settings
from lern.store.cassandra_clock import Clock
from lern.store.sql_codec import same
from lern.store.tables import (
    ASSESSMENT_AGGREGATOR,
    TABLES,
    USER_ACTIVITY_AGG,
    USER_CONTENT_CONSUMPTION,
    USER_ENROLMENTS,
    Key,
    Row,
    Table,
)
from tasks.step import Aside, Done, now_ms
from tests.acceptance.live import MAX_SCORE, TESTED, Between, Facts, LiveServices, Written, at_work, facts, furthest
from tests.acceptance.place import Place
from tests.accounts import DAY, RELATIONS, Placed, aggregates, attempt, content, details, enrolment, two_accounts
from tests.bridges import Surroundings, surroundings, until
from tests.servers.redis import RedisServer
from tests.servers.server import Server

ROOT: Final = Path(__file__).parents[2]
MINUTE: Final = 60_000_000  # microseconds
SETTLED: Final = (USER_CONTENT_CONSUMPTION, USER_ENROLMENTS, USER_ACTIVITY_AGG, ASSESSMENT_AGGREGATOR)
Rows = dict[str, list[Row]]
Make = Callable[..., Place]


@pytest.fixture
def make(tmp_path: Path, cassandra_url: str, own_redis: RedisServer) -> Iterator[Make]:
    """Makes the place whose learner rows are in Cassandra."""
    made: list[Place] = []

    def make(**settings: str) -> Place:
        place = Place.at(tmp_path / "data", own_redis.url, store_url=cassandra_url, **settings)
        place.services.ledger.migrate()
        made.append(place)
        return place

    yield make
    for place in made:
        place.close()


def rows_of(place: Place) -> Rows:
    """Every learner row, in the order of the keys."""
    return {name: sorted(place.rows(table), key=table.key_of) for name, table in TABLES.items()}


def unlike(found: Rows, expected: Rows) -> list[str]:
    """What is otherwise than expected, table by table."""
    return [
        f"{name}: {some} instead of {others}"
        for (name, some), others in zip(found.items(), expected.values(), strict=True)
        if len(some) != len(others) or not all(same(one, other) for one, other in zip(some, others, strict=True))
    ]


def check(place: Place, merge: str) -> Run:
    """Carry out the later check of a merge."""
    new = verification.of(place.run(merge))
    place.services.ledger.enter([new], [], now_ms())
    run = place.carry_out(new.id)
    assert run.state == "succeeded", run
    return run


def test_the_rows_become_what_they_become_in_sqlite(make: Make, tmp_path: Path, own_redis: RedisServer) -> None:
    settings = {"merge_tables": "current,legacy", "chunk_rows": "2"}
    with closing(Place.at(tmp_path / "sqlite", own_redis.url, **settings).create()) as embedded:
        embedded.load(two_accounts("from", "to"), RELATIONS)
        embedded.merge("from", "to")
        expected = rows_of(embedded)
        own_redis.vouch()
    place = make(**settings)
    place.load(two_accounts("from", "to"), RELATIONS)
    place.merge("from", "to")
    assert unlike(rows_of(place), expected) == []


def test_merged_undone_and_merged_again_it_ends_as_merged_once(make: Make) -> None:
    place = make(merge_tables="current,legacy")
    place.load(two_accounts("from", "to"), RELATIONS)
    before = rows_of(place)
    merge = place.merge("from", "to")
    once = rows_of(place)
    for number in range(2):
        entered = undo.request(place.services.ledger, merge, now_ms())
        assert place.carry_out(entered.run_id).state == "succeeded"
        assert unlike(rows_of(place), before) == []
        merge = place.merge("from", "to", f"again-{number}")
        assert unlike(rows_of(place), once) == []


# --- beside live services


class Noted(Clock):
    """A clock that remembers the times that it has given (microseconds)."""

    given: ClassVar[list[int]] = []

    def now(self) -> int:
        time = super().now()
        self.given.append(time)
        return time


LIVE: Final = [f"course-{number}" for number in range(8)]
UNITS: Final = {
    course: {f"{course}-unit-{unit}": [f"c{unit * 6 + number:03}" for number in range(6)] for unit in range(2)}
    for course in LIVE
}
# So many views that it makes no difference how many come in meanwhile: whether they were added can be told.
VIEWS: Final = 1000


def studied(user: str, course: str, names: Iterable[str], *, score: float, **counts: int) -> Iterator[Placed]:
    """What a learner has in a course: of every third content he is through with, the others he has begun."""
    states = {name: 2 if int(name[1:]) % 3 == 0 else 1 for name in names}
    done = {name for name, status in states.items() if status == 2}
    for name, status in states.items():
        progress = 100 if status == 2 else 20 + int(name[1:])
        times = {"last_access_time": DAY, **({"last_completed_time": DAY} if status == 2 else {})}
        yield content(user, course, course, name, status=status, progress=progress, **times, **counts)
    for activity, leaves in {course: set(names), **UNITS[course]}.items():
        counted = {"completedCount": float(len(done.intersection(leaves)))}
        if activity == course:
            counted |= {f"score:{TESTED}": score, f"max_score:{TESTED}": MAX_SCORE, f"attempts_count:{TESTED}": 2.0}
        known = [details(TESTED, number, score) for number in (user, "shared")] if activity == course else []
        updated = dict.fromkeys(counted, DAY)
        yield aggregates(user, activity, course, aggregates=counted, agg_last_updated=updated, agg_details=known)
    for number in (user, "shared"):
        scores = {"total_score": score, "total_max_score": MAX_SCORE, "created_on": DAY, "last_attempted_on": DAY}
        yield attempt(user, course, course, TESTED, number, **scores, question=[{"id": user, "score": score}])
    state = {"status": 1, "progress": len(done), "contentstatus": states, "active": True, "enrolled_date": DAY}
    last = {"lastreadcontentid": TESTED, "lastreadcontentstatus": 1, "lastcontentaccesstime": DAY}
    yield enrolment(user, course, course, **state, **last)


def two_students(place: Place) -> Facts:
    """Load two accounts with everything in eight courses, of which the target has every second one.

    Returns how far they have got together.
    """
    names = [name for unit in UNITS[LIVE[0]].values() for name in unit]
    counts = {"viewcount": VIEWS, "completedcount": VIEWS}
    rows = [row for course in LIVE for row in studied("from", course, names, score=7.0, **counts)]
    rows += [row for course in LIVE[::2] for row in studied("to", course, names[1::2], score=5.0, viewcount=2)]
    place.load(rows, {key: members for course, units in UNITS.items() for key, members in related(course, units)})
    return furthest([facts(table, row) for table, row in rows])


def related(course: str, units: Mapping[str, Sequence[str]]) -> Iterator[tuple[str, list[str]]]:
    """Give the relations of a course by their keys in Redis. `units`: the contents of each."""
    for collection, leaves in {**units, course: [name for unit in units.values() for name in unit]}.items():
        yield f"{course}:{collection}:leafnodes", list(leaves)
    for unit, leaves in units.items():
        for name in leaves:
            yield f"{course}:{name}:ancestors", [course, unit]


def finish(place: Place, merge: str) -> None:
    """Carry out a merge beside somebody who writes: as fast as we read is a reason to try again."""
    while place.run(merge).state != "succeeded":
        assert isinstance(place.step(merge), Done | Aside), place.run(merge)


def lost(place: Place, known: Facts, but: Callable[[tuple[str, ...]], bool] = lambda _: False) -> list[str]:
    """Say where the target has not got as far as was known, or something stands twice."""
    rows = [(table, row) for table in SETTLED for row in place.rows(table, "to")]
    found = furthest([facts(table, row) for table, row in rows])
    problems = [
        f"{name}: {found.get(name)} instead of {value}"
        for name, value in known.items()
        if found.get(name, -1.0) < value and not but(name)
    ]
    for table, row in rows:
        named = [identity_of_attempt(text) for text in row.get("agg_details", ())]
        if len(set(named)) != len(named):
            problems.append(f"{table.name} {table.key_of(row)}: an attempt stands twice in {named}")
    return problems


def miscounted(place: Place, live: LiveServices, limits: Collection[Written] = ()) -> list[str]:
    """Say where views are not the sum of both accounts' and of those that came in, and progress is not what is done."""
    rows = {(row["courseid"], row["contentid"]): row for row in place.rows(USER_CONTENT_CONSUMPTION, "to")}
    came = Counter(written.seen for written in live.written if written.seen is not None)
    unsure = Counter(written.seen for written in limits if written.seen is not None)
    problems = []
    for (course, name), row in rows.items():
        both = course in LIVE[::2] and int(name[1:]) % 2 == 1
        for column, before in {"viewcount": 2 if both else 0, "completedcount": 0}.items():
            most = VIEWS + before + came[course, name]
            if not most - unsure[course, name] <= row[column] <= most:
                problems.append(f"{course} {name}: {column} {row[column]} instead of {most}")
    for row in place.rows(USER_ENROLMENTS, "to"):
        done = sum(state["status"] == 2 for (course, _), state in rows.items() if course == row["courseid"])
        if row["progress"] != done:
            problems.append(f"{row['courseid']}: progress {row['progress']} instead of {done}")
    return problems


def overwritten(place: Place, live: LiveServices, limits: Collection[Written] = ()) -> list[str]:
    """Say of what came in last that it does not stand as it was written: attempts, and where the learner was."""
    last = {
        (written.table, written.table.key_of(written.row)): written
        for written in live.written
        if written.table is ASSESSMENT_AGGREGATOR or "lastreadcontentid" in written.row
    }
    problems = []
    for (table, key), written in last.items():
        row = place.services.store.read(table, [key]).get(key, {})
        columns = ("total_score", "last_attempted_on", "lastreadcontentid", "lastcontentaccesstime")
        stands = {column: row.get(column) for column in columns}
        stands["question"] = [question["id"] for question in row.get("question", ())]
        wanted: Row = {column: written.row.get(column) for column in columns}
        wanted["question"] = [question.id for question in written.row.get("question", ())]
        if stands != wanted and written not in limits:
            problems.append(f"{table.name} {key}: {stands} instead of {wanted}")
    return problems


def test_what_live_services_write_between_our_reads_and_our_writes_is_neither_lost_nor_takes_anything_back(
    make: Make, cassandra_session: Session
) -> None:
    """Into every settlement of every step, to the rows that it has just read: the read-back brings all together.

    The limit: scores that are computed before the attempts of both accounts stand together, and written after the
    aggregates were merged, are the stale values of a slow writer (design 6); the later check mends them.
    """
    place = make(chunk_rows="5", retry_base="0.001", max_attempts="100")
    known = two_students(place)
    live = LiveServices(cassandra_session, "to", UNITS)
    touched: Counter[Table] = Counter()
    chased: set[Table] = set()

    def meanwhile(table: Table, keys: Sequence[Key], number: int) -> None:
        # Between two rounds but once a table: who writes into every round is a reason to try again for ever.
        if number <= 1 or table not in chased:
            live.of(table, live.chance.choice(keys))
            touched[table] += 1
        if number > 1:
            chased.add(table)

    place.services.__dict__["store"] = Between(place.services.store, meanwhile)
    merge = place.enter("from", "to")
    finish(place, merge)
    assert all(touched[table] > 1 for table in SETTLED), "nobody wrote into the merge"
    assert place.rows(USER_CONTENT_CONSUMPTION, "from") == []
    known = furthest([known, *(facts(written.table, written.row) for written in live.written)])
    assert lost(place, known, but=lambda name: name[0] == "user_activity_agg" and TESTED in "".join(name)) == []
    assert miscounted(place, live) == []
    assert overwritten(place, live) == []
    check(place, merge)
    assert lost(place, known) == []
    assert miscounted(place, live) == []
    assert overwritten(place, live) == []


def test_beside_a_live_writer_no_progress_goes_back_and_no_live_write_is_lost(
    make: Make, cassandra_session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A service writes contents, enrolments, aggregates and attempts, whatever we do. Beyond two limits (design 6).

    What was sent before and confirmed after a time T of ours may have been stamped before T and have arrived after
    our read: of that nothing is promised. And rows that were read before our write and written after it take it
    back, until the later check settles them.
    """
    monkeypatch.setattr("lern.store.cassandra.Clock", Noted)
    Noted.given.clear()
    place = make(chunk_rows="5", retry_base="0.001", max_attempts="100")
    known = two_students(place)
    live = LiveServices(cassandra_session, "to", UNITS)
    with at_work(live):
        began = time.time_ns() // 1000
        merge = place.enter("from", "to")
        finish(place, merge)
        ended = time.time_ns() // 1000
    assert place.rows(USER_CONTENT_CONSUMPTION, "from") == []
    during = Counter(written.table for written in live.written if began <= written.sent <= ended)
    assert all(during[table] for table in SETTLED), "nobody wrote into the merge"
    times = sorted(Noted.given)
    limits = [written for written in live.written if bisect(times, written.sent) != bisect(times, written.confirmed)]
    check(place, merge)
    promised = [facts(written.table, written.row) for written in live.written if written not in limits]
    assert promised
    assert lost(place, furthest([known, *promised])) == []
    assert miscounted(place, live, limits) == []
    assert overwritten(place, live, limits) == []


def test_a_row_that_was_read_before_the_merge_and_written_after_it_is_mended_by_the_later_check(make: Make) -> None:
    place = make()
    place.load(two_accounts("from", "to"), RELATIONS)
    stale = [row for row in place.rows(USER_CONTENT_CONSUMPTION, "to") if row["contentid"] == "c1"]
    merge = place.merge("from", "to")
    merged = rows_of(place)
    place.services.store.insert(USER_CONTENT_CONSUMPTION, stale)
    assert unlike(rows_of(place), merged)
    check(place, merge)
    assert unlike(rows_of(place), merged) == []


# --- clocks


def written_ahead(session: Session, user: str, name: str, by: int = 5 * MINUTE) -> None:
    """Have a host whose clock is ahead (microseconds) write a content's status."""
    session.execute(
        "UPDATE user_content_consumption USING TIMESTAMP %s SET status = 0 "
        "WHERE userid = %s AND courseid = 'course-1' AND batchid = 'b1' AND contentid = %s",
        [time.time_ns() // 1000 + by, user, name],
    )


@pytest.mark.parametrize(("user", "name"), [("to", "c1"), ("from", "c2")])
def test_a_cell_from_a_host_five_minutes_ahead_fails_the_run_by_the_rows_name_and_nothing_is_deleted(
    make: Make, cassandra_session: Session, user: str, name: str
) -> None:
    place = make()
    place.load(two_accounts("from", "to"), RELATIONS)
    written_ahead(cassandra_session, user, name)
    source = [place.rows(table, "from") for table in TABLES.values() if table.user]
    run = place.carry_out(place.enter("from", "to"))
    assert (run.state, run.reason) == ("failed", "CLOCK_AHEAD")
    assert f"('{user}', 'course-1', 'b1', '{name}'), column status" in str(run.error)
    assert re.search(r"(300|299|298) s ahead", str(run.error))
    assert [place.rows(table, "from") for table in TABLES.values() if table.user] == source


def test_cells_from_a_host_a_little_ahead_are_waited_for_and_no_attempt_is_used_up(
    make: Make, cassandra_session: Session
) -> None:
    place = make(max_attempts="1")
    place.load(two_accounts("from", "to"), RELATIONS)
    for user, name in (("to", "c1"), ("from", "c2")):
        written_ahead(cassandra_session, user, name, by=2_000_000)
    merge = place.enter("from", "to")
    waited = 0
    while place.run(merge).state != "succeeded":
        outcome = place.step(merge)
        assert isinstance(outcome, Done | Aside)
        if isinstance(outcome, Aside):
            waited += 1
            assert "column status was written at" in outcome.reason
            until(lambda due=outcome.next_at: now_ms() >= due, "the cell's time has come")  # type: ignore[misc]
    assert 1 <= waited <= 3
    assert [step.attempts for step in place.detail(merge).steps] == [0] * 5
    assert place.rows(USER_CONTENT_CONSUMPTION, "from") == []


# --- tables that are not as we know them


def test_a_column_that_we_do_not_know_is_refused_before_anything_is_moved(
    make: Make, cassandra_session: Session
) -> None:
    """It is neither copied nor journalled: with the source's rows it would be gone."""
    place = make()
    store: Any = place.services.store
    place.load([*two_accounts("from", "to"), *two_accounts("earlier", "warm")], RELATIONS)
    # A worker that knows the tables from before.
    place.merge("earlier", "warm")
    before = rows_of(place)
    cassandra_session.execute("ALTER TABLE assessment_aggregator ADD homemade text")
    try:
        until(store.layout_problems, "the column is heard of")
        run = place.carry_out(place.enter("from", "to"))
        assert (run.state, run.reason) == ("failed", "REFUSED")
        problem = "assessment_aggregator has a column that this version of Lern does not know, homemade"
        assert problem in str(run.error)
        assert any(problem in finding.detail for finding in doctor.examine(place.settings))
    finally:
        cassandra_session.execute("ALTER TABLE assessment_aggregator DROP homemade")
    until(lambda: store.layout_problems() == [], "it is gone")
    assert unlike(rows_of(place), before) == []
    place.services.ledger.retry(run.id, now_ms(), "ada")
    assert place.carry_out(run.id).state == "succeeded"


def test_what_stands_in_a_column_that_a_migration_adds_while_we_work_is_merged(
    make: Make, cassandra_session: Session
) -> None:
    place = make()
    store: Any = place.services.store
    cassandra_session.execute("ALTER TABLE user_content_consumption DROP progressdetails")
    try:
        place.load(content(user, "course", "b", "c1", status=1) for user in ("from", "to", "earlier"))
        place.merge("earlier", "to", "before")
    finally:
        cassandra_session.execute("ALTER TABLE user_content_consumption ADD progressdetails text")
    until(lambda: store.layout_problems() == [], "the column is heard of")
    cassandra_session.execute(
        "UPDATE user_content_consumption SET progressdetails = '{}' "
        "WHERE userid = 'from' AND courseid = 'course' AND batchid = 'b' AND contentid = 'c1'"
    )
    place.merge("from", "to")
    assert [row["progressdetails"] for row in place.rows(USER_CONTENT_CONSUMPTION)] == ["{}"]


def test_rows_whose_course_or_batch_is_empty_are_merged_where_they_can_stand(make: Make) -> None:
    """As the only column of a partition key nothing can be empty: in the older tables a batch."""
    place = make(merge_tables="current,legacy")
    place.load([content("from", "course", "", "c1", status=2), content("from", "", "b", "c1", status=2)])
    place.merge("from", "to")
    found = place.rows(USER_CONTENT_CONSUMPTION)
    assert sorted((row["userid"], row["courseid"], row["batchid"]) for row in found) == [
        ("to", "", "b"),
        ("to", "course", ""),
    ]


# --- Kafka, and size


@pytest.fixture
def events(kafka: Server, own_redis: RedisServer, tmp_path: Path, cassandra_url: str) -> Iterator[Surroundings]:
    """An installation with Kafka and Cassandra, and the topics that a merge writes to."""
    made = surroundings(kafka.address, own_redis.url, tmp_path / "data", STORE_URL=cassandra_url)
    wanted: list[Any] = ["coursebatch_job_request", "issue_certificate_request", "telemetry_raw"]
    made.create_topics(*(made.settings.topic(name) for name in wanted))
    yield made
    made.parts.store.close()
    made.close()


def impatient(settings: Settings) -> KafkaSender:
    """A sender that does not wait as long as in production for a broker that is away."""
    return KafkaSender(settings, {"delivery.timeout.ms": 1500, "socket.timeout.ms": 1000, "message.timeout.ms": 1500})


def test_events_wait_for_kafka_and_no_attempt_is_used_up(events: Surroundings, kafka: Server) -> None:
    place = Place(events.parts)
    place.services.__dict__["sender"] = impatient(place.settings)
    place.load(two_accounts("from", "to"), RELATIONS)
    run_id = place.enter("from", "to")
    while place.run(run_id).step != "merge.batch_enrolment_sync":
        assert isinstance(place.step(run_id), Done)
    kafka.kill()
    for _ in range(2):
        outcome = place.step(run_id)
        assert isinstance(outcome, Aside)
        assert "kafka" in outcome.reason
    kafka.start()
    place.services.__dict__["sender"] = KafkaSender(place.settings)
    assert place.carry_out(run_id).state == "succeeded"
    assert [step.attempts for step in place.detail(run_id).steps] == [0] * 5
    assert place.services.ledger.undelivered(None, limit=10) == []
    sent = events.held(place.settings.topic("coursebatch_job_request"))
    assert sorted(event["edata"]["courseId"] for event in sent) == ["course-1", "course-2"]


COURSES: Final = 40


ATTEMPTS: Final = 8  # in each course
QUESTIONS: Final = 10  # of each attempt


def load_learner(place: Place, name: str, contents: int, attempts: int) -> None:
    """Load two accounts of a learner, so many contents and attempts in each of the courses, and these in two units.

    The target has every second content, and everything else in every second course. Odd contents are done.
    """
    store = place.services.store
    for course in range(COURSES):
        rows = list(of_learner(f"{name}-from", f"{name}-{course:03}", contents, attempts))
        mine = list(of_learner(f"{name}-to", f"{name}-{course:03}", contents, attempts, mine=True))
        rows += mine if course % 2 == 0 else mine[: contents // 2]
        for table in SETTLED:
            store.insert(table, [row for of, row in rows if of is table])
        relate(place, f"{name}-{course:03}", contents)


def of_learner(user: str, course: str, contents: int, attempts: int, *, mine: bool = False) -> Iterator[Placed]:
    """Give what one account has in a course, its contents first. `mine`: the target's, of which the source's differ."""
    states = {f"c{number:05}": 1 + number % 2 for number in range(0, contents, 1 + mine)}
    for name, status in states.items():
        yield content(user, course, course, name, status=status, viewcount=1)
    yield enrolment(user, course, course, active=True, enrolled_date=DAY + mine, status=1, contentstatus=states)
    told = [details(TESTED, f"{user}-{number}", 5.0 + mine) for number in range(attempts)]
    scores = {f"score:{TESTED}": 5.0 + mine, f"max_score:{TESTED}": MAX_SCORE, "completedCount": 0.0}
    yield aggregates(user, course, course, aggregates=scores, agg_details=told)
    yield aggregates(user, f"{course}-unit-0", course, aggregates={"completedCount": 0.0})
    for number in range(attempts):
        asked = [{"id": f"{number}-{question}", "score": 1.0, "resvalues": RESPONSES} for question in range(QUESTIONS)]
        yield attempt(user, course, course, TESTED, f"{user}-{number}", last_attempted_on=DAY, question=asked)


RESPONSES: Final = [{"1": "{'text': 'the first of several answers'}"}, {"2": "{'text': 'the second'}"}]


def relate(place: Place, course: str, contents: int) -> None:
    """Put the contents into two units of their course, in Redis: so many that they go there together."""
    names = [f"c{number:05}" for number in range(contents)]
    url = place.settings.relations_url_or(place.services.broker_url)
    with closing(redis.Redis.from_url(url)) as cache, cache.pipeline(transaction=False) as pipeline:
        for key, members in related(course, {f"{course}-unit-{n}": names[n::2] for n in range(2)}):
            pipeline.sadd(key, *members)
        pipeline.execute()


def peak_of_merging(place: Place, name: str) -> tuple[str, int]:
    """Merge a learner's accounts in a process that has done nothing else; its run, and its peak of memory (KiB)."""
    run_id = place.enter(f"{name}-from", f"{name}-to")
    done = subprocess.run(
        [sys.executable, "-m", "tests.acceptance.merging", run_id],
        env={**os.environ, **place.settings.environ()},
        cwd=ROOT,
        check=True,
        stdout=subprocess.PIPE,
    )
    told = json.loads(done.stdout)
    assert told["state"] == "succeeded", told
    return run_id, told["peak"]


@pytest.mark.timeout(300)
def test_a_learner_with_50_000_rows_in_forty_courses_takes_no_more_memory_and_no_warning_from_the_server(
    make: Make, cassandra: Server
) -> None:
    """With enrolments, aggregates, attempts and their questions, so that each of the five steps has its part."""
    place = make()
    heard = len(cassandra.log)
    load_learner(place, "small", 25, 2)
    load_learner(place, "large", 1250, ATTEMPTS)
    _, one_chunk = peak_of_merging(place, "small")
    run_id, fifty = peak_of_merging(place, "large")
    rows, half = COURSES * 1250, COURSES // 2
    results = {step.name: step.result or {} for step in place.detail(run_id).steps}
    counted = ("read", "copied", "merged", "deleted")
    assert {name: tuple(result.get(name) for name in counted) for name, result in results.items()} == {
        "merge.content": (rows, rows // 2, rows // 2, rows),
        "merge.enrolments": (COURSES, half, half, COURSES),
        "merge.aggregates": (2 * COURSES, COURSES, COURSES, 2 * COURSES),
        "merge.assessments": (ATTEMPTS * COURSES, ATTEMPTS * COURSES, 0, ATTEMPTS * COURSES),
        "merge.batch_enrolment_sync": (None, None, None, None),
    }
    assert results["merge.batch_enrolment_sync"]["enrolments"] == COURSES
    chunks = {name: sum(1 for _ in place.services.ledger.chunks(run_id, name)) for name in results}
    assert (chunks["merge.content"], chunks["merge.assessments"]) == (50, 4)
    assert (chunks["merge.enrolments"], chunks["merge.batch_enrolment_sync"]) == (2, COURSES // 10)
    store = place.services.store
    assert store.rows(USER_CONTENT_CONSUMPTION, ("large-from",), limit=1) == []
    merged = store.rows(USER_CONTENT_CONSUMPTION, ("large-to",))
    assert (len(merged), sum(row["viewcount"] for row in merged)) == (rows, rows * 3 // 2)
    enrolled = store.rows(USER_ENROLMENTS, ("large-to",))
    assert [(row["progress"], len(row["contentstatus"])) for row in enrolled] == [(625, 1250)] * COURSES
    for number in range(COURSES):
        course, both = f"large-{number:03}", ATTEMPTS * (2 - number % 2)
        [total] = store.rows(USER_ACTIVITY_AGG, ("Course", course, "large-to"))
        assert (total["aggregates"]["completedCount"], len(total["agg_details"])) == (625, both)
        attempts = store.rows(ASSESSMENT_AGGREGATOR, ("large-to", course, course))
        assert [len(row["question"]) for row in attempts] == [QUESTIONS] * both
    assert fifty < one_chunk * 1.3, (fifty, one_chunk)
    warned = [line for line in cassandra.log[heard:].splitlines() if re.search(r" (WARN|ERROR) ", line)]
    assert not [line for line in warned if re.search(r"[Bb]atch|tombstone|mutation|Mutation", line)]


def load_enrolments(place: Place, name: str, number: int) -> None:
    """Load two accounts' enrolments, each with the states of 1,250 contents."""
    states = {f"c{content:05}": 1 for content in range(1250)}
    for course in range(number):
        of_both = [
            enrolment(f"{name}-{user}", f"{course:03}", "b", active=True, enrolled_date=DAY, contentstatus=states)
            for user in ("from", "to")
        ]
        place.load(of_both)


@pytest.mark.timeout(300)
def test_a_learner_with_two_hundred_large_enrolments_takes_no_more_memory_than_one_with_twenty(make: Make) -> None:
    place = make()
    load_enrolments(place, "few", 20)
    load_enrolments(place, "many", 200)
    _, few = peak_of_merging(place, "few")
    run_id, many = peak_of_merging(place, "many")
    results = {step.name: step.result or {} for step in place.detail(run_id).steps}
    assert (results["merge.enrolments"]["merged"], results["merge.enrolments"]["deleted"]) == (200, 200)
    assert many < few * 1.3, (many, few)
