"""The bridge: events from Kafka become runs, and their chains go to the broker.

    python -m workflows.kafka_bridge [--start latest|earliest|TIME|group:NAME]

Its own process; several share the partitions. It also sweeps, as every worker does. SIGTERM and SIGINT end it when
the batch in hand is through.
"""

import argparse
import signal
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import closing, contextmanager
from types import FrameType
from typing import Final, TypeVar

import structlog
from redis import RedisError

from lern import kafka_start
from lern import log as logging
from lern.backpressure import Backpressure, BackpressurePolicy
from lern.errors import LernError, Refused, SettingsError, Transient, Unreachable
from lern.health import Health, served
from lern.services import Services
from lern.settings import Settings
from tasks.sweeper import Sweeper, SweeperThread
from workflows import intake, topics
from workflows.intake import Message
from workflows.partitions import Partitions

log = structlog.get_logger()

T = TypeVar("T")

# How long (s) to wait for a message before looking at everything else again.
POLL: Final = 0.5
# How long (s) to leave a server alone that was away.
PAUSE: Final = 1.0
# How often (s) to look for topics that were not there.
LOOK_FOR_TOPICS: Final = 60.0
# A batch may wait for the ledger's lock (30 s) and for Kafka (20 s). A loop that stands for longer hangs.
PATIENCE: Final = 120.0
# Away, or about to be well again: the same is tried once more.
_PASSING: Final = (Unreachable, Transient, RedisError)


class KafkaBridge:
    """One bridge: a loop over batches."""

    def __init__(
        self,
        parts: Services,
        partitions: Partitions,
        missing: "MissingTopics",
        health: Health,
        ending: threading.Event,
    ) -> None:
        """Use these parts; `ending` is set from outside when the loop is to end."""
        settings = parts.settings
        self._parts = parts
        self._partitions = partitions
        self._missing = missing
        self._health = health
        self._ending = ending
        self._batch_size = settings.bridge_batch
        self._pressure = Backpressure(BackpressurePolicy(settings.bridge_pause_at, settings.bridge_resume_at, POLL))

    def run(self) -> None:
        """Join the group and take in batches until told to end."""
        self._health.hindered("group", "no partitions were assigned yet")
        self._partitions.join()
        self._health.cleared("start")
        try:
            while not self._ending.is_set():
                self._health.turned()
                self._follow_queue()
                self._missing.join(self._partitions, time.monotonic())
                batch = self._partitions.fetch(self._batch_size, POLL)
                if batch:
                    self._insist(batch)
        finally:
            self._partitions.close()

    def take(self, batch: Sequence[Message]) -> None:
        """Take in one batch. The order is the guarantee: killed anywhere, all of it is done again and none is lost."""
        judged = intake.judge_all(batch, self._parts.settings)  # decode and validate
        taken = intake.enter(self._parts, judged)  # ledger rows, in one transaction
        intake.send(self._parts, taken.entered, taken.steps)  # the chains, confirmed by the broker
        intake.announce(self._parts, taken)  # dead letters, confirmed by Kafka
        self._partitions.commit(batch)  # the offsets, of partitions that are still ours
        intake.count(judged, taken)

    def _insist(self, batch: Sequence[Message]) -> None:
        """Take in a batch, again and again while a server is away, or until it is all another bridge's."""
        while batch:
            try:
                self.take(batch)
                break
            except _PASSING as error:
                if self._health.hindered("batch", str(error)):
                    log.warning("the bridge waits", reason=str(error))
                if self._ending.is_set():
                    log.warning("ends with a batch in hand, which comes again", messages=len(batch))
                    return
                self._partitions.hold("batch")
                self._partitions.keep_polling(PAUSE)
                self._health.turned()
            batch = self._partitions.still_ours(batch)
        self._partitions.release("batch")
        if self._health.cleared("batch"):
            log.info("the bridge goes on")

    def _follow_queue(self) -> None:
        """Stop reading while the workers lag behind."""
        now = time.monotonic()
        if not self._pressure.should_look(now):
            return
        try:
            length = int(self._parts.broker.llen(self._parts.settings.queue))
        except RedisError as error:
            self._hindered("broker", f"broker cannot be reached: {error}")
            return
        self._free("broker")
        if self._pressure.looked(now, length):
            self._hindered("queue", f"{length} messages wait for workers")
        else:
            self._free("queue")

    def _hindered(self, by: str, reason: str) -> None:
        self._partitions.hold(by)
        if self._health.hindered(by, reason):
            log.warning("the bridge waits", reason=reason)

    def _free(self, by: str) -> None:
        self._partitions.release(by)
        if self._health.cleared(by):
            log.info("the bridge goes on")


