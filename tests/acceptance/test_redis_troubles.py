"""What Redis and the workers go through while runs wait: restarts, loss of memory, one busy user, SIGTERM."""

import os
import re
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import redis

from lern.cli.children import Child, environ
from lern.embedded import EmbeddedRedis
from lern.errors import LockLost
from lern.locks import PREFIX, Held
from lern.store.tables import USER_CONTENT_CONSUMPTION
from tasks.app import BODIES
from tasks.merge import CONTENT
from tasks.step import Aside, Result, Work, now_ms, perform
from tasks.sweeper import Sweeper
from tests.acceptance.conftest import MakePlace
from tests.acceptance.place import Place
from tests.acceptance.test_killed_workers import PAIRS, enter_all, lost, merged_undisturbed, rows_of_pairs
from tests.acceptance.workers import PATIENCE, Workers
from tests.accounts import RELATIONS, content
from tests.workers import Process, until

WAITING = 500
LONG = 1000
# KiB that a worker with one child may grow by while hundreds of steps come, find their user busy and go.
GROWTH = 8 * 1024


@contextmanager
def busy(place: Place, user: str) -> Iterator[None]:
    """Hold a user, as a long step does."""
    with place.services.locks.hold([user], "long", wait=10, holder="a long step"):
        yield


def states(place: Place) -> dict[str, int]:
    return {str(state): number for state, number in place.services.ledger.counts().items()}


def restart(place: Place) -> None:
    """End the private Redis and start it again, as its next user would."""
    end_redis(place)
    start_redis(place)


def end_redis(place: Place) -> None:
    with redis.Redis.from_url(place.services.broker_url) as client:
        client.shutdown()


def start_redis(place: Place) -> None:
    again = EmbeddedRedis(place.settings.data_dir)
    assert again.join() == place.services.broker_url
    again.leave()


def test_redis_is_restarted_in_the_middle(workers: Workers, make_place: MakePlace) -> None:
    place = workers.place
    place.load(rows_of_pairs(), RELATIONS)
    worker = workers.start()
    workers.until(lambda: len(worker.children) == 2, "the worker has children")
    with place.standstill():
        runs = enter_all(place)
        workers.until(lambda: len(place.services.ledger.running()) == 2, "every child has begun a step")
        restart(place)
    assert {run.state for run in workers.until_ended(runs)} == {"succeeded"}
    reference = merged_undisturbed(make_place, RELATIONS)
    assert place.tables() == reference.tables()
    assert place.sent() == reference.sent()


def test_redis_falls_silent_and_the_worker_leaves_it(place: Place) -> None:
    """A host that has vanished says nothing, not even that it is gone; here a server that stands still."""
    place.load(content(user, "course-1", "b", "c", viewcount=1) for user in ("from", "to"))
    with Process("worker", place.settings, place.settings.data_dir / "worker.log").ready() as worker:
        server: int = place.services.broker.info()["process_id"]
        os.kill(server, signal.SIGSTOP)
        try:
            until(lambda: "Connection to broker lost" in worker.text)
        finally:
            os.kill(server, signal.SIGCONT)
        run_id = place.enter("from", "to")
        until(lambda: place.run(run_id).state == "succeeded")
        assert "In Celery 5.1" not in worker.text, "Celery advises a setting that is off on purpose"


def listens(place: Place) -> bool:
    """Whether a worker waits for a message."""
    return any(client["cmd"] == "brpop" for client in place.services.broker.client_list())


def test_redis_dies_while_a_worker_has_a_message_and_waits_for_another(workers: Workers) -> None:
    """It hears of it first where commands for workers come, so that what it waits for is still under way."""
    place = workers.place
    place.load(content(user, "course-1", "b", "c", viewcount=1) for user in ("from", "to"))
    worker = workers.start()
    workers.until(lambda: len(worker.children) == 2, "the worker has children")
    with place.standstill():
        run_id = place.enter("from", "to")
        workers.until(place.services.ledger.running, "a step has begun")
        workers.until(lambda: listens(place), "the worker waits for another message")
        worker.signal(signal.SIGSTOP)
        place.services.broker.client_kill_filter(_type="pubsub")
        end_redis(place)
        worker.signal(signal.SIGCONT)
        workers.until(lambda: re.search("Cannot connect|Unrecoverable", worker.text), "the worker has noticed")
        assert "Unrecoverable" not in worker.text
        start_redis(place)
    assert [run.state for run in workers.until_ended([run_id])] == ["succeeded"]
    assert worker.exit_code is None


