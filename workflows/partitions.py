"""The partitions that a bridge has now: read in batches, held back and let go, their offsets committed when told to.

Other bridges of the group share the topics, and a partition can move at any time that we poll. What was read of
one that has moved is the other bridge's: its offset is not committed any more.
"""

import logging
import time
from collections.abc import Iterable, Sequence
from typing import Any, Final

import structlog
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from lern import metrics
from lern.errors import LernError
from lern.health import Health
from lern.kafka import consumer_settings, translated
from lern.kafka_start import Begun, Partition
from lern.settings import Settings
from workflows.intake import Message

log = structlog.get_logger()

# How long (s) to wait for Kafka's answer to a question that the loop asks in passing.
_ASK: Final = 2.0
# How often (s) the lag is told, and a Kafka that was away is asked whether it is back.
_LOOK_EVERY: Final = 2.0
# How long (s) to wait at the end for the last offsets to be taken, and how long between two looks.
_FAREWELL: Final = 5.0
_BEAT: Final = 0.1
_KAFKA: Final = "kafka"


class Partitions:
    """What this bridge reads from Kafka, as a member of the bridges' group. For one thread."""

    def __init__(self, settings: Settings, topics: Sequence[str], health: Health) -> None:
        """Prepare; the group is joined by `join`."""
        self._topics = list(topics)
        self._health = health
        self._consumer = Consumer(
            {
                **consumer_settings(settings, settings.kafka_group_or_default),
                "error_cb": self._trouble,
                "on_commit": self._answered,
            },
            logger=logging.getLogger("lern.kafka"),
        )
        self._mine: set[Partition] = set()
        self._moved: set[Partition] = set()
        self._done: dict[Partition, int] = {}
        self._asked = False
        self._committed: dict[Partition, int] = {}
        self._holds: set[str] = set()
        # Read and not handed out yet. What is of a partition that moves goes with it: that is the other bridge's.
        self._kept: list[Any] = []
        self._looked_at = 0.0

    def join(self) -> None:
        """Become a member of the group. Partitions come with the first polls."""
        self._consumer.subscribe(self._topics, on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._lost)

    def read_also(self, begun: Begun) -> None:
        """Read topics that the group has not read so far. Raises what a commit does; then nothing has changed."""
        if begun.offsets:
            offsets = [TopicPartition(*partition, offset) for partition, offset in begun.offsets.items()]
            try:
                self._consumer.commit(offsets=offsets, asynchronous=False)
            except KafkaException as error:
                raise translated(error.args[0], "the first offsets of a topic") from error
        self._topics = sorted({*self._topics, *begun.topics})
        self.join()

    def fetch(self, limit: int, seconds: float) -> list[Message]:
        """Give what has come, at most `limit` messages; waits up to `seconds` for the first one.

        What was in hand before is done with: from here on, moved partitions are those that move from now on.
        """
        self._commit_done()
        self._moved.clear()
        if not self._kept:
            self._read(limit, seconds)
        raw, self._kept = self._kept[:limit], self._kept[limit:]
        self._look()
        return [_message(one) for one in raw]

    def keep_polling(self, seconds: float) -> None:
        """Stay a member of the group while nothing can be done with messages."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            self._commit_done()
            # A partition is assigned before we can pause it: what slips through is for the next batch.
            self._read(100, left)

    def hold(self, by: str) -> None:
        """Stop reading, for one of several reasons."""
        if not self._holds and self._mine:
            self._consumer.pause([TopicPartition(*one) for one in self._mine])
        self._holds.add(by)

    def release(self, by: str) -> None:
        """Read on, if no other reason is left."""
        if by not in self._holds:
            return
        self._holds.discard(by)
        if not self._holds and self._mine:
            self._consumer.resume([TopicPartition(*one) for one in self._mine])

    def still_ours(self, batch: Iterable[Message]) -> list[Message]:
        """Give the messages of a batch whose partitions have not moved since it was fetched."""
        return [message for message in batch if _partition(message) not in self._moved]

    def commit(self, batch: Iterable[Message]) -> None:
        """Commit the offsets of a batch that is through, for partitions that have not moved.

        Kafka's answer comes with a later poll: while it is away, waiting for it here would take a minute. What it
        did not take is committed again, at the latest when the partition moves in good order; if that fails, too,
        the batch comes again and changes nothing.
        """
        for message in self.still_ours(batch):
            partition = _partition(message)
            self._done[partition] = max(self._done.get(partition, 0), (message.offset or 0) + 1)
        self._commit_done()

    def close(self) -> None:
        """Commit what is done, if Kafka answers, leave the group, give back the connections."""
        self.hold("close")
        until = time.monotonic() + _FAREWELL
        while self._done and time.monotonic() < until:
            self._commit_done()
            self._consumer.poll(_BEAT)
        self._consumer.close()

    # --- reading

    def _read(self, limit: int, seconds: float) -> None:
        first = self._consumer.poll(seconds)
        if first is None:
            return
        # At once: its partition may move while the rest is read.
        self._keep(first)
        for one in self._consumer.consume(limit - 1, 0) if limit > 1 else ():
            self._keep(one)

    def _keep(self, one: Any) -> None:
        if self._is_message(one):
            self._kept.append(one)

    def _is_message(self, one: Any) -> bool:
        """Tell a message from an error that comes in its place. Raises for one that only a restart can mend."""
        error = one.error()
        if error is None:
            return True
        self._trouble(error)
        if error.fatal():
            raise translated(error)
        return False

    # --- the group

    def _assigned(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        consumer.incremental_assign(partitions)
        if self._holds and partitions:
            consumer.pause(partitions)
        self._mine |= {(one.topic, one.partition) for one in partitions}
        self._health.cleared("group")
        log.info("partitions came", partitions=_named(partitions), mine=len(self._mine))

    def _revoked(self, _consumer: Consumer, partitions: list[TopicPartition]) -> None:
        # The last moment to say how far we have come; the other bridge begins there.
        if self._done:
            try:
                self._consumer.commit(offsets=self._offsets(), asynchronous=False)
            except KafkaException as error:
                log.warning("offsets were not committed, these events come again", reason=error.args[0].str())
        self._forget(partitions)
        log.info("partitions went", partitions=_named(partitions), mine=len(self._mine))

    def _lost(self, _consumer: Consumer, partitions: list[TopicPartition]) -> None:
        # Another bridge has them already, and may be further than we are.
        self._forget(partitions)
        log.warning("partitions were lost", partitions=_named(partitions), mine=len(self._mine))

    def _forget(self, partitions: Iterable[TopicPartition]) -> None:
        gone = {(one.topic, one.partition) for one in partitions}
        self._mine -= gone
        self._moved |= gone
        self._kept = [one for one in self._kept if (one.topic(), one.partition()) not in gone]
        for partition in gone:
            self._done.pop(partition, None)
            if self._committed.pop(partition, None) is not None:
                metrics.bridge_lost(*partition)

    # --- offsets

    def _commit_done(self) -> None:
        """Ask Kafka to take what is done, unless it has been asked and has not answered."""
        if self._done and not self._asked:
            self._consumer.commit(offsets=self._offsets(), asynchronous=True)
            self._asked = True

    def _answered(self, error: KafkaError | None, answers: list[TopicPartition]) -> None:
        self._asked = False
        if error is not None:
            log.warning("offsets are committed later", reason=error.str())
            return
        for answer in answers:
            partition = (answer.topic, answer.partition)
            if answer.error is None and partition in self._done:
                self._committed[partition] = answer.offset
                # It may have gone on since we asked.
                if self._done[partition] <= answer.offset:
                    del self._done[partition]

    def _offsets(self) -> list[TopicPartition]:
        return [TopicPartition(*partition, offset) for partition, offset in self._done.items()]

    # --- what others are told

    def _trouble(self, error: KafkaError) -> None:
        """Note that Kafka does not do what it should; `_look` finds out whether that is over."""
        if self._health.hindered(_KAFKA, error.str()):
            log.warning("kafka is in trouble", reason=error.str())

    def _look(self) -> None:
        """Tell the lag, and whether Kafka is back, every now and then."""
        now = time.monotonic()
        if now - self._looked_at < _LOOK_EVERY:
            return
        self._looked_at = now
        if _KAFKA in self._health.hindrances and self._answers() and self._health.cleared(_KAFKA):
            log.info("kafka is back")
        if _KAFKA not in self._health.hindrances:
            self._tell_lag()

    def _answers(self) -> bool:
        try:
            known = self._consumer.list_topics(timeout=_ASK).topics
        except KafkaException:
            return False
        return all(topic in known and known[topic].error is None for topic in self._topics)

    def _tell_lag(self) -> None:
        try:
            unknown = [TopicPartition(*one) for one in self._mine - self._committed.keys()]
            for found in self._consumer.committed(unknown, timeout=_ASK) if unknown else ():
                self._committed[found.topic, found.partition] = max(found.offset, 0)
            for partition, committed in self._committed.items():
                _, high = self._consumer.get_watermark_offsets(TopicPartition(*partition), cached=True)
                metrics.bridge_lag(*partition, max(0, high - committed))
        except (KafkaException, LernError) as error:
            log.debug("the lag is not known", reason=str(error))


def _message(raw: Any) -> Message:
    return Message(raw.topic(), raw.partition(), raw.offset(), raw.key(), raw.value())


def _partition(message: Message) -> Partition:
    return message.topic or "", message.partition or 0


def _named(partitions: Iterable[TopicPartition]) -> list[str]:
    return [f"{one.topic} [{one.partition}]" for one in partitions]
