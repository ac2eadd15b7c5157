"""Kafka: what producers and consumers are told, each setting with its reason, and sending with confirmed delivery."""

import logging
import os
import socket
import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Final

from confluent_kafka import KafkaError, KafkaException, Producer

from lern.errors import LernError, TooLarge, Transient, Unreachable
from lern.outgoing import OutgoingEvent, Sent
from lern.settings import Settings

log = logging.getLogger(__name__)

Config = dict[str, Any]

# How long (s) a delivery may take before Kafka counts as away. A broker that restarts in good order hands its
# partitions over within a few seconds; a step that waits for longer had better let go of its users.
DELIVERY_SECONDS: Final = 15.0
# What the library may take beyond that until it has said what became of every message.
_SLACK_SECONDS: Final = 5.0
# How long (s) to wait for room in the library's own queue before looking again.
_ROOM_SECONDS: Final = 0.1

# What somebody can mend without touching the event: it is waited for.
_AWAY: Final = frozenset(
    {
        KafkaError._ALL_BROKERS_DOWN,  # noqa: SLF001 - this is how the library names its own errors
        KafkaError._MSG_TIMED_OUT,  # noqa: SLF001
        KafkaError._TIMED_OUT,  # noqa: SLF001
        KafkaError._TIMED_OUT_QUEUE,  # noqa: SLF001
        KafkaError._TRANSPORT,  # noqa: SLF001
        KafkaError._RESOLVE,  # noqa: SLF001
        KafkaError._UNKNOWN_TOPIC,  # noqa: SLF001
        KafkaError._UNKNOWN_PARTITION,  # noqa: SLF001
        KafkaError._AUTHENTICATION,  # noqa: SLF001
        KafkaError._SSL,  # noqa: SLF001
        KafkaError._WAIT_COORD,  # noqa: SLF001
        KafkaError._PURGE_QUEUE,  # noqa: SLF001
        KafkaError._PURGE_INFLIGHT,  # noqa: SLF001
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.REQUEST_TIMED_OUT,
        KafkaError.BROKER_NOT_AVAILABLE,
        KafkaError.REPLICA_NOT_AVAILABLE,
        KafkaError.NETWORK_EXCEPTION,
        KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
        KafkaError.COORDINATOR_NOT_AVAILABLE,
        KafkaError.NOT_COORDINATOR,
        KafkaError.NOT_ENOUGH_REPLICAS,
        KafkaError.NOT_ENOUGH_REPLICAS_AFTER_APPEND,
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.GROUP_AUTHORIZATION_FAILED,
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
    }
)


def common_settings(settings: Settings) -> Config:
    """Give what producers and consumers are told alike."""
    return {
        "bootstrap.servers": settings.kafka_bootstrap,
        # Who it is, in the broker's logs and quotas.
        "client.id": f"lern-{socket.gethostname()}-{os.getpid()}",
        # Confirmations and small events must not wait for more bytes to fill a packet.
        "socket.nagle.disable": True,
        # A broker that says nothing for so long is away; the default of a minute is how long a farewell would take.
        "socket.timeout.ms": 10_000,
        # A broker that comes back is tried again within a second or two, however long it was away.
        "reconnect.backoff.max.ms": 2_000,
        # A misspelt topic must be an error, not a new topic.
        "allow.auto.create.topics": False,
        # An idle connection that the broker closes is no news.
        "log.connection.close": False,
        **_security(settings),
    }


def _security(settings: Settings) -> Config:
    """Give how the listener is spoken to: with which encryption, and as whom."""
    given = {
        "security.protocol": settings.kafka_security_protocol,
        "sasl.mechanism": settings.kafka_sasl_mechanism,
        "sasl.username": settings.kafka_sasl_username,
        "sasl.password": settings.kafka_sasl_password,
        "ssl.ca.location": settings.kafka_ssl_ca,
        "ssl.certificate.location": settings.kafka_ssl_certificate,
        "ssl.key.location": settings.kafka_ssl_key,
    }
    return {name: str(value) for name, value in given.items() if value is not None}


