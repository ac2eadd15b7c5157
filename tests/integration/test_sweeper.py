"""The sweeper: what is due or lost is sent once more, and what merely waits in the queue is left alone."""

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lern.errors import LernError, Stopping, Transient, Unreachable
from lern.ledger import Pending, Started
from lern.outgoing import OutgoingEvent
from tasks import merge
from tasks.step import Aside, Result, Work, now_ms, perform
from tasks.sweeper import EPOCH, EVENT_LEFT_AFTER, LEADER, VERIFIED, Sweeper
from tests.acceptance.place import Place, message
from tests.servers.redis import RedisServer
from workflows.intake import judge_all, take_in

AN_HOUR = 3_600_000


@pytest.fixture
def place(tmp_path: Path, own_redis: RedisServer) -> Iterator[Place]:
    here = Place.at(tmp_path, own_redis.url, lock_ttl="1").create()
    Sweeper(here.services).remember()
    yield here
    here.close()


@pytest.fixture
def sweeper(place: Place) -> Sweeper:
    return Sweeper(place.services)


def queue(place: Place) -> list[dict[str, Any]]:
    """The messages in the queue, the oldest first."""
    raw: Any = place.services.broker.lrange(place.settings.queue, 0, -1)
    return [json.loads(one) for one in reversed(raw)]


def tasks_in(place: Place) -> list[str]:
    return [one["headers"]["task"] for one in queue(place)]


def empty(place: Place) -> None:
    place.services.broker.delete(place.settings.queue)


def age_messages(place: Place) -> None:
    """Make every message in the queue an hour older."""
    broker, name = place.services.broker, place.settings.queue
    for index, one in enumerate(reversed(queue(place))):
        one["headers"]["lern_sent"] -= AN_HOUR
        broker.lset(name, index, json.dumps(one))


def queued_long_ago(place: Place, *mids: str) -> list[str]:
    """Enter runs an hour ago, and send them."""
    judged = judge_all([message(f"{mid}-old", f"{mid}-new", mid) for mid in mids], place.settings)
    place.services.ledger.enter(judged.runs, [], now_ms() - AN_HOUR)
    for run in judged.runs:
        place.services.queue.send_chain(run.id, 1, run.steps)
    age_messages(place)
    return [run.id for run in judged.runs]


def test_what_merely_waits_in_the_queue_is_left_alone(place: Place, sweeper: Sweeper) -> None:
    queued_long_ago(place, "a", "b", "c")
    assert sweeper.sweep() == 0
    assert len(queue(place)) == 3


def test_a_step_whose_message_is_gone_is_sent_again_and_only_once(place: Place, sweeper: Sweeper) -> None:
    [run_id] = queued_long_ago(place, "a")
    empty(place)
    assert sweeper.sweep() == 1
    assert sweeper.sweep() == 0
    [found] = queue(place)
    assert found["headers"]["task"] == merge.CONTENT
    assert json.loads(base64.b64decode(found["body"]))[0] == [run_id, 1]


def test_a_message_that_is_gone_is_missed_although_later_ones_are_queued(place: Place, sweeper: Sweeper) -> None:
    [lost] = queued_long_ago(place, "lost")
    empty(place)
    take_in(place.services, [message("x", "y", "later")])
    assert sweeper.sweep() == 1
    newest = queue(place)[-1]
    assert json.loads(base64.b64decode(newest["body"]))[0][0] == lost


def test_a_step_that_stepped_aside_is_sent_when_it_is_due_and_not_before(place: Place, sweeper: Sweeper) -> None:
    run_id = place.enter("a", "b")
    empty(place)
    ledger, name = place.services.ledger, merge.CONTENT
    ledger.step_aside(run_id, name, 1, None, now_ms(), now_ms() + AN_HOUR, "BUSY", "asha is held")
    assert sweeper.sweep() == 0
    ledger.step_aside(run_id, name, 1, None, now_ms(), now_ms() + AN_HOUR, "BUSY", "asha is held")
    assert place.run(run_id).state == "waiting"
    later = place.run(run_id).next_at or 0
    due = ledger.due(later)
    assert [pending.run_id for pending in due] == [run_id]
    assert ledger.requeue(due[0], later)
    assert not ledger.requeue(due[0], later)


