"""As `tests.acceptance.dying`, with outgoing events in Kafka.

    python -m tests.acceptance.dying_with_kafka PLAN.json

Each program has topics of its own, by its environment's name. Of what they hold, a death's is what has come since its
copy of the data directory was made.

A call to Kafka is a message handed over, waiting for the confirmations, and having got them. The library sends in a
thread of its own, so that nobody knows how much has arrived of what was handed over: there is a death that does not
wait for it, and one that does.
"""

import json
import os
import sys
import uuid
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from lern import kafka, log
from lern.ledger import Ledger
from lern.settings import Settings, Topic
from lern.store import open_store
from tasks.app import app
from tests.acceptance.calls import CALLS, count_everything
from tests.acceptance.dying import End, Plan, Shard, _in_child, end, tell
from tests.bridges import patiently

TOPICS: Sequence[Topic] = ("coursebatch_job_request", "issue_certificate_request", "telemetry_raw")


class _CountedProducer:
    """A producer whose calls are counted."""

    def __init__(self, config: dict[str, Any], **more: Any) -> None:
        self._real = Producer(config, **more)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def produce(self, *message: Any, **more: Any) -> None:
        CALLS.make("kafka produce")
        CALLS.make("kafka produce, those before have arrived", self._real.flush)
        self._real.produce(*message, **more)

    def flush(self, seconds: float) -> int:
        CALLS.make("kafka flush")
        left: int = self._real.flush(seconds)
        CALLS.make("kafka confirmed")
        return left


@dataclass(frozen=True)
class KafkaShard(Shard):
    """The program at work, with its topics."""

    topics: Mapping[str, str]

    def create_topics(self) -> None:
        """Make them, as children that open Kafka do: whoever forks must not have it open."""

        def create() -> None:
            admin = AdminClient(self._client)
            for done in admin.create_topics([NewTopic(topic, 1, 1) for topic in self.topics]).values():
                done.result()

        assert _in_child(create) == 0

    def _copy(self) -> None:
        super()._copy()

        def note() -> None:
            self._before.write_text(json.dumps(self._highs()))

        assert _in_child(note) == 0

    def _end(self) -> End:
        sent: dict[str, dict[str, str]] = {}
        copies: Counter[str] = Counter()
        for topic, value in self._arrived():
            mid = json.loads(value)["mid"]
            of_topic = sent.setdefault(self.topics[topic], {})
            assert of_topic.setdefault(mid, value) == value, "two events of one mid differ"
            copies[mid] += 1
        return replace(end(self.plan), sent=sent, copies=dict(copies))

    @property
    def _client(self) -> dict[str, Any]:
        return {"bootstrap.servers": os.environ["LERN_KAFKA_BOOTSTRAP"], "group.id": "nobody's", "log_level": 0}

    @property
    def _before(self) -> Path:
        """Where it stands what the topics held before."""
        return self.directory / "before.json"

    def _highs(self) -> dict[str, int]:
        """How much each topic holds."""
        with closing(Consumer(self._client)) as reader:

            def ask() -> dict[str, int]:
                places = {topic: TopicPartition(topic, 0) for topic in self.topics}
                return {topic: reader.get_watermark_offsets(at, timeout=10)[1] for topic, at in places.items()}

            return patiently(ask)

    def _arrived(self) -> list[tuple[str, str]]:
        """What has come to the topics since, with each's topic."""
        before, highs = json.loads(self._before.read_text()), self._highs()
        missing = sum(highs.values()) - sum(before.values())
        found: list[tuple[str, str]] = []
        with closing(Consumer(self._client)) as reader:
            reader.assign([TopicPartition(topic, 0, offset) for topic, offset in before.items()])
            while len(found) < missing:
                some: list[Any] = reader.consume(missing - len(found), 5)
                found += [(message.topic(), message.value().decode()) for message in some]
        return found


def main() -> None:
    """Go through the plan's points; first, as point 0, undisturbed."""
    plan = Plan(**json.loads(Path(sys.argv[1]).read_text()))
    directory = Path(plan.copies) / str(os.getpid())
    os.environ.update(plan.settings, LERN_DATA_DIR=str(directory), LERN_ENV=f"dying-{uuid.uuid4().hex}")
    settings = Settings.load()
    log.configure(settings)
    app.loader.import_default_modules()
    app.finalize()
    count_everything()
    vars(kafka)["Producer"] = _CountedProducer
    topics = {settings.topic(name): name for name in TOPICS}
    ledger = Ledger(settings.ledger_url_or_default)
    shard = KafkaShard(plan, directory, open_store(settings), ledger, topics)
    shard.create_topics()
    tell({"point": 0, **shard.undisturbed()})
    for point in plan.points:
        tell({"point": point, **shard.killed_at(point)})


if __name__ == "__main__":
    main()
