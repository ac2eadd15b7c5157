"""Events on their way out: when sending returns, Kafka has them."""

import multiprocessing
import random
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from lern.errors import TooLarge, Unreachable
from lern.kafka import KafkaSender, producer_settings
from lern.outgoing import FileSender, OutgoingEvent
from lern.services import Services
from lern.settings import Settings
from tests.servers.server import Server

# Less patient than production, and patient enough for a busy machine.
QUICK = {"delivery.timeout.ms": 4_000}


def create(server: Server, topic: str, config: dict[str, str] | None = None) -> None:
    admin = AdminClient({"bootstrap.servers": server.address})
    admin.create_topics([NewTopic(topic, 2, 1, config=config or {})])[topic].result()


@pytest.fixture
def topic(kafka: Server) -> str:
    name = f"out-{uuid.uuid4().hex}"
    create(kafka, name)
    return name


@pytest.fixture
def sender(kafka: Server) -> Iterator[KafkaSender]:
    made = KafkaSender(Settings(kafka_bootstrap=kafka.address), QUICK)
    yield made
    made.close()


def event(topic: str, number: int = 0, key: bytes | None = None, value: bytes = b"") -> OutgoingEvent:
    return OutgoingEvent(f"mid-{number}", topic, key, value or b"%d" % number)


def arrived(server: Server, topic: str) -> list[Any]:
    """All that a topic holds, partition by partition."""
    reader = Consumer({"bootstrap.servers": server.address, "group.id": uuid.uuid4().hex, "log_level": 0})
    found: list[Any] = []
    for number in range(2):
        at = TopicPartition(topic, number, 0)
        _, high = reader.get_watermark_offsets(at, timeout=10)
        reader.assign([at])
        while high and (not found or found[-1].partition() != number or found[-1].offset() < high - 1):
            found += [one for one in reader.consume(high, 5) if one.error() is None]
    reader.close()
    return found


def test_what_was_sent_is_there(kafka: Server, topic: str, sender: KafkaSender) -> None:
    sender.send([event(topic, n, b"key" if n % 2 else None) for n in range(500)])
    found = arrived(kafka, topic)
    assert sorted(int(one.value()) for one in found) == list(range(500))
    assert {one.key() for one in found} == {b"key", None}


def test_events_of_one_key_keep_their_order(kafka: Server, topic: str, sender: KafkaSender) -> None:
    for start in range(0, 300, 100):
        sender.send([event(topic, n, b"user") for n in range(start, start + 100)])
    assert [int(one.value()) for one in arrived(kafka, topic)] == list(range(300))


def test_nothing_to_send_needs_no_kafka() -> None:
    KafkaSender(Settings(kafka_bootstrap="127.0.0.1:1"), QUICK).send([])


def test_without_kafka_it_raises_and_with_it_back_it_sends(kafka: Server, topic: str, sender: KafkaSender) -> None:
    sender.send([event(topic, 1)])
    kafka.stop()
    with pytest.raises(Unreachable, match="kafka cannot be reached"):
        sender.send([event(topic, 2)]).check()
    kafka.start()
    sender.send([event(topic, 3)])
    assert {1, 3} <= {int(one.value()) for one in arrived(kafka, topic)}


def test_a_topic_that_is_not_there_is_waited_for(kafka: Server, sender: KafkaSender) -> None:
    missing = f"missing-{uuid.uuid4().hex}"
    with pytest.raises(Unreachable, match=missing):
        sender.send([event(missing)]).check()
    create(kafka, missing)
    sender.send([event(missing, 7)])
    assert [one.value() for one in arrived(kafka, missing)] == [b"7"]


def test_one_that_fails_stops_none_of_the_others(kafka: Server, topic: str, sender: KafkaSender) -> None:
    missing = event(f"missing-{uuid.uuid4().hex}", 1)
    long = [event(topic, 2, value=random.randbytes(size)) for size in (1_100_000, 3_000_000)]
    short = [event(topic, number) for number in (3, 4, 5)]
    sent = sender.send([missing, *short[:1], *long, *short[1:]])
    assert set(sent.confirmed) == set(short)
    assert {one: type(error) for one, error in sent.failed} == {
        missing: Unreachable,
        **dict.fromkeys(long, TooLarge),
    }
    assert sorted(one.value() for one in arrived(kafka, topic)) == [b"3", b"4", b"5"]


def test_together_too_large_they_go_one_by_one(kafka: Server, sender: KafkaSender) -> None:
    topic = f"narrow-{uuid.uuid4().hex}"
    create(kafka, topic, config={"max.message.bytes": "2000"})
    events = [event(topic, number, value=random.randbytes(1_500)) for number in range(6)]
    assert set(sender.send(events).confirmed) == set(events)
    assert {one.value() for one in arrived(kafka, topic)} == {one.value for one in events}


@pytest.mark.parametrize("size", [1_100_000, 3_000_000])
def test_an_event_that_its_topic_does_not_take_is_told_from_a_kafka_that_is_away(
    topic: str, sender: KafkaSender, size: int
) -> None:
    with pytest.raises(TooLarge, match=topic):
        sender.send([event(topic, value=random.randbytes(size))]).check()
    sender.send([event(topic, 1)]).check()


def send_in_a_child(topic: str) -> None:
    INHERITED["sender"].send([event(topic, 2)])


INHERITED: dict[str, KafkaSender] = {}


def test_a_forked_child_has_a_producer_of_its_own(kafka: Server, topic: str, sender: KafkaSender) -> None:
    sender.send([event(topic, 1)])
    INHERITED["sender"] = sender
    child = multiprocessing.get_context("fork").Process(target=send_in_a_child, args=(topic,))
    child.start()
    child.join(30)
    assert child.exitcode == 0
    sender.send([event(topic, 3)])
    assert sorted(int(one.value()) for one in arrived(kafka, topic)) == [1, 2, 3]


def test_confirmed_means_by_every_replica_and_once() -> None:
    told = producer_settings(Settings(kafka_bootstrap="k:9092"))
    assert told["acks"] == "all"
    assert told["enable.idempotence"] is True


def test_events_go_to_kafka_where_there_is_one_and_to_files_where_there_is_none() -> None:
    assert isinstance(Services(Settings(kafka_bootstrap="k:9092")).sender, KafkaSender)
    assert isinstance(Services(Settings()).sender, FileSender)
