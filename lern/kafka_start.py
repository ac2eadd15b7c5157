"""Where a group of bridges begins that has no offsets yet.

Guessing would replay two days of merges that the old job has done, or skip what nobody has done. So whoever starts
the first bridge says it, and it is written down as committed offsets before anything is read: a bridge that is
killed before its first commit begins in the same place.
"""

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Literal

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient

from lern.errors import Refused, Unreachable
from lern.kafka import common_settings, consumer_settings, translated
from lern.settings import Settings

CHOICES: Final = "latest, earliest, a time as 2024-05-01T12:00:00Z, or group:NAME"
_SECONDS: Final = 10.0

Partition = tuple[str, int]


@dataclass(frozen=True)
class End:
    """Begin at one end of every partition."""

    which: Literal["latest", "earliest"]


@dataclass(frozen=True)
class Moment:
    """Begin with the first message that is not older than a time (ms since 1970 UTC)."""

    time: int


@dataclass(frozen=True)
class Groups:
    """Go on where other groups stopped: of each topic the first one that has read it."""

    names: tuple[str, ...]


Start = End | Moment | Groups


def parse(text: str) -> Start:
    """Read what `--start` says. A time without an offset is this machine's. Raises `Refused`."""
    match text.strip():
        case "latest" | "earliest" as which:
            return End(which)
        case words if words.startswith("group:"):
            names = tuple(name.strip() for name in words.removeprefix("group:").split(",") if name.strip())
            if names:
                return Groups(names)
        case words:
            try:
                return Moment(round(datetime.fromisoformat(words).astimezone(UTC).timestamp() * 1000))
            except (ValueError, OverflowError):
                pass
    raise Refused(f"--start {text!r}: {CHOICES} was expected")


@dataclass(frozen=True)
class Begun:
    """The topics that are there, and where those begin that the group has never read."""

    topics: tuple[str, ...]
    offsets: dict[Partition, int]

    @property
    def known(self) -> tuple[str, ...]:
        """The topics that the group has offsets for."""
        new = {topic for topic, _ in self.offsets}
        return tuple(topic for topic in self.topics if topic not in new)


def look(settings: Settings, topics: Sequence[str], start: Start | None) -> Begun:
    """Find out where the bridges' group is to begin: nowhere in a topic that it has any offset of.

    A topic that is not there is left out: not every installation has all of them, and to begin with one that is made
    later is a decision like the first. Raises `Refused` where the place to begin is not said or cannot be,
    `Unreachable` while Kafka or all of the topics are not there.
    """
    group = settings.kafka_group_or_default
    with closing(_Reader(settings, group)) as reader:
        there = tuple(topic for topic in topics if reader.partitions(topic))
        if not there:
            raise Unreachable("kafka", f"there is no topic {' and no topic '.join(topics)}")
        new = [topic for topic in there if not reader.committed(topic)]
        offsets: dict[Partition, int] = {}
        for topic in new:
            offsets |= _offsets(settings, reader, group, topic, start)
    return Begun(there, offsets)


def commit(settings: Settings, offsets: Mapping[Partition, int]) -> None:
    """Write down where the group begins. Raises `Transient` while it has a member, who alone can do that then."""
    with closing(_Reader(settings, settings.kafka_group_or_default)) as reader:
        reader.commit(offsets)


def _offsets(
    settings: Settings, reader: "_Reader", group: str, topic: str, start: Start | None
) -> dict[Partition, int]:
    """Give the offset at which each partition of a topic begins."""
    ends = reader.ends(topic)
    if all(low == high for low, high in ends.values()):
        # There is nothing to replay or to skip.
        return {partition: high for partition, (_, high) in ends.items()}
    match start:
        case None:
            raise Refused(
                f"consumer group {group} has no offsets for topic {topic}, where messages wait; say where to begin: "
                f"--start {CHOICES} (the group of the job that did this work before)"
            )
        case End("latest"):
            return {partition: high for partition, (_, high) in ends.items()}
        case End():
            return {partition: low for partition, (low, _) in ends.items()}
        case Moment(time):
            found = reader.at(topic, time)
            return {partition: found.get(partition, high) for partition, (_, high) in ends.items()}
        case Groups(names):
            return _taken_over(settings, names, topic, ends)