def producer_settings(settings: Settings) -> Config:
    """Give what a producer is told."""
    return {
        **common_settings(settings),
        # Confirmed means that every replica in sync has it: the row that the event announces is durable, too.
        "acks": "all",
        # A retry within the library neither doubles an event nor changes the order.
        "enable.idempotence": True,
        # One request at a time: a broker that does not know the topic yet might refuse the first and take the second,
        # and then take the first, sent again, for one that it has.
        "max.in.flight": 1,
        # After that `send` raises, and whoever called decides.
        "delivery.timeout.ms": round(DELIVERY_SECONDS * 1000),
        # `send` waits for confirmations, so waiting for company only delays. Events of one call go together anyway.
        "linger.ms": 0,
        # What Sunbird's own producers use.
        "compression.type": "snappy",
        # Each topic has its own limit, telemetry's is 1.5 MB: the broker is to decide, not the library.
        "message.max.bytes": 2_000_000,
        # Several events that go together must stay below the smallest limit of a topic (1 MB) together.
        "batch.size": 500_000,
    }


def consumer_settings(settings: Settings, group: str) -> Config:
    """Give what a bridge's consumer is told."""
    return {
        **common_settings(settings),
        "group.id": group,
        # Bridges that come and go take only the partitions that move away from the others.
        "partition.assignment.strategy": "cooperative-sticky",
        # Offsets are committed when a batch is through, by us alone.
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        # What a producer took back never happened.
        "isolation.level": "read_committed",
        # Only for partitions that are new, or whose offset has expired: what is still there is read.
        # Where a group without offsets begins is decided before it joins, see `lern.kafka_start`.
        "auto.offset.reset": "earliest",
        # A killed bridge's partitions are another's after this long.
        "session.timeout.ms": round(settings.kafka_session_timeout * 1000),
        "heartbeat.interval.ms": round(settings.kafka_session_timeout * 1000 / 3),
        # The slowest batch waits for the ledger's lock and Kafka's confirmations, well below this.
        "max.poll.interval.ms": 300_000,
        # Bounds the memory: this much is read ahead, of all partitions together.
        "queued.max.messages.kbytes": 16_384,
        "queued.min.messages": 5_000,
        # When those bounds were met, look again soon: the default of 1 s would cap the throughput.
        "fetch.queue.backoff.ms": 20,
        # How long the broker may hold an idle request back; an event that comes is answered at once.
        "fetch.wait.max.ms": 500,
        # A topic that gets more partitions is noticed within this.
        "topic.metadata.refresh.interval.ms": 60_000,
    }


def translated(error: KafkaError, about: str = "") -> LernError:
    """Say what a Kafka error means to us. `about` names what it happened to."""
    text = f"{about}: {error.str()}" if about else error.str()
    if error.code() == KafkaError.MSG_SIZE_TOO_LARGE:
        return TooLarge(text)
    if error.code() in _AWAY or error.retriable():
        return Unreachable("kafka", text)
    return Transient(f"kafka: {text}")


class Trouble:
    """The last that a client of the library has complained of: a call that it was in the way of only times out."""

    def __init__(self) -> None:
        """Know of none."""
        self._last = ""

    def note(self, error: KafkaError) -> None:
        """Take note; for `error_cb`. That all brokers are down says less than what came before it."""
        if error.code() != KafkaError._ALL_BROKERS_DOWN or not self._last:  # noqa: SLF001 - as above
            self._last = error.str()

    def forget(self) -> None:
        """Begin anew."""
        self._last = ""

    def told(self, text: str) -> str:
        """Give what a call said, with what was behind it."""
        return f"{text} ({self._last})" if self._last else text


