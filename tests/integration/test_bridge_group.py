"""Bridges as a group: where it begins, how partitions move, and whose offsets count."""

import functools
import itertools
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient

from lern import kafka_start
from lern.errors import Refused
from lern.health import Health
from lern.kafka import consumer_settings
from tasks.step import now_ms
from tests.bridges import Surroundings, merges, run_of, surroundings, until
from tests.servers.redis import RedisServer
from tests.servers.server import Server
from workflows import partitions
from workflows.intake import Message
from workflows.partitions import Partitions


@pytest.fixture(autouse=True)
def _no_long_look(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kafka_start, "WATCHED", 0.1)


@pytest.fixture
def place(kafka: Server, redis_server: RedisServer, tmp_path: Path) -> Iterator[Surroundings]:
    made = surroundings(kafka.address, redis_server.url, tmp_path)
    yield made
    made.close()


def runs_of(values: list[bytes]) -> set[str]:
    return {run_of(value) for value in values}


def test_a_new_group_does_not_guess_where_to_begin(place: Surroundings) -> None:
    place.produce(merges(4))
    with place.bridge(start=None) as bridge:
        bridge.join()
    assert isinstance(bridge.error, Refused)
    assert "has no offsets for topic" in str(bridge.error)
    assert "--start latest" in str(bridge.error)
    assert not place.runs()


def test_where_no_message_waits_there_is_nothing_to_ask(place: Surroundings) -> None:
    with place.bridge(start=None) as bridge:
        bridge.until_ready()
        events = merges(4)
        place.produce(events)
        until(place.all_committed, "everything is taken in")
    assert place.runs() == runs_of(events)


def test_begun_at_the_end_it_reads_what_comes_after_even_if_it_dies_at_once(place: Surroundings) -> None:
    place.produce(merges(4))
    with place.bridge("latest") as bridge:
        bridge.until_ready()
    later = merges(4)
    place.produce(later)
    # Were the place to begin not written down at the start, this bridge would begin at another end.
    with place.bridge("earliest"):
        until(place.all_committed, "everything is taken in")
    assert place.runs() == runs_of(later)


def test_it_can_begin_at_a_time(place: Surroundings) -> None:
    place.produce(merges(4), timestamp=1_700_000_000_000)
    later = merges(4)
    place.produce(later, timestamp=1_700_000_060_000)
    moment = datetime.fromtimestamp(1_700_000_030, UTC).isoformat()
    with place.bridge(moment):
        until(place.all_committed, "everything is taken in")
    assert place.runs() == runs_of(later)


def test_begun_at_a_time_to_come_it_reads_what_comes(place: Surroundings) -> None:
    place.produce(merges(4))
    with place.bridge("2099-01-01T00:00:00Z") as bridge:
        bridge.until_ready()
        later = merges(4)
        place.produce(later)
        until(place.all_committed, "everything is taken in")
    assert place.runs() == runs_of(later)


def test_it_goes_on_where_the_old_job_has_stopped(place: Surroundings) -> None:
    done, left = merges(4), merges(4)
    place.produce(done)
    with place.bridge("earliest", kafka_group="old-job-of-" + place.settings.env):
        until(lambda: place.all_committed("old-job-of-" + place.settings.env), "the old job's work is done")
    before = place.runs()
    place.produce(left)
    with place.bridge("group:nobody-" + place.settings.env + ",old-job-of-" + place.settings.env):
        until(place.all_committed, "everything is taken in")
    assert place.runs() - before == runs_of(left)
    assert set(place.queued().values()) == {1}


def test_it_does_not_take_over_from_a_job_that_goes_on(place: Surroundings) -> None:
    place.produce(merges(4))
    with place.bridge("earliest", kafka_group="busy-" + place.settings.env) as old:
        old.until_ready()
        until(lambda: place.all_committed("busy-" + place.settings.env), "the old job is at work")
        with place.bridge("group:busy-" + place.settings.env) as bridge:
            bridge.join()
    assert isinstance(bridge.error, Refused)
    assert "1 members at work; stop that job first" in str(bridge.error)


def test_a_group_that_never_read_the_topic_cannot_be_taken_over(place: Surroundings) -> None:
    place.produce(merges(4))
    with place.bridge("group:nobody-" + place.settings.env) as bridge:
        bridge.join()
    assert isinstance(bridge.error, Refused)
    assert f"no offsets for topic {place.topic} there" in str(bridge.error)


