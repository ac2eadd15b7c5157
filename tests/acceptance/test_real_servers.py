"""Real workers on real servers, which go away and come back: every run ends well, and none has used up an attempt."""

import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

import pytest

from lern import events
from lern.errors import Unreachable
from lern.ledger import Run
from lern.store.tables import TABLES, USER_CONTENT_CONSUMPTION
from lern.urls import sqlite_file
from tests.acceptance.place import Place
from tests.acceptance.workers import Workers, workers_of
from tests.accounts import RELATIONS, account, two_accounts
from tests.batches import TARGET, World, batch, transfer_event
from tests.bridges import Surroundings, run_of, surroundings, until
from tests.servers.redis import RedisServer
from tests.servers.server import Server
from workflows.intake import Message, take_in

PAIRS: Final = 12
COURSES: Final = ("course-1", "course-2")
# As long as an operator's backup may well take.
LOCKED_SECONDS: Final = 20


@pytest.fixture
def workers(own_redis: RedisServer, cassandra_url: str, tmp_path: Path) -> Iterator[Workers]:
    """Workers whose learner rows are in Cassandra. They wait as long as they do with no settings at all."""
    with closing(Place.at(tmp_path / "data", own_redis.url, store_url=cassandra_url)) as place:
        place.services.ledger.migrate()
        with workers_of(place) as workers:
            yield workers


def load(place: Place, first: int, number: int) -> list[Message]:
    """Make pairs of accounts that hold the same courses, and give the events that merge them."""
    messages = []
    for pair in range(first, first + number):
        source, target = f"from-{pair}", f"to-{pair}"
        place.load([*account(source, COURSES, 5, progress=50), *account(target, COURSES, 3, progress=20)])
        event = events.merge_request(source, target, 1_700_000_000_000 + pair, f"m{pair}")
        messages.append(Message(None, None, None, None, events.to_bytes(event)))
    return messages


def begin(place: Place, messages: list[Message]) -> list[str]:
    """Take events in; gives the runs' ids."""
    return [entered.run_id for entered in take_in(place.services, messages).entered]


def known(place: Place, runs: list[str]) -> list[Run]:
    """Those of some runs that the ledger knows, as they stand."""
    return [run for run in map(place.services.ledger.peek, runs) if run is not None]


def ended(place: Place, runs: list[str]) -> set[str]:
    """Those of some runs that have ended."""
    return {run.id for run in known(place, runs) if run.ended_at is not None}


def waiting_for(place: Place, runs: list[str], server: str) -> bool:
    """Whether any of the runs waits because it cannot reach a server."""
    waiting = [run for run in known(place, runs) if run.state == "waiting"]
    return any((run.error or "").startswith(f"{server} cannot be reached") for run in waiting)


def all_well(workers: Workers, runs: list[str]) -> None:
    """Wait for runs to end; none has failed, given up, or used up an attempt, and every row has moved."""
    place = workers.place
    assert {run.state for run in workers.until_ended(runs)} == {"succeeded"}
    details = [place.detail(run) for run in runs]
    assert {step.attempts for detail in details for step in detail.steps} == {0}
    # Nor was one taken for dead who only waited.
    assert "lost" not in {attempt.outcome for detail in details for attempt in detail.attempts}
    for run in runs:
        source, target = place.run(run).source, place.run(run).target
        assert [table.name for table in TABLES.values() if table.user and place.rows(table, source)] == []
        contents = place.rows(USER_CONTENT_CONSUMPTION, target)
        assert [row["progress"] for row in contents] == [50] * (5 * len(COURSES))


def test_cassandra_goes_away_and_the_ledger_is_locked_in_the_middle_of_merges(
    workers: Workers, cassandra: Server
) -> None:
    place = workers.place
    messages = load(place, 0, 2 * PAIRS)
    workers.start()
    runs = begin(place, messages[:PAIRS])
    workers.until(lambda: ended(place, runs), "merges are going on")
    cassandra.kill()
    workers.until(lambda: waiting_for(place, runs, "store"), "the runs wait for Cassandra")
    cassandra.start()
    # This process has a session of its own, which looks for the server in its own time.
    workers.until(lambda: _answers(place), "the store answers here too")
    all_well(workers, runs)

    runs = begin(place, messages[PAIRS:])
    workers.until(lambda: ended(place, runs), "merges are going on")
    ledger = sqlite_file(place.settings.ledger_url_or_default)
    with locked(ledger) as has_been_for_long:
        before = known(place, runs)
        assert "running" in {run.state for run in before}
        has_been_for_long()
        # Whoever only reads is let in, as we are; nobody has got on with a merge, or given one up.
        assert known(place, runs) == before
    all_well(workers, runs)
    with closing(sqlite3.connect(str(ledger))) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def _answers(place: Place) -> bool:
    try:
        place.services.store.check()
    except Unreachable:
        return False
    return True


