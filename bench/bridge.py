"""Events per second from Kafka to the broker, ledger rows included, next to bare `apply_async` of the same chains.

Kafka and Redis are the tests' own, or those that `LERN_TEST_KAFKA` names. One process each; SQLite, with every
transaction on the disk. Then a bridge as a process of its own, for its memory: when it is ready and has nothing to do,
and when it has taken in as many events again.
"""

import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Final
from urllib.request import urlopen

from celery import Celery, chain

from bench.stack import resident_mib, until
from lern import kafka_start
from tests.bridges import Surroundings, free_port, merges, surroundings
from tests.servers.kafka import Kafka
from tests.servers.redis import RedisServer
from workflows import MERGE, kafka_bridge

EVENTS: Final = 20_000
BARE: Final = 2_000
LIMIT: Final = 0.8


@contextmanager
def _place() -> Iterator[Surroundings]:
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        (directory / "redis").mkdir()
        kafka, redis = Kafka(directory / "kafka"), RedisServer(directory / "redis")
        try:
            kafka.start()
            redis.start()
            redis.vouch()
            place = surroundings(kafka.address, redis.url, directory, BRIDGE_PAUSE_AT="1000000")
            yield place
            place.close()
        finally:
            kafka.kill()
            redis.kill()


@dataclass(frozen=True)
class Measured:
    """Events per second, bare and by the bridge, and the bridge's resident memory in MiB."""

    bare: float
    bridge: float
    at_rest: float
    under_load: float


def measure() -> Measured:
    """Measure all of it."""
    with _place() as place:
        return Measured(_bare(place), _bridge(place), *_memory(place))


def _bare(place: Surroundings) -> float:
    """Send chains as anybody would with Celery."""
    url = place.settings.broker_url
    app = Celery("bare", broker=url, set_as_current=False)
    app.conf.update(task_default_queue="bare", task_ignore_result=True)
    began = time.perf_counter()
    for _ in range(BARE):
        run = str(uuid.uuid4())
        chain([app.signature(step, args=[run, 1], immutable=True) for step in MERGE.steps]).apply_async()
    return BARE / (time.perf_counter() - began)


def _bridge(place: Surroundings) -> float:
    """Run a bridge over events that wait in Kafka, from the first chain in the queue to the last."""
    place.produce(merges(EVENTS))
    ending = threading.Event()
    bridge = threading.Thread(
        target=kafka_bridge.run, args=(place.settings, kafka_start.parse("earliest"), ending), daemon=True
    )
    bridge.start()
    first = _length_from(place, 1)
    began = time.perf_counter()
    last = _length_from(place, EVENTS)
    taken = time.perf_counter() - began
    ending.set()
    bridge.join()
    return (last - first) / taken


def _memory(place: Surroundings) -> tuple[float, float]:
    """Give the memory of a bridge's process at rest, and at the end of its work."""
    port = free_port()
    bridge = place.process(LERN_BRIDGE_PORT=str(port))
    try:
        until(lambda: _is_ready(port))
        at_rest = resident_mib(bridge.pid)
        before = _length_from(place, 0)
        place.produce(merges(EVENTS, "again"))
        _length_from(place, before + EVENTS)
        return at_rest, resident_mib(bridge.pid)
    finally:
        bridge.terminate()


def _is_ready(port: int) -> bool:
    try:
        with urlopen(f"http://127.0.0.1:{port}/ready", timeout=5) as answer:
            return bool(answer.status == HTTPStatus.OK)
    except OSError:
        return False


def _length_from(place: Surroundings, number: int) -> int:
    """Wait until so many messages are queued, and give how many there are."""
    while (length := int(place.parts.broker.llen(place.settings.queue))) < number:
        time.sleep(0.005)
    return length