def test_where_no_group_has_read_a_topic_it_begins_at_the_end_that_is_said(place: Surroundings) -> None:
    events = merges(4)
    place.produce(events)
    with place.bridge(f"group:nobody-{place.settings.env},earliest"):
        until(place.all_committed, "everything is taken in")
    assert place.runs() == runs_of(events)


def test_it_does_not_take_over_from_a_group_whose_offsets_move(
    place: Surroundings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A Flink job assigns itself its partitions: it is no member of the group that it commits to."""
    place.produce(merges(4))
    group = "flink-" + place.settings.env
    over = threading.Event()

    def commit_on_and_on() -> None:
        with closing(Consumer({"bootstrap.servers": place.settings.kafka_bootstrap, "group.id": group})) as job:
            for offset in itertools.count():
                job.commit(offsets=[TopicPartition(place.topic, 0, offset)], asynchronous=False)
                if over.wait(0.02):
                    return

    job = threading.Thread(target=commit_on_and_on)
    job.start()
    try:
        until(lambda: place.committed(group)[0] > 0, "the job is at work")
        monkeypatch.setattr(kafka_start, "WATCHED", 1.0)
        with place.bridge("group:" + group) as bridge:
            bridge.join()
    finally:
        over.set()
        job.join()
    assert isinstance(bridge.error, Refused)
    assert f"its offsets for topic {place.topic} move; stop that job first" in str(bridge.error)
    assert not place.runs()


def test_when_kafka_has_forgotten_the_offsets_nothing_is_skipped(place: Surroundings) -> None:
    """Whatever `--start` says still: it was said for the first time, which this is not."""
    place.produce(merges(2))
    first, later = merges(4), merges(4)
    with place.bridge("latest") as bridge:
        bridge.until_ready()
        place.produce(first)
        until(place.all_committed, "the first are taken in")
    group = place.settings.kafka_group_or_default
    admin = AdminClient({"bootstrap.servers": str(place.settings.kafka_bootstrap)})
    admin.delete_consumer_groups([group])[group].result()
    place.produce(later)
    with place.bridge("latest"):
        until(lambda: len(place.runs()) == 8, "the others are taken in")
        until(place.all_committed, "the offsets are committed")
    # Nor is anything done that was not ours when the group began.
    assert place.runs() == runs_of(first + later)


def test_a_group_that_has_begun_before_the_ledger_knew_of_it_goes_on(place: Surroundings) -> None:
    done, left = merges(4), merges(4)
    place.produce(done)
    kafka_start.commit(place.settings, {(place.topic, 0): 2, (place.topic, 1): 2})
    place.produce(left)
    with place.bridge(start=None):
        until(place.all_committed, "everything is taken in")
    assert place.runs() == runs_of(left)
    assert place.ledger.beginnings(place.settings.kafka_group_or_default) == {place.topic: 0}


def test_of_a_topic_that_comes_later_it_reads_what_is_not_older_than_its_own_beginning(place: Surroundings) -> None:
    """A broker that has just started may not know of a topic yet that has been there for long."""
    # Not so long ago that the broker would delete them.
    moment = now_ms() - 3_600_000
    place.produce(merges(4), timestamp=moment - 1)
    place.produce(merges(2), timestamp=moment)
    look = functools.partial(kafka_start.look, place.settings, [place.topic], None)
    begun = look({"another topic": moment})
    assert begun.offsets == {(place.topic, 0): 2, (place.topic, 1): 2}
    assert begun.since == {place.topic: moment}
    assert look({"another topic": 0}).offsets == {(place.topic, 0): 0, (place.topic, 1): 0}
    with pytest.raises(Refused):
        look({})


def test_several_bridges_share_the_work(place: Surroundings) -> None:
    events = merges(200)
    with place.bridge() as one, place.bridge() as other:
        for start in range(0, 200, 20):
            place.produce(events[start : start + 20])
        one.until_ready()
        other.until_ready()
        until(lambda: len(place.queued()) == 200 and place.all_committed(), "everything is taken in")
    assert place.runs() == runs_of(events)


class Member:
    """A bridge's partitions without the rest of the bridge."""

    def __init__(self, place: Surroundings) -> None:
        self.partitions = Partitions(place.settings, [place.topic], Health(60))
        self.partitions.join()

    def batch(self, messages: int) -> list[Message]:
        """Fetch until so many messages have come."""
        found: list[Message] = []

        def complete() -> bool:
            found.extend(self.partitions.fetch(100, 0.1))
            return len(found) >= messages

        until(complete, f"{messages} messages come")
        return found

    def close(self) -> None:
        self.partitions.close()


def polling(member: Member, happened: Callable[[], bool]) -> Callable[[], bool]:
    """Ask whether something has happened, with a member at its polls."""

    def ask() -> bool:
        member.partitions.keep_polling(0.05)
        return happened()

    return ask


def both_polling(one: Member, other: Member, happened: Callable[[], bool]) -> Callable[[], bool]:
    """Ask whether something has happened, with both members at their polls."""
    return polling(one, polling(other, happened))


def test_of_a_batch_in_hand_only_what_is_still_ours_is_committed(place: Surroundings) -> None:
    place.produce(merges(20))
    with closing(Member(place)) as one:
        batch = one.batch(20)
        with closing(Member(place)) as other:
            one.partitions.hold("test")
            other.partitions.hold("test")
            until(
                both_polling(one, other, lambda: len(one.partitions.still_ours(batch)) == 10),
                "the other one gets a partition",
            )
            [ours] = {message.partition or 0 for message in one.partitions.still_ours(batch)}
            one.partitions.commit(batch)
            until(both_polling(one, other, lambda: place.committed()[ours] == 10), "what is ours is committed")
            assert place.committed()[1 - ours] == 0
            # What the first had in hand comes to the other.
            other.partitions.release("test")
            again = other.batch(10)
            assert {message.partition for message in again} == {1 - ours}


def test_what_was_lost_while_a_bridge_stood_still_is_the_others_and_not_committed_by_it(
    place: Surroundings, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.produce(merges(20))
    slow = {"max.poll.interval.ms": 2_000}
    monkeypatch.setattr(partitions, "consumer_settings", lambda *given: {**consumer_settings(*given), **slow})
    with closing(Member(place)) as one:
        batch = one.batch(20)
        monkeypatch.undo()
        # Until the other one has everything, the first does not poll.
        with closing(Member(place)) as other:
            other.partitions.commit(other.batch(20))
            until(lambda: not other.partitions.fetch(1, 0.05) and place.all_committed(), "the other one is through")
            until(both_polling(one, other, lambda: not one.partitions.still_ours(batch)), "it is told")
            before = place.committed()
            one.partitions.commit(batch[:1])
            one.partitions.keep_polling(0.5)
            assert place.committed() == before


def test_while_held_no_message_comes_and_none_is_lost(place: Surroundings) -> None:
    with closing(Member(place)) as member:
        member.partitions.hold("test")
        place.produce(merges(10))
        member.partitions.keep_polling(1.0)
        member.partitions.hold("another reason")
        member.partitions.release("test")
        member.partitions.keep_polling(0.5)
        assert place.committed() == {0: 0, 1: 0}
        member.partitions.release("another reason")
        batch = member.batch(10)
        member.partitions.commit(batch)
        until(lambda: not member.partitions.fetch(1, 0.05) and place.all_committed(), "all are committed")
    assert len({(message.partition, message.offset) for message in batch}) == 10


def test_a_member_that_leaves_has_committed_what_it_did(place: Surroundings) -> None:
    place.produce(merges(10))
    with closing(Member(place)) as member:
        member.partitions.commit(member.batch(10))
    assert place.all_committed()


def test_what_was_read_before_its_partition_moved_is_the_others(place: Surroundings) -> None:
    """Were it taken in here, its offset would be committed over the head of the bridge that has the partition now."""
    place.produce(merges(20))
    with closing(Member(place)) as one:
        # Nobody holds it: so all comes while it only polls, as some may between assigning a partition and pausing it.
        until(polling(one, lambda: len(one.partitions._kept) == 20), "all is read")
        with closing(Member(place)) as other:
            other.partitions.hold("test")
            until(both_polling(one, other, lambda: len(other.partitions._mine) == 1), "the other one gets a partition")
            [(_, theirs)] = other.partitions._mine
            assert {message.partition for message in one.partitions.fetch(100, 0.1)} == {1 - theirs}