def test_a_step_whose_worker_died_is_sent_again_at_the_step_it_was_in(place: Place) -> None:
    sweeper = Sweeper(place.services, returns_within=0.0)
    run_id = place.enter("a", "b")
    place.step(run_id)
    empty(place)
    begun = place.services.ledger.begin(run_id, merge.ENROLMENTS, 1, "dead", now_ms(), 5)
    assert isinstance(begun, Started)
    assert sweeper.sweep() == 1
    assert tasks_in(place) == [merge.ENROLMENTS]
    assert place.run(run_id).lost == 1


def test_a_step_that_comes_back_to_its_users_is_not_taken_for_dead(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one does that had lost the ledger: however often, as long as none of its absences lasts."""
    patient = Sweeper(place.services, returns_within=3.0)
    clock = [1_000.0]
    monkeypatch.setattr("tasks.sweeper.time.monotonic", lambda: clock[0])
    run_id = place.enter("a", "b")
    empty(place)
    place.services.ledger.begin(run_id, merge.CONTENT, 1, "comes-back", now_ms(), 5)
    for _ in range(5):
        assert patient.sweep() == 0
        clock[0] += 2
        with place.services.locks.hold(["a", "b"], "comes-back", 0):
            assert patient.sweep() == 0
    assert patient.sweep() == 0
    # Nobody knows what was in between two sweeps of which one could not be made.
    clock[0] += 2
    monkeypatch.setattr(place.services.ledger, "running", away)
    with pytest.raises(Unreachable):
        patient.sweep()
    monkeypatch.undo()
    monkeypatch.setattr("tasks.sweeper.time.monotonic", lambda: clock[0])
    clock[0] += 2
    assert patient.sweep() == 0
    assert place.run(run_id).lost == 0
    clock[0] += 3
    assert patient.sweep() == 1
    assert place.run(run_id).lost == 1


def away(**_: object) -> list[Pending]:
    raise Unreachable("ledger", "it is away")


def test_a_step_that_still_holds_its_users_is_left_alone(place: Place, sweeper: Sweeper) -> None:
    run_id = place.enter("a", "b")
    empty(place)
    with place.services.locks.hold(["a", "b"], "alive", 0):
        place.services.ledger.begin(run_id, merge.CONTENT, 1, "alive", now_ms(), 5)
        assert sweeper.sweep() == 0


@pytest.mark.parametrize("error", [Unreachable("store", "no answer"), Transient("no luck"), Stopping("SIGTERM")])
def test_a_step_that_steps_aside_has_not_died_however_the_sweeper_looks(
    place: Place, sweeper: Sweeper, monkeypatch: pytest.MonkeyPatch, error: LernError
) -> None:
    """Of a server that is away for hours a step hears often: each time it is running until the ledger says it waits."""
    run_id = place.enter("a", "b")
    empty(place)
    ledger = place.services.ledger
    real = ledger.step_aside

    def body(_: Work) -> Result:
        raise error

    def step_aside(*arguments: Any, **options: Any) -> bool:
        assert sweeper.sweep() == 0
        return real(*arguments, **options)

    monkeypatch.setattr(ledger, "step_aside", step_aside)
    assert isinstance(perform(place.services, merge.CONTENT, body, run_id, 1), Aside)
    assert (place.run(run_id).state, place.run(run_id).lost) == ("waiting", 0)
    assert place.services.locks.tokens(["a", "b"]) == {}


def test_a_broker_that_lost_its_memory_gets_everything_unfinished_again(place: Place, sweeper: Sweeper) -> None:
    queued = place.enter("a", "b")
    at_work = place.enter("c", "d", "m2")
    place.services.ledger.begin(at_work, merge.CONTENT, 1, "dead", now_ms(), 5)
    ended = place.merge("e", "f", "m3")
    place.services.broker.flushall()
    assert sweeper.sweep() == 2
    sent = {json.loads(base64.b64decode(one["body"]))[0][0] for one in queue(place)}
    assert sent == {queued, at_work}
    assert ended not in sent
    assert place.services.broker.get(EPOCH) is not None


def test_an_event_that_a_worker_took_and_died_with_is_taken_in_again(place: Place, sweeper: Sweeper) -> None:
    place.services.queue.send_intake(message("a", "b", "m").value or b"", None, "run")
    [taken] = queue(place)
    empty(place)
    broker = place.services.broker
    broker.hset("unacked", "tag", json.dumps([taken, "", place.settings.queue]))
    broker.zadd("unacked_index", {"tag": 1.0})
    assert sweeper.sweep() == 1
    assert tasks_in(place) == ["lern.intake"]
    assert (broker.hlen("unacked"), broker.zcard("unacked_index")) == (0, 0)


@pytest.mark.parametrize("arguments", [["text"], ["text", None, "run", "of a later version"], ["\ud800", None, "run"]])
def test_an_event_of_a_shape_that_is_not_ours_is_left_to_the_broker_and_keeps_no_sweep_back(
    place: Place, sweeper: Sweeper, arguments: list[str | None]
) -> None:
    place.services.queue.app.send_task("lern.intake", args=arguments, queue=place.settings.queue)
    [taken] = queue(place)
    empty(place)
    broker = place.services.broker
    broker.hset("unacked", "tag", json.dumps([taken, "", place.settings.queue]))
    broker.zadd("unacked_index", {"tag": 1.0})
    assert sweeper.sweep() == 0
    assert broker.hlen("unacked") == 1


def test_an_event_that_is_just_being_taken_in_is_left_alone(place: Place, sweeper: Sweeper) -> None:
    place.services.queue.send_intake(message("a", "b", "m").value or b"", None, "run")
    [taken] = queue(place)
    empty(place)
    broker = place.services.broker
    broker.hset("unacked", "tag", json.dumps([taken, "", place.settings.queue]))
    broker.zadd("unacked_index", {"tag": now_ms() / 1000})
    assert sweeper.sweep() == 0
    assert broker.hlen("unacked") == 1


def test_an_event_that_nobody_sent_goes_out(place: Place, sweeper: Sweeper) -> None:
    run_id = place.enter("a", "b")
    left = OutgoingEvent("mid", "dev.topic", None, b'{"mid":"mid"}')
    long_ago = now_ms() - EVENT_LEFT_AFTER - 1000
    place.services.ledger.fail(run_id, merge.CONTENT, 1, None, long_ago, "BAD_ROW", "broken", left)
    sweeper.sweep()
    assert place.sent() == {"dev.topic": {"mid": b'{"mid":"mid"}'}}
    assert place.services.ledger.undelivered() == []


def test_only_one_sweeps_at_a_time(place: Place, sweeper: Sweeper) -> None:
    queued_long_ago(place, "a")
    empty(place)
    other = Sweeper(place.services)
    assert sweeper.sweep() == 1
    queued_long_ago(place, "b")
    empty(place)
    assert other.sweep() == 0
    place.services.broker.delete(LEADER)
    assert other.sweep() == 1


def test_a_merge_is_checked_once_when_its_time_has_come(tmp_path: Path, own_redis: RedisServer) -> None:
    place = Place.at(tmp_path, own_redis.url, lock_ttl="1", verify_after="0.001").create()
    sweeper = Sweeper(place.services)
    sweeper.remember()
    run_id = place.merge("a", "b")
    empty(place)
    assert sweeper.sweep() == 1
    assert tasks_in(place) == ["merge.verify"]
    # Even if Redis forgets how far we have come: the check of a merge is one run.
    place.services.broker.delete(VERIFIED)
    assert sweeper.sweep() == 0
    assert place.run(run_id).state == "succeeded"
    place.close()
