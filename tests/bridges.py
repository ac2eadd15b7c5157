"""A bridge's surroundings: topics of its own, a ledger and a queue; and bridges in threads or as processes."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Final, TypeVar

from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from lern import events, kafka_start
from lern.errors import Unreachable
from lern.kafka import translated
from lern.ledger import Ledger
from lern.services import Services
from lern.settings import Settings, Topic
from workflows import kafka_bridge

T = TypeVar("T")

ROOT: Final = Path(__file__).resolve().parents[1]
PARTITIONS: Final = 2
PATIENCE: Final = 40.0
# What the tests write with: a transaction marker would count as a message, so plain.
Values = Sequence[bytes | None]


def until(happened: Callable[[], object], what: str, patience: float = PATIENCE) -> None:
    """Wait until something has happened; fail, with `what` it was, when it does not."""
    deadline = time.monotonic() + patience
    while not happened():
        assert time.monotonic() < deadline, f"waited in vain: {what}"
        time.sleep(0.02)


@dataclass
class Surroundings:
    """One installation by its environment's name, which is unique, so that tests share servers."""

    settings: Settings
    parts: Services = field(init=False)
    _processes: list["BridgeProcess"] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        self.parts = Services(self.settings)
        # One request at a time: what is sent again, as to a topic that is new, must not come after what follows it.
        more = {"linger.ms": 5, "message.max.bytes": 2_000_000, "enable.idempotence": True, "max.in.flight": 1}
        self.producer = Producer({**self._client, **more})

    @cached_property
    def _admin(self) -> AdminClient:
        return AdminClient(self._client)

    @property
    def _client(self) -> dict[str, Any]:
        # A broker that a test stops is no news.
        return {"bootstrap.servers": self.settings.kafka_bootstrap, "log_level": 0}

    @property
    def topic(self) -> str:
        return self.settings.topic("user_account_merge")

    @property
    def failed_topic(self) -> str:
        return self.settings.topic("learning_events_failed")

    @property
    def ledger(self) -> Ledger:
        return self.parts.ledger

    def create_topics(self, *names: str, config: dict[str, str] | None = None) -> None:
        wanted = [NewTopic(name, PARTITIONS, 1, config=config or {}) for name in names]
        for done in self._admin.create_topics(wanted).values():
            done.result()

    def produce(self, values: Values, key: bytes | None = None, **more: Any) -> None:
        """Write messages, one after the other to either partition."""
        for number, value in enumerate(values):
            self.producer.produce(self.topic, value, key, **{"partition": number % PARTITIONS, **more})
            self.producer.poll(0)
        assert self.producer.flush(30) == 0

    def runs(self) -> set[str]:
        """The ids of all runs in the ledger."""
        return {run.id for run in self.ledger.runs(limit=100_000)}

    def queued(self) -> Counter[str]:
        """How many messages of each run are in the queue."""
        return _runs_of(self.parts.broker.lrange(self.settings.queue, 0, -1))

    def work_off(self) -> Counter[str]:
        """Empty the queue as workers would, and say what was in it."""
        with self.parts.broker.pipeline(transaction=True) as pipeline:
            pipeline.lrange(self.settings.queue, 0, -1)
            pipeline.delete(self.settings.queue)
            return _runs_of(pipeline.execute()[0])

    def how_many(self) -> int:
        """How many runs there are."""
        return sum(self.ledger.counts().values())

    def dead(self) -> dict[bytes, int]:
        """How often each dead letter of the ledger came, by its bytes."""
        return {letter.value: letter.count for letter in self.ledger.dead_letters(limit=100_000)}

    def announced(self) -> list[dict[str, Any]]:
        """All that the topic of failed events holds."""
        return self.held(self.failed_topic)

    def held(self, topic: str) -> list[dict[str, Any]]:
        """All that a topic holds."""
        reader = Consumer({**self._client, "group.id": uuid.uuid4().hex})
        result: list[dict[str, Any]] = []
        try:
            for number in range(PARTITIONS):
                at = TopicPartition(topic, number, 0)
                _, high = reader.get_watermark_offsets(at, timeout=10)
                reader.assign([at])
                got = 0
                while got < high:
                    some = [m for m in reader.consume(high - got, 5) if m.error() is None]
                    result += [json.loads(m.value() or b"") for m in some]
                    got += len(some)
        finally:
            reader.close()
        return result

    def committed(self, group: str | None = None) -> dict[int, int]:
        """The group's offsets by partition; 0 where it has none."""
        reader = Consumer({**self._client, "group.id": group or self.settings.kafka_group_or_default})
        try:
            found = patiently(
                lambda: reader.committed([TopicPartition(self.topic, n) for n in range(PARTITIONS)], timeout=10)
            )
            return {one.partition: max(0, one.offset) for one in found}
        finally:
            reader.close()

    def all_committed(self, group: str | None = None) -> bool:
        return self.committed(group) == self.ends()

    def ends(self) -> dict[int, int]:
        reader = Consumer({**self._client, "group.id": uuid.uuid4().hex})
        try:
            return {
                n: reader.get_watermark_offsets(TopicPartition(self.topic, n), timeout=10)[1] for n in range(PARTITIONS)
            }
        finally:
            reader.close()

    def at_work(self) -> set[int]:
        """The process ids of the group's bridges that have partitions, be they dead and not yet missed."""
        members = [one for one in patiently(self._members) if one.assignment.topic_partitions]
        return {int(one.client_id.rpartition("-")[2]) for one in members}

    def _members(self) -> list[Any]:
        group = self.settings.kafka_group_or_default
        found: list[Any] = self._admin.describe_consumer_groups([group])[group].result().members
        return found

    @contextmanager
    def bridge(self, start: str | None = "earliest", **settings: Any) -> Iterator["Bridge"]:
        """Run a bridge in a thread for the length of the block."""
        bridge = Bridge(self.settings.model_copy(update=settings), start)
        bridge.begin()
        try:
            yield bridge
        finally:
            bridge.end()

    def process(self, *arguments: str, module: str = "workflows.kafka_bridge", **environ: str) -> "BridgeProcess":
        """Start a bridge as a process."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("LERN_")}
        command = [sys.executable, "-m", module, *arguments]
        self._processes.append(BridgeProcess(command, {**inherited, **self.settings.environ(), **environ}))
        return self._processes[-1]

    def close(self) -> None:
        # A test that has failed does not end its bridges, and they would go on for ever.
        for process in self._processes:
            if process.running:
                process.kill()
        self.parts.ledger.close()
        self.parts.queue.close()
        self.parts.broker.close()


def patiently(ask: Callable[[], T]) -> T:
    """Ask Kafka about a group or topic; one that was just born, or has just moved, is nobody's for a moment."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return ask()
        except KafkaException as error:
            if not isinstance(translated(error.args[0]), Unreachable) or time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def _runs_of(messages: Any) -> Counter[str]:
    return Counter(json.loads(one)["headers"]["id"].partition(".")[0] for one in messages)


