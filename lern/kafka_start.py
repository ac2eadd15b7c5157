"""Where a group of bridges begins in a topic that it has no offsets of.

Guessing would replay two days of merges that the old job has done, or skip what nobody has done. So whoever starts
the first bridge says it, and it is written down as committed offsets before anything is read: a bridge that is
killed before its first commit begins in the same place.

It is said once. The ledger keeps since when messages are the group's, and that holds for topics that come later, and
for those of which Kafka has forgotten the group's offsets: there nothing may be skipped, and what was done before
changes nothing when it comes again.
"""

import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Literal

import structlog
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient

from lern.errors import Refused, Unreachable
from lern.kafka import common_settings, consumer_settings, translated
from lern.settings import Settings

log = structlog.get_logger()

CHOICES: Final = "latest, earliest, a time as 2024-05-01T12:00:00Z, or group:NAME"
_SECONDS: Final = 10.0
# How long (s) a group that is taken over is watched: one at work may commit within that.
WATCHED: Final = 5.0

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
    """Go on where other groups stopped: of each topic the first one that has read it, `otherwise` at an end."""

    names: tuple[str, ...]
    otherwise: End | None = None


Start = End | Moment | Groups


def parse(text: str) -> Start:
    """Read what `--start` says. A time without an offset is this machine's. Raises `Refused`."""
    words = text.strip()
    start = _end_named(words) or (_groups(words) if words.startswith("group:") else _moment(words))
    if start is None:
        raise Refused(f"--start {text!r}: {CHOICES} was expected")
    return start


def _end_named(text: str) -> End | None:
    match text:
        case "latest" | "earliest" as which:
            return End(which)
    return None


def _groups(text: str) -> Groups | None:
    names = [name.strip() for name in text.removeprefix("group:").split(",") if name.strip()]
    otherwise = _end_named(names[-1]) if names else None
    names = names[:-1] if otherwise else names
    return Groups(tuple(names), otherwise) if names else None


def _moment(text: str) -> Moment | None:
    try:
        return Moment(round(datetime.fromisoformat(text).astimezone(UTC).timestamp() * 1000))
    except (ValueError, OverflowError):
        return None


@dataclass(frozen=True)
class Begun:
    """The topics that are there, and what is to be written down of those that are new to the group.

    `offsets`: where they begin, in Kafka. `since`: the time (ms) from which on their messages are the group's, in the
    ledger.
    """

    topics: tuple[str, ...]
    offsets: dict[Partition, int]
    since: dict[str, int]

    @property
    def known(self) -> "Begun":
        """The same without the topics that the group has no offsets for."""
        new = {topic for topic, _ in self.offsets}
        topics = tuple(topic for topic in self.topics if topic not in new)
        return Begun(topics, {}, {topic: moment for topic, moment in self.since.items() if topic not in new})


def look(settings: Settings, topics: Sequence[str], start: Start | None, since: Mapping[str, int]) -> Begun:
    """Find out where the bridges' group is to begin: nowhere in a topic that it has any offset of.

    `since`: what the ledger has of the group. A topic that is not there is left out: not every installation has all of
    them. Raises `Refused` where the place to begin is not said or cannot be, `Unreachable` while Kafka or all of the
    topics are not there.
    """
    group = settings.kafka_group_or_default
    with closing(_Reader(settings, group)) as reader:
        there = tuple(topic for topic in topics if reader.partitions(topic))
        if not there:
            raise Unreachable("kafka", f"there is no topic {' and no topic '.join(topics)}")
        read = {topic for topic in there if reader.committed(topic)}
        # Before this was written down in the ledger, offsets were all that told of a group that has begun.
        known = {**dict.fromkeys(read, 0), **since}
        begun = Begun(there, {}, {topic: moment for topic, moment in known.items() if topic not in since})
        for topic in sorted(set(there) - read):
            offsets, moment = _place(_Question(settings, reader, topic, start), known)
            begun.offsets.update(offsets)
            begun.since[topic] = moment
    return begun


def commit(settings: Settings, offsets: Mapping[Partition, int]) -> None:
    """Write down where the group begins. Raises `Transient` while it has a member, who alone can do that then."""
    with closing(_Reader(settings, settings.kafka_group_or_default)) as reader:
        reader.commit(offsets)