# A worker whose children hear nothing any more when it fails.
FAILS = """
import os, signal
from billiard import active_children
from celery.bootsteps import StartStopStep
from tasks import last_resort
from tasks.app import app

class Fails(StartStopStep):
    requires = ("celery.worker.consumer:Tasks",)

    def start(self, consumer):
        for child in active_children():
            os.kill(child.pid, signal.SIGSTOP)
        raise RuntimeError("nobody has thought of this")

last_resort.PATIENCE = 0.1
app.steps["consumer"].add(Fails)
app.worker_main(["worker", "--concurrency=1", "--without-mingle", "--without-gossip"])
"""


def test_a_worker_that_has_failed_ends_whatever_it_waits_for(place: Place) -> None:
    with Child([sys.executable, "-c", FAILS], environ(place.settings)) as worker:
        assert worker.wait(PATIENCE) == 1
        # Its children too: the group has nobody left.
        until(lambda: not lives(worker.pid))


def lives(group: int) -> bool:
    """Whether a process group has anybody in it."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def test_redis_is_emptied_in_the_middle(workers: Workers, make_place: MakePlace) -> None:
    """Messages, locks, relations and the mark by which the sweeper knows that Redis remembers: all gone."""
    place = workers.place
    place.load(rows_of_pairs())
    worker = workers.start()
    workers.until(lambda: len(worker.children) == 2, "the worker has children")
    with place.standstill():
        runs = enter_all(place)
        workers.until(lambda: len(place.services.ledger.running()) == 2, "every child has begun a step")
        place.services.broker.flushall()
    assert {run.state for run in workers.until_ended(runs)} == {"succeeded"}
    assert place.tables() == merged_undisturbed(make_place).tables()


def test_a_redis_that_has_forgotten_everything_is_told_at_once_and_only_then(place: Place) -> None:
    sweeper = Sweeper(place.services)
    sweeper.remember()
    for number in range(3):
        place.enter(f"from-{number}", "to")
    queue, broker = place.settings.queue, place.services.broker
    # What merely waits in the queue is left alone.
    assert (sweeper.sweep(), broker.llen(queue)) == (0, 3)
    broker.flushdb()
    assert (sweeper.remember(), broker.llen(queue)) == (3, 3)
    assert (sweeper.remember(), broker.llen(queue)) == (0, 3)


def is_lost(held: Held) -> bool:
    try:
        held.check()
    except LockLost:
        return True
    return False


@pytest.mark.parametrize("moment", ["journal", "mark"])
def test_a_step_that_has_lost_its_users_does_nothing_more(
    make_place: MakePlace, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """Redis has lost the locks when the chunk is journalled, or when it is marked: that was the last thing done."""
    place = make_place(lock_ttl="1", chunk_rows="1")
    place.load(content(user, "course-1", "b", f"c{n}", viewcount=1) for user in ("from", "to") for n in range(2))
    run_id = place.enter("from", "to")
    ledger = place.services.ledger
    at_work: list[Work] = []
    at_the_loss: list[object] = []

    def body(work: Work) -> Result:
        at_work.append(work)
        return BODIES[CONTENT](work)

    def stand() -> object:
        return place.tables(), [chunk.state for chunk in ledger.chunks(run_id)], place.run(run_id).position

    real = getattr(ledger, moment)

    def loses_the_locks(*arguments: object, **options: object) -> object:
        done = real(*arguments, **options)
        # The first chunk is in hand; or the last one is marked, and nothing but the step's end is left.
        if moment == "journal" or ledger.next_number(run_id, CONTENT) == 3:
            place.services.broker.delete(*(PREFIX + user for user in ("from", "to")))
            until(lambda: is_lost(at_work[0].held))
            at_the_loss.append(stand())
        return done

    monkeypatch.setattr(ledger, moment, loses_the_locks)
    outcome = perform(place.services, CONTENT, body, run_id, 1)
    monkeypatch.undo()
    assert isinstance(outcome, Aside)
    assert "the lock is gone from Redis" in outcome.reason
    assert at_the_loss == [stand()]
    # Whoever comes next carries on where that was.
    [pending] = ledger.due(outcome.next_at)
    assert ledger.requeue(pending, now_ms())
    assert place.carry_out(run_id).state == "succeeded"
    rows = place.rows(USER_CONTENT_CONSUMPTION)
    assert {(row["userid"], row["contentid"]): row["viewcount"] for row in rows} == {("to", "c0"): 2, ("to", "c1"): 2}


@pytest.mark.parametrize("workers", [{"lock_wait": "0.01", "retry_cap": "300"}], indirect=True)
def test_hundreds_of_runs_wait_for_one_busy_user(workers: Workers) -> None:
    place = workers.place
    place.load(content(f"from-{number}", "course-1", "b", f"c{number}", viewcount=1) for number in range(WAITING))
    seen_waiting: set[str] = set()

    def all_have_waited() -> bool:
        seen_waiting.update(run.id for run in place.services.ledger.runs(state="waiting", limit=WAITING))
        return len(seen_waiting) == WAITING

    with busy(place, "to"):
        worker = workers.start(concurrency=1)
        runs = [place.enter("from-0", "to")]
        workers.until(lambda: states(place) == {"waiting": 1}, "the first run waits")
        at_first = worker.memory
        runs += [place.enter(f"from-{number}", "to") for number in range(1, WAITING)]
        workers.until(all_have_waited, "every run has come, found the user busy, and gone")
        assert worker.memory - at_first < GROWTH
        # Waiting is no failure and uses nothing up.
        assert {(run.attempts, run.lost) for run in map(place.run, runs)} == {(0, 0)}
    assert {run.state for run in workers.until_ended(runs)} == {"succeeded"}
    assert worker.memory - at_first < 2 * GROWTH
    rows = place.rows(USER_CONTENT_CONSUMPTION)
    assert {(row["userid"], row["contentid"]) for row in rows} == {("to", f"c{number}") for number in range(WAITING)}


def test_a_worker_that_is_asked_to_end_gives_its_steps_back(workers: Workers, make_place: MakePlace) -> None:
    place = workers.place
    place.load(rows_of_pairs())
    worker = workers.start()
    runs = enter_all(place)
    workers.until(lambda: states(place).get("succeeded", 0) >= 1, "the first run is done")
    assert worker.terminate() == 0
    assert place.services.ledger.running() == []
    workers.start()
    assert {run.state for run in workers.until_ended(runs)} == {"succeeded"}
    assert lost(place, runs) == 0
    assert len(PAIRS) == len(runs)
    assert place.tables() == merged_undisturbed(make_place).tables()


@pytest.mark.parametrize("workers", [{"chunk_rows": "1"}], indirect=True)
def test_a_long_step_is_given_back_too(workers: Workers) -> None:
    """It ends with the chunk in hand; another worker does the rest."""
    place = workers.place
    place.load(content(user, "course-1", "b", f"c{n}", viewcount=1) for user in ("from", "to") for n in range(LONG))
    worker = workers.start(concurrency=1)
    run_id = place.enter("from", "to")
    workers.until(lambda: place.services.ledger.next_number(run_id, "merge.content") > 3, "chunks have been journalled")
    assert worker.terminate() == 0
    assert place.run(run_id).step == "merge.content"
    assert 3 < place.services.ledger.next_number(run_id, "merge.content") < LONG
    workers.start()
    [run] = workers.until_ended([run_id])
    assert run.state == "succeeded"
    assert lost(place, [run_id]) == 0
    rows = place.rows(USER_CONTENT_CONSUMPTION)
    assert {(row["userid"], row["viewcount"]) for row in rows} == {("to", 2)}
