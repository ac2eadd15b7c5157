"""The merge on Cassandra: beside a live service, clocks that are wrong, servers that are slow, and there and back.

What the store cannot promise, as `docs/decisions/cassandra-store.md` says, stands here as a test of the later check:
a row that was read before the merge and written whole after it takes the merge back, until the check settles it again.
"""

import json
import os
import random
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Final, Self

import pytest
from cassandra.cluster import Session

import tasks.undo
import tasks.verify  # noqa: F401 - the steps that a check and an undo consist of
from lern import undo, verification
from lern.doctor import cassandra as doctor
from lern.kafka import KafkaSender
from lern.ledger import Run
from lern.settings import Settings
from lern.store.sql_codec import same
from lern.store.tables import TABLES, USER_CONTENT_CONSUMPTION, Row
from tasks.step import Aside, Done, now_ms
from tests.acceptance.place import Place
from tests.accounts import RELATIONS, content, two_accounts
from tests.bridges import Surroundings, surroundings, until
from tests.servers.redis import RedisServer
from tests.servers.server import Server

ROOT: Final = Path(__file__).parents[2]
MINUTE: Final = 60_000_000  # microseconds
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


# --- beside a live service


class LmsService:
    """A writer as lms-service is one: reads a content's row, computes, and writes it whole, in absolute values.

    `seen`: by content the furthest that it has written, and been told that it was written. `times`: when (ms).
    """

    def __init__(self, session: Session, user: str, course: str, contents: list[str]) -> None:
        self._session, self._user, self._course, self._contents = session, user, course, contents
        self._read = session.prepare(
            "SELECT status, progress FROM user_content_consumption "
            "WHERE userid = ? AND courseid = ? AND batchid = ? AND contentid = ?"
        )
        self._write = session.prepare(
            "INSERT INTO user_content_consumption (userid, courseid, batchid, contentid, status, progress, "
            "last_access_time, last_updated_time) VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
        )
        self.seen: dict[str, tuple[int, int]] = {}
        self.times: list[int] = []
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._work)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._thread.join()

    def _work(self) -> None:
        chance = random.Random(4)
        while not self._ending.is_set():
            name = chance.choice(self._contents)
            key = (self._user, self._course, self._course, name)
            found = next(iter(self._session.execute(self._read, key)), None)
            status, progress = (found[0] or 0, found[1] or 0) if found else (0, 0)
            # Its rules: what comes in now is further by some per cent; a content that is through stays so.
            progress = min(100, progress + chance.randrange(30))
            status = 2 if status >= 2 or progress == 100 else 1
            now = now_ms()
            self._session.execute(self._write, (*key, status, progress, now, now))
            self.times.append(now_ms())
            self.seen[name] = max(self.seen.get(name, (0, 0)), (status, progress))


def test_beside_a_live_writer_no_progress_goes_back_and_no_live_write_is_lost(
    make: Make, cassandra_session: Session
) -> None:
    """Save for what was read before the merge's write and written after it: the later check mends that."""
    place = make(chunk_rows="5", retry_base="0.001")
    names = [f"c{number:03}" for number in range(100)]
    source = {name: (2, 100) if number % 3 == 0 else (1, number % 60) for number, name in enumerate(names)}
    target = {name: (1, 90 - number % 80) for number, name in enumerate(names) if number % 2 == 0}
    for user, contents in (("from", source), ("to", target)):
        place.load(
            content(user, "course", "course", name, status=status, progress=progress, viewcount=2)
            for name, (status, progress) in contents.items()
        )
    with LmsService(cassandra_session, "to", "course", names) as service:
        merge = place.enter("from", "to")
        # Somebody who writes as fast as we read is a reason to try again.
        while place.run(merge).state != "succeeded":
            assert isinstance(place.step(merge), Done | Aside)
        assert place.rows(USER_CONTENT_CONSUMPTION, "from") == []
    chunks = list(place.services.ledger.chunks(merge, "merge.content"))
    ended = max(chunk.ended_at or 0 for chunk in chunks)
    assert sum(chunks[0].created_at <= time <= ended for time in service.times) > 10, "nobody wrote into the merge"
    check(place, merge)
    found = {row["contentid"]: row for row in place.rows(USER_CONTENT_CONSUMPTION, "to")}
    assert sorted(found) == names
    for name, row in found.items():
        known = [source[name], target.get(name, (0, 0)), service.seen.get(name, (0, 0))]
        assert row["status"] >= max(status for status, _ in known), (name, row, known)
        assert row["progress"] >= max(progress for _, progress in known), (name, row, known)
        assert row["viewcount"] == (4 if name in target else 2), (name, row)


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


def load_learner(place: Place, name: str, contents: int) -> None:
    """Load two accounts of a learner: so many contents in each course, of which the target has every second one."""
    for course in range(COURSES):
        place.services.store.insert(
            USER_CONTENT_CONSUMPTION,
            (
                content(user, f"do_{course:03}", f"b{course:03}", f"c{number:05}", status=1 + number % 2, viewcount=1)[
                    1
                ]
                for user, step in ((f"{name}-from", 1), (f"{name}-to", 2))
                for number in range(0, contents, step)
            ),
        )


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
    place = make()
    heard = len(cassandra.log)
    load_learner(place, "small", 25)
    load_learner(place, "large", 1250)
    _, one_chunk = peak_of_merging(place, "small")
    run_id, fifty = peak_of_merging(place, "large")
    rows = COURSES * 1250
    result = place.detail(run_id).steps[0].result or {}
    counted = {name: result[name] for name in ("read", "copied", "merged", "deleted")}
    assert counted == {"read": rows, "copied": rows // 2, "merged": rows // 2, "deleted": rows}
    assert sum(1 for _ in place.services.ledger.chunks(run_id, "merge.content")) == 50
    store = place.services.store
    assert store.rows(USER_CONTENT_CONSUMPTION, ("large-from",), limit=1) == []
    merged = store.rows(USER_CONTENT_CONSUMPTION, ("large-to",))
    assert (len(merged), sum(row["viewcount"] for row in merged)) == (rows, rows * 3 // 2)
    assert fifty < one_chunk * 1.3
    warned = [line for line in cassandra.log[heard:].splitlines() if re.search(r" (WARN|ERROR) ", line)]
    assert not [line for line in warned if re.search(r"[Bb]atch|tombstone|mutation|Mutation", line)]