def _taken_over(
    settings: Settings, names: Sequence[str], topic: str, ends: Mapping[Partition, tuple[int, int]]
) -> dict[Partition, int]:
    """Give the offsets of the first group that has any. A partition that it has never read begins at its start."""
    for name in names:
        with closing(_Reader(settings, name)) as reader:
            known = reader.committed(topic)
        if known:
            _refuse_if_at_work(settings, name)
            return {partition: known.get(partition, low) for partition, (low, _) in ends.items()}
    raise Refused(f"--start group:{','.join(names)}: no offsets for topic {topic} there")


def _refuse_if_at_work(settings: Settings, group: str) -> None:
    """Refuse to take over from a job that goes on: both would do the same merges, each in its own way."""
    admin = AdminClient(common_settings(settings))
    try:
        found = admin.describe_consumer_groups([group], request_timeout=_SECONDS)[group].result()
    except KafkaException as error:
        raise translated(error.args[0], f"group {group}") from error
    if found.members:
        raise Refused(f"--start group:{group}: it has {len(found.members)} members at work; stop that job first")


class _Reader:
    """Looks at topics and at one group's offsets without joining the group."""

    def __init__(self, settings: Settings, group: str) -> None:
        self._consumer = Consumer(consumer_settings(settings, group))

    def committed(self, topic: str) -> dict[Partition, int]:
        """Give the group's offsets of those partitions for which it has any."""
        asked = [TopicPartition(topic, number) for number in self.partitions(topic)]
        try:
            found = self._consumer.committed(asked, timeout=_SECONDS)
        except KafkaException as error:
            raise translated(error.args[0], topic) from error
        return {(topic, one.partition): one.offset for one in found if one.offset >= 0}

    def ends(self, topic: str) -> dict[Partition, tuple[int, int]]:
        """Give the first offset of every partition, and the one that the next message will get."""
        result: dict[Partition, tuple[int, int]] = {}
        for number in self.partitions(topic):
            try:
                found = self._consumer.get_watermark_offsets(TopicPartition(topic, number), timeout=_SECONDS)
            except KafkaException as error:
                raise translated(error.args[0], topic) from error
            if found is None:
                raise Unreachable("kafka", f"{topic} [{number}] does not say where it ends")
            result[topic, number] = found
        return result

    def at(self, topic: str, time: int) -> dict[Partition, int]:
        """Give the offset of the first message since a time, of those partitions that have one."""
        asked = [TopicPartition(topic, number, time) for number in self.partitions(topic)]
        try:
            found = self._consumer.offsets_for_times(asked, timeout=_SECONDS)
        except KafkaException as error:
            raise translated(error.args[0], topic) from error
        return {(topic, one.partition): one.offset for one in found if one.offset >= 0}

    def commit(self, offsets: Mapping[Partition, int]) -> None:
        """Commit offsets for the group; Kafka refuses that while a member is at work."""
        wanted = [TopicPartition(topic, number, offset) for (topic, number), offset in offsets.items()]
        try:
            self._consumer.commit(offsets=wanted, asynchronous=False)
        except KafkaException as error:
            raise translated(error.args[0], "the group's first offsets") from error

    def close(self) -> None:
        """Give back the connections."""
        self._consumer.close()

    def partitions(self, topic: str) -> list[int]:
        """Give the numbers of a topic's partitions; none if there is no such topic."""
        try:
            found = self._consumer.list_topics(timeout=_SECONDS).topics.get(topic)
        except KafkaException as error:
            raise translated(error.args[0], topic) from error
        if found is None or (found.error is not None and found.error.code() == KafkaError.UNKNOWN_TOPIC_OR_PART):
            return []
        if found.error is not None:
            raise translated(found.error, topic)
        return sorted(found.partitions)