# Where each partition begins, and since when the topic's messages are the group's.
_Place = tuple[dict[Partition, int], int]


@dataclass(frozen=True)
class _Question:
    """What there is to decide by where a topic begins that the group has no offsets of."""

    settings: Settings
    reader: "_Reader"
    topic: str
    start: Start | None


def _place(asked: _Question, known: Mapping[str, int]) -> _Place:
    """Decide. `known`: the topics that the group has begun, each with the time since which its messages count."""
    if asked.topic in known:
        log.warning("kafka has forgotten the group's offsets: what is still there is read", topic=asked.topic)
        return _since(asked, known[asked.topic])
    if known:
        # It came after the group had begun.
        return _taken_over(asked) or _since(asked, min(known.values()))
    return _said(asked)


def _said(asked: _Question) -> _Place:
    """Begin where `--start` says. Raises `Refused` if it does not."""
    ends = asked.reader.ends(asked.topic)
    if all(low == high for low, high in ends.values()) and not isinstance(asked.start, End):
        # There is nothing to replay or to skip.
        return _end(asked, End("latest"))
    match asked.start:
        case None:
            raise Refused(
                f"consumer group {asked.settings.kafka_group_or_default} has no offsets for topic {asked.topic}, where "
                f"messages wait; say where to begin: --start {CHOICES} (the group of the job that did this work before)"
            )
        case End() as end:
            return _end(asked, end)
        case Moment(moment):
            return _since(asked, min(moment, _now()))
        case Groups(names, otherwise):
            if (taken := _taken_over(asked)) is not None:
                return taken
            if otherwise is not None:
                return _end(asked, otherwise)
            given = f"group:{','.join(names)}"
            raise Refused(
                f"--start {given}: no offsets for topic {asked.topic} there; say at which end to begin with such a "
                f"topic: {given},latest or {given},earliest"
            )


def _end(asked: _Question, end: End) -> _Place:
    # Before the offsets are asked for: what comes in between is read twice rather than not at all.
    now = _now()
    ends = asked.reader.ends(asked.topic)
    if end.which == "latest":
        return {partition: high for partition, (_, high) in ends.items()}, now
    return {partition: low for partition, (low, _) in ends.items()}, 0


def _since(asked: _Question, moment: int) -> _Place:
    """Begin with the first message that is not older than a moment (ms); 0: with the first that is there."""
    if not moment:
        return _end(asked, End("earliest"))
    ends = asked.reader.ends(asked.topic)
    found = asked.reader.at(asked.topic, moment)
    return {partition: found.get(partition, high) for partition, (_, high) in ends.items()}, moment


def _now() -> int:
    return time.time_ns() // 1_000_000


def _taken_over(asked: _Question) -> _Place | None:
    """Begin where the first of the groups has stopped that has read the topic; None where none has.

    A partition that it has never read begins at its start.
    """
    for name in asked.start.names if isinstance(asked.start, Groups) else ():
        with closing(_Reader(asked.settings, name)) as other:
            known = other.committed(asked.topic)
            if known:
                _refuse_if_at_work(asked, name, other, known)
                ends = asked.reader.ends(asked.topic)
                return {partition: known.get(partition, low) for partition, (low, _) in ends.items()}, 0
    return None


def _refuse_if_at_work(asked: _Question, group: str, other: "_Reader", known: Mapping[Partition, int]) -> None:
    """Refuse to take over from a job that goes on: both would do the same merges, each in its own way.

    A job of Flink's is no member of its group, and commits at its checkpoints alone. So not every one is noticed.
    """
    admin = AdminClient(common_settings(asked.settings))
    try:
        found = admin.describe_consumer_groups([group], request_timeout=_SECONDS)[group].result()
    except KafkaException as error:
        raise translated(error.args[0], f"group {group}") from error
    if found.members:
        raise Refused(f"--start group:{group}: it has {len(found.members)} members at work; stop that job first")
    time.sleep(WATCHED)
    if other.committed(asked.topic) != known:
        raise Refused(f"--start group:{group}: its offsets for topic {asked.topic} move; stop that job first")
    log.warning(
        "takes over from a group: that a Flink job has ended cannot be seen between two of its checkpoints, make sure",
        group=group,
        topic=asked.topic,
    )


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