def merges(number: int, name: str = "") -> list[bytes]:
    """Give merge events of accounts that have nothing to do with each other."""
    name = name or uuid.uuid4().hex[:8]
    return [
        events.to_bytes(events.merge_request(f"{name}-s{n}", f"{name}-t{n}", 1_700_000_000_000 + n, f"{name}{n}"))
        for n in range(number)
    ]


def run_of(value: bytes) -> str:
    """Give the id of the run that a merge event starts."""
    wanted = events.merge(events.parse(value))
    return events.run_id("merge", value, wanted.mid, (wanted.source, wanted.target))


def surroundings(
    kafka: str, redis_url: str, directory: Path, *, without: Sequence[Topic] = (), **settings: str
) -> Surroundings:
    """Make an installation with an empty ledger and both topics, but `without` these."""
    env = f"t{uuid.uuid4().hex[:12]}"
    given = {
        "ENV": env,
        "QUEUE": f"q-{env}",
        "KAFKA_BOOTSTRAP": kafka,
        "BROKER_URL": redis_url,
        "DATA_DIR": str(directory),
        "KAFKA_SESSION_TIMEOUT": "2",
        "LOG_LEVEL": "ERROR",
        **settings,
    }
    made = Surroundings(Settings.load({f"LERN_{name}": value for name, value in given.items()}))
    made.ledger.migrate()
    wanted: list[Topic] = ["user_account_merge", "learning_events_failed"]
    made.create_topics(*(made.settings.topic(name) for name in wanted if name not in without))
    return made


class Bridge:
    """A bridge in a thread."""

    def __init__(self, settings: Settings, start: str | None) -> None:
        self.port = free_port()
        self._settings = settings.model_copy(update={"bridge_port": self.port})
        self._start = None if start is None else kafka_start.parse(start)
        self._ending = threading.Event()
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def begin(self) -> None:
        self._thread.start()

    def end(self) -> None:
        """Let it end as SIGTERM would."""
        self._ending.set()
        self.join()

    def join(self) -> None:
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive(), "the bridge does not end"

    def _run(self) -> None:
        try:
            kafka_bridge.run(self._settings, self._start, self._ending)
        except BaseException as error:  # noqa: BLE001 - for the test to look at
            self.error = error

    def ready(self) -> bool:
        """What `/ready` says."""
        return self.reasons() == {}

    def reasons(self) -> dict[str, str] | None:
        """What `/ready` gives as reasons; None while nothing is served yet."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/ready", timeout=5) as answer:
                body = answer.read()
        except urllib.error.HTTPError as refused:
            with refused:
                body = refused.read()
        except OSError:
            return None
        found: dict[str, str] = json.loads(body)["reasons"]
        return found

    def until_ready(self) -> None:
        until(self.ready, "the bridge is ready")

    def until_hindered(self, by: str) -> str:
        until(lambda: by in (self.reasons() or {}), f"/ready says no because of {by}")
        return (self.reasons() or {}).get(by, "")


class BridgeProcess:
    """A bridge as a process of its own."""

    def __init__(self, command: Sequence[str], environ: dict[str, str]) -> None:
        self._process = subprocess.Popen(command, cwd=ROOT, env=environ, stderr=subprocess.PIPE, text=True)

    def kill(self) -> None:
        """Send SIGKILL."""
        self._process.kill()
        self._gone()

    def terminate(self) -> int:
        """Send SIGTERM; returns the exit code."""
        self._process.send_signal(signal.SIGTERM)
        return self.wait()

    def wait(self) -> int:
        """Wait for its end; returns the exit code."""
        self._gone()
        return self._process.returncode

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def _gone(self) -> None:
        # communicate(), not wait(): a full pipe would stop it.
        _, self.said = self._process.communicate(timeout=PATIENCE)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