class MissingTopics:
    """Topics that the group does not read yet: not there when the bridge began, or new to the group."""

    def __init__(self, parts: Services, start: kafka_start.Start | None, health: Health) -> None:
        """Miss every topic at first."""
        self._settings = parts.settings
        self._ledger = parts.ledger
        self._group = parts.settings.kafka_group_or_default
        self._start = start
        self._health = health
        self._missing = set(topics(parts.settings))
        self._looked_at = float("-inf")

    def begin(self) -> Collection[str]:
        """Give the topics to begin with, before the group is joined. Raises what `kafka_start` does."""
        begun = self._look()
        if begun.offsets:
            try:
                kafka_start.commit(self._settings, begun.offsets)
            except Transient:
                # Other bridges are at work. What they read we read with them; the rest we add as one of them.
                if not begun.known.topics:
                    raise
                begun = begun.known
        self._found(begun)
        return begun.topics

    def join(self, partitions: Partitions, now: float) -> None:
        """Look for missing topics every now and then, and read those that are there; `now` in seconds."""
        if not self._missing or now - self._looked_at < LOOK_FOR_TOPICS:
            return
        self._looked_at = now
        try:
            begun = self._look()
            partitions.read_also(begun)
            self._found(begun)
        except _PASSING as error:
            log.debug("topics are still missing", reason=str(error))
        except Refused as error:
            # What is read already goes on; what has to be decided is said until somebody does.
            if self._health.hindered("start", str(error)):
                log.warning("a new topic is not read", reason=str(error))
        else:
            self._health.cleared("start")

    def _look(self) -> kafka_start.Begun:
        since = self._ledger.beginnings(self._group)
        return kafka_start.look(self._settings, sorted(self._missing), self._start, since)

    def _found(self, begun: kafka_start.Begun) -> None:
        """Write down in the ledger what has begun. Offsets come first: without them the place would be another."""
        self._ledger.begin_topics(self._group, begun.since)
        for (topic, partition), offset in begun.offsets.items():
            log.info("the group begins", topic=topic, partition=partition, offset=offset)
        self._missing -= set(begun.topics)
        if self._missing:
            log.warning("not every topic is read", missing=sorted(self._missing))


def run(settings: Settings, start: kafka_start.Start | None, ending: threading.Event) -> None:
    """Run a bridge until `ending` is set. Raises what only a person can mend."""
    health = Health(PATIENCE)
    with closing(Services(settings)) as parts, served(health, settings.bridge_host, settings.bridge_port):
        if settings.ledger_url is None:
            parts.ledger.migrate()
        # Before the first chain is published: what a broker that has lost its memory had is sent before it.
        _until_done(lambda: Sweeper(parts).remember(), health, ending)
        missing = MissingTopics(parts, start, health)
        begun = _until_done(missing.begin, health, ending)
        if begun is None:
            return
        with _sweeping(settings):
            log.info("the bridge begins", topics=sorted(begun), group=settings.kafka_group_or_default)
            KafkaBridge(parts, Partitions(settings, sorted(begun), health), missing, health, ending).run()
    log.info("the bridge has ended")


@contextmanager
def _sweeping(settings: Settings) -> Iterator[None]:
    """Sweep, as every worker does, for the length of the block."""
    parts = Services(settings)
    sweeper = SweeperThread(parts)
    sweeper.start()
    try:
        yield
    finally:
        sweeper.stop()
        # One that is in the middle of a sweep ends with the process; that is what it is made for.
        if sweeper.wait(PAUSE):
            parts.close()


def _until_done(call: Callable[[], T], health: Health, ending: threading.Event) -> T | None:
    """Do something before the group is joined; a server that is away is waited for. None: told to end meanwhile."""
    while not ending.is_set():
        try:
            result = call()
            health.cleared("preparation")
            return result
        except _PASSING as error:
            if health.hindered("preparation", str(error)):
                log.warning("the bridge waits", reason=str(error))
            health.turned()
            ending.wait(PAUSE)
    return None


def main() -> int:
    """Run the bridge; 0 when it was asked to end, 1 for what a person must mend, 2 for wrong settings."""
    parser = argparse.ArgumentParser(prog="lern bridge")
    parser.add_argument("--start", help=kafka_start.CHOICES)
    arguments = parser.parse_args()
    ending = threading.Event()

    def end(number: int, _frame: FrameType | None) -> None:
        log.info("the bridge ends", signal=signal.Signals(number).name)
        ending.set()

    try:
        settings = Settings.load()
        logging.configure(settings)
        if settings.kafka_bootstrap is None:
            raise SettingsError("LERN_KAFKA_BOOTSTRAP: not set; without Kafka, `lern bridge --from FILE` reads a file")
        settings.require_shared_ledger()
        start = None if arguments.start is None else kafka_start.parse(arguments.start)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, end)
        run(settings, start, ending)
    except LernError as error:
        sys.stderr.write(f"lern bridge: {error}\n")
        return 2 if isinstance(error, SettingsError) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