_LOCK: Final = """
import sqlite3, sys, time
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN EXCLUSIVE")
print("locked", flush=True)
time.sleep(float(sys.argv[2]))
print("for long", flush=True)
sys.stdin.read()
connection.execute("ROLLBACK")
"""


@contextmanager
def locked(ledger: Path | None) -> Iterator[Callable[[], None]]:
    """Lock a ledger in SQLite from another process for the length of the block.

    Gives what returns when it has been locked for LOCKED_SECONDS.
    """
    command = [sys.executable, "-c", _LOCK, str(ledger), str(LOCKED_SECONDS)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as locking:

        def until_it_says(words: str) -> None:
            assert locking.stdout is not None
            assert locking.stdout.readline() == f"{words}\n"

        until_it_says("locked")
        yield partial(until_it_says, "for long")
        locking.communicate()
    assert locking.returncode == 0


def test_from_kafka_through_bridge_and_worker_to_cassandra_and_back_to_kafka(
    kafka: Server, own_redis: RedisServer, cassandra_url: str, tmp_path: Path
) -> None:
    events_ = surroundings(kafka.address, own_redis.url, tmp_path / "data", STORE_URL=cassandra_url)
    wanted: list[Any] = ["coursebatch_job_request", "issue_certificate_request", "telemetry_raw"]
    transfers = events_.settings.topic("user_ownership_transfer")
    events_.create_topics(transfers, *(events_.settings.topic(name) for name in wanted))
    place = Place(events_.parts)
    world = World(place)
    with ExitStack() as ends:
        ends.callback(events_.close)
        ends.callback(events_.parts.store.close)
        place.load(two_accounts("from", "to"), RELATIONS)
        world.load([batch(1)])
        value = events.to_bytes(events.merge_request("from", "to", 1_700_000_000_000, "m"))
        workers = ends.enter_context(workers_of(place))
        workers.start()
        with events_.bridge() as bridge:
            bridge.until_ready()
            # Twice, as events come: it is one run.
            events_.produce([value, value, b"not an event"])
            until(lambda: events_.ledger.peek(run_of(value)), "the run is in the ledger")
            [run] = workers.until_ended([run_of(value)])
            assert run.state == "succeeded"
            until(events_.all_committed, "the offsets are committed")
            until(events_.announced, "the dead letter is told")
            assert len(events_.runs()) == 1
            events_.producer.produce(transfers, transfer_event())
            events_.producer.flush()
            until(lambda: events_.ledger.runs(workflow="ownership"), "the transfer is in the ledger")
            [transfer] = workers.until_ended(one.id for one in events_.ledger.runs(workflow="ownership"))
            assert (transfer.state, transfer.topic) == ("succeeded", transfers)
        assert world.row(batch(1))["createdby"] == TARGET
        assert list(events_.dead()) == [b"not an event"]
        sent = {name: events_.held(events_.settings.topic(name)) for name in wanted}
        assert {name: len(some) for name, some in sent.items()} == {
            "coursebatch_job_request": 2,
            "issue_certificate_request": 1,
            "telemetry_raw": 1,
        }
        assert {event["edata"]["action"] for event in sent["coursebatch_job_request"]} == {"batch-enrolment-sync"}
        assert place.rows(USER_CONTENT_CONSUMPTION, "from") == []
        merged = {row["contentid"]: row for row in place.rows(USER_CONTENT_CONSUMPTION, "to")}
        assert merged["c3"]["progress"] == 100
        kafka_goes_away(kafka, events_, workers)
        assert events_.ledger.undelivered() == []


def kafka_goes_away(kafka: Server, events_: Surroundings, workers: Workers) -> None:
    """Have merges whose events come from Kafka and go there be without it for a while, in the middle."""
    place = workers.place
    messages = [one.value for one in load(place, 0, PAIRS)]
    runs = [run_of(value) for value in messages if value is not None]
    with events_.bridge() as bridge:
        bridge.until_ready()
        events_.produce(messages)
        workers.until(lambda: ended(place, runs), "merges are going on")
        kafka.kill()
        workers.until(lambda: waiting_for(place, runs, "kafka"), "runs wait for Kafka")
        kafka.start()
        workers.until(lambda: len(known(place, runs)) == PAIRS, "every event has been taken in")
        all_well(workers, runs)
        until(events_.all_committed, "the offsets are committed")
    targets = {run.target for run in known(place, runs)}
    held = events_.held(events_.settings.topic("coursebatch_job_request"))
    synced = [event for event in held if event["edata"]["userId"] in targets]
    # What Kafka had and could no more confirm has been sent again: it is the same event.
    by_mid = {event["mid"]: event for event in synced}
    assert all(event == by_mid[event["mid"]] for event in synced)
    assert Counter((event["edata"]["userId"], event["edata"]["courseId"]) for event in by_mid.values()) == Counter(
        (target, course) for target in targets for course in COURSES
    )