class KafkaSender:
    """Sends events to Kafka; see `Sender` for what that promises.

    One producer per process, made when the first event is sent: the library does not survive a fork.
    """

    def __init__(self, settings: Settings, more: Mapping[str, Any] | None = None) -> None:
        """Remember the settings; nothing is opened. `more` overrides what producers are told."""
        self._trouble = Trouble()
        self._config = {**producer_settings(settings), "error_cb": self._trouble.note, **(more or {})}
        self._seconds = float(self._config["delivery.timeout.ms"]) / 1000 + _SLACK_SECONDS
        self._made: Producer | None = None
        self._pid: int | None = None

    def send(self, events: Sequence[OutgoingEvent]) -> Sent:
        """See `Sender`. Nothing that failed is delivered after it: what is sent again is not overtaken by itself."""
        sent = self._send_together(events) if events else Sent()
        if len(events) == 1:
            return sent
        # What goes together is refused together: only alone it shows which of them is too large.
        alone = (self._send_together([event]) for event in sent.too_large)
        return sum(alone, sent.without_too_large())

    def _send_together(self, events: Sequence[OutgoingEvent]) -> Sent:
        deliveries = _Deliveries(events)
        self._trouble.forget()
        producer = self._producer()
        try:
            self._hand_over(producer, deliveries)
            producer.flush(self._seconds)
            sent = deliveries.outcome(self._trouble)
        except BaseException:
            self._give_up(producer)
            raise
        if sent.failed:
            self._give_up(producer)
        return sent

    def close(self) -> None:
        """Give back the connections."""
        if self._made is not None and self._pid == os.getpid():
            self._made.flush(0)
        self._made = None

    def _hand_over(self, producer: Producer, deliveries: "_Deliveries") -> None:
        deadline = time.monotonic() + self._seconds
        for index, event in enumerate(deliveries.events):
            told = partial(deliveries.note, index)
            while True:
                try:
                    producer.produce(event.topic, event.value, event.key, on_delivery=told)
                    break
                except BufferError:
                    if time.monotonic() > deadline:
                        # The others stay unconfirmed as well.
                        return
                    producer.poll(_ROOM_SECONDS)
                except KafkaException as error:
                    deliveries.note(index, error.args[0])
                    break
            producer.poll(0)

    def _producer(self) -> Producer:
        if self._made is None or self._pid != os.getpid():
            self._made, self._pid = Producer(self._config, logger=log), os.getpid()
        return self._made

    def _give_up(self, producer: Producer) -> None:
        """Take back what is not on its way yet, and start afresh the next time."""
        producer.purge()
        producer.flush(0)
        self._made = None


class _Deliveries:
    """What became of the events of one call, as the library tells one by one."""

    def __init__(self, events: Sequence[OutgoingEvent]) -> None:
        self.events = events
        self._told: dict[int, KafkaError | None] = {}

    def note(self, index: int, error: KafkaError | None, _message: Any = None) -> None:
        """Take note of one event's end."""
        self._told[index] = error

    def outcome(self, trouble: Trouble) -> Sent:
        """Say what became of them. `trouble`: what the library has complained of meanwhile."""
        confirmed, failed = [], []
        for index, event in enumerate(self.events):
            problem = self._problem(index, event, trouble)
            if problem is None:
                confirmed.append(event)
            else:
                failed.append((event, problem))
        return Sent(tuple(confirmed), tuple(failed))

    def _problem(self, index: int, event: OutgoingEvent, trouble: Trouble) -> LernError | None:
        if index not in self._told:
            return Unreachable("kafka", trouble.told(f"{_named(event)}: not confirmed"))
        error = self._told[index]
        problem = None if error is None else translated(error, _named(event))
        return Unreachable("kafka", trouble.told(problem.problem)) if isinstance(problem, Unreachable) else problem


def _named(event: OutgoingEvent) -> str:
    return f"event {event.mid} for {event.topic}, {len(event.value)} bytes"
