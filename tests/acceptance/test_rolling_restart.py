"""Workers come and go, by SIGTERM and by SIGKILL, and so does the broker: nothing is lost and nothing doubled."""

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from lern.errors import Unreachable
from lern.ledger import Run
from lern.locks import PREFIX
from tasks.upkeep import LOCKS, PRUNE, SWEEP
from tests.acceptance.place import Place, message
from tests.accounts import Placed, account, content
from tests.servers.redis import RedisServer
from tests.workers import Process, until
from workflows.intake import take_in

PAIRS = 60
COURSES = ("course-1", "course-2", "course-3")


@pytest.fixture
def place(tmp_path: Path, own_redis: RedisServer) -> Iterator[Place]:
    with closing(Place.at(tmp_path / "data", own_redis.url, lock_ttl="1", chunk_rows="3").create()) as here:
        yield here


@pytest.fixture
def start(place: Place, tmp_path: Path) -> Iterator[Callable[[str], Process]]:
    with ExitStack() as ends:
        started: list[Process] = []

        def start(command: str) -> Process:
            log = tmp_path / f"{command}-{len(started)}.log"
            started.append(ends.enter_context(Process(command, place.settings, log)))
            return started[-1]

        yield start


def merged_in_peace(directory: Path, own_redis: RedisServer, rows: list[Placed], pairs: list[tuple[str, str]]) -> Any:
    """What the rows of these accounts are when nothing happens meanwhile."""
    with closing(Place.at(directory, own_redis.url).create()) as undisturbed:
        undisturbed.load(rows)
        for source, target in pairs:
            undisturbed.merge(source, target, source)
        undisturbed.services.broker.flushdb()
        own_redis.vouch()
        return undisturbed.tables(), undisturbed.sent()


def held(place: Place) -> list[Any]:
    return list(place.services.broker.scan_iter(f"{PREFIX}*"))


def ended(place: Place, *run_ids: str) -> bool:
    return all(place.run(run_id).state in {"succeeded", "failed"} for run_id in run_ids)


def chunks_of(place: Place, run: Run) -> int:
    return sum(1 for _ in place.services.ledger.chunks(run.id))


def test_a_worker_that_is_stopped_ends_with_the_chunk_in_hand_and_another_goes_on(
    place: Place, start: Callable[[str], Process], tmp_path: Path, own_redis: RedisServer
) -> None:
    rows = [content("old", "course", "batch", f"c{number}", status=1, viewcount=number) for number in range(1_200)]
    expected = merged_in_peace(tmp_path / "peace", own_redis, rows, [("old", "new")])
    place.load(rows)
    first = start("worker").ready()
    run = place.run(place.enter("old", "new", "old"))
    until(lambda: chunks_of(place, run) >= 3)
    assert first.stop() == 0
    stopped = place.run(run.id)
    assert (stopped.state, stopped.reason, stopped.attempts, stopped.lost) == ("waiting", "STOPPING", 0, 0)
    assert place.services.ledger.open_chunks(["old", "new"]) == []
    assert held(place) == []
    start("worker").ready()
    until(lambda: ended(place, run.id))
    assert place.run(run.id).state == "succeeded"
    assert {attempt.outcome for attempt in place.detail(run.id).attempts} == {"waiting", "succeeded"}
    assert (place.tables(), place.sent()) == expected


def feed(place: Place, pairs: list[tuple[str, str]], entered: list[str]) -> None:
    """Take merges in one by one; a broker that is away is waited for, as the bridge does."""
    for source, target in pairs:
        while True:
            try:
                taken = take_in(place.services, [message(source, target, source)])
                break
            except Unreachable:
                continue
        entered.append(taken.entered[0].run_id)


def test_workers_come_and_go_under_a_stream_of_merges(
    place: Place, start: Callable[[str], Process], tmp_path: Path, own_redis: RedisServer
) -> None:
    pairs = [(f"old-{number}", f"new-{number}") for number in range(PAIRS)]
    rows = [row for pair in pairs for user in pair for row in account(user, COURSES)]
    expected = merged_in_peace(tmp_path / "peace", own_redis, rows, pairs)
    place.load(rows)
    entered: list[str] = []

    def done(number: int) -> bool:
        return len(entered) >= number and ended(place, *entered[:number])

    first = start("worker").ready()
    beats = [start("beat"), start("beat")]
    stream = threading.Thread(target=feed, args=(place, pairs, entered))
    stream.start()
    until(lambda: done(PAIRS // 9))
    second, third = start("worker").ready(), start("worker").ready()
    first.kill()
    until(lambda: done(PAIRS // 3))
    # As two beats that run at once do: everything twice.
    with Celery(broker=own_redis.url, set_as_current=False) as beat_twice:
        for name in (SWEEP, PRUNE, LOCKS) * 2:
            beat_twice.send_task(name, queue=place.settings.queue)
    assert second.stop() == 0
    fourth = start("worker").ready()
    own_redis.kill()
    own_redis.start()
    until(lambda: done(2 * PAIRS // 3))
    assert third.stop() == 0
    stream.join()
    until(lambda: done(PAIRS))
    assert {place.run(run_id).state for run_id in entered} == {"succeeded"}
    assert (place.tables(), place.sent()) == expected
    until(lambda: not held(place))
    for beat in beats:
        assert beat.stop() == 0
    assert fourth.stop() == 0
    assert place.services.ledger.unfinished() == []
