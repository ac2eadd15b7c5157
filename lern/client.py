"""The Python API, and the one place where the domain talks to Celery: by task name.

    from lern import Lern
    lern = Lern()                                   # LERN_BROKER_URL, or Lern(broker_url=...)
    run = lern.merge_accounts(source, target)
    run.id; run.state(); run.wait(timeout=30)

Celery, Redis and the settings are imported when they are first used: a service that imports `lern` at
its start pays for them only when it enqueues.
"""

import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Final

from lern import events
from lern.chain_message import PLACE, ChainMessage, Recorder
from lern.errors import Refused, Unreachable
from lern.mirror import Mirror, RunState
from lern.redis_timeouts import TIMEOUTS

if TYPE_CHECKING:
    from celery import Celery

    from lern.settings import Settings

INTAKE: Final = "lern.intake"
REPLAY: Final = "lern.replay"
QUEUE_HEADER: Final = "lern_sent"


def worker_client(queue: str) -> str:
    """Give the name by which Redis knows the connections of a queue's workers, in `CLIENT LIST`."""
    return f"lern-worker-{queue}"


@dataclass(frozen=True, slots=True)
class Chain:
    """A run's steps on their way: from the next one to the last, of one generation of the run."""

    run_id: str
    generation: int
    steps: tuple[str, ...]


class Queue:
    """Sends step messages to the broker, confirmed: when a call returns, Redis has the message."""

    def __init__(self, broker_url: str, queue: str) -> None:
        """Connect lazily to a broker; `queue` is the one queue that the workers consume."""
        self.name = queue
        self._broker_url = broker_url
        self._messages: dict[tuple[tuple[str, ...], int], ChainMessage] = {}

    @cached_property
    def app(self) -> "Celery":
        """The Celery application that sends, for Flower to look through."""
        from celery import Celery

        app = Celery("lern", broker=self._broker_url, set_as_current=False)
        app.conf.update(
            task_default_queue=self.name,
            task_serializer="json",
            accept_content=["json"],
            task_ignore_result=True,
            # A message must not get lost between us and the broker: no silent endless retries, an error instead.
            task_publish_retry=False,
            broker_transport_options=TIMEOUTS,
            broker_connection_timeout=5,
        )
        return app

    def send_chain(self, run_id: str, generation: int, steps: Sequence[str]) -> None:
        """Send a run's steps as one chain. Messages carry the run's id and generation and nothing else."""
        self.send_chains([Chain(run_id, generation, tuple(steps))])

    def send_chains(self, chains: Sequence["Chain"]) -> None:
        """Send many runs' chains in the order given, in few round trips.

        Raises `Unreachable`: then any of them may have been sent.
        """
        self._send(lambda: self._publish(chains))

    def _publish(self, chains: Sequence["Chain"]) -> None:
        with self.app.producer_or_acquire() as producer, producer.batch():
            for one in chains:
                body, options = self._message(one.steps, one.generation).filled(one.run_id, _sent())
                producer.publish(body, **options)

    def _message(self, steps: tuple[str, ...], generation: int) -> ChainMessage:
        """Give the message of these steps. There are few kinds of chains, and most are of the first generation."""
        known = self._messages.get((steps, generation))
        if known is None:
            known = self._messages[steps, generation] = self._made(steps, generation)
        return known

    def _made(self, steps: tuple[str, ...], generation: int) -> ChainMessage:
        """Let Celery make a chain's message."""
        first, *rest = [
            self.app.signature(
                step,
                args=[PLACE, generation],
                immutable=True,
                # The same step of the same generation has one name, wherever it is shown.
                task_id=f"{PLACE}.{generation}.{step}",
                queue=self.name,
            )
            for step in steps
        ]
        recorder = Recorder()
        # What `celery.chain` does last: the first step takes along those that follow it, the next one at the end.
        first.apply_async(producer=recorder, chain=rest[::-1] or None)
        return recorder.message()

    def send_intake(self, value: bytes, topic: str | None, run_id: str | None) -> None:
        """Send an event to be taken in by a worker."""
        self._send(
            lambda: self.app.send_task(
                INTAKE, args=[value.decode("utf-8"), topic, run_id], queue=self.name, headers=_sent()
            )
        )

    def send_replay(self, dead_id: int, who: str, corrected: bytes | None = None) -> None:
        """Have a dead letter taken in again by a worker, in somebody's name, or this event (UTF-8) in its place."""
        # A worker of the version before knows the first two.
        more = () if corrected is None else (corrected.decode("utf-8"),)
        self._send(lambda: self.app.send_task(REPLAY, args=[dead_id, who, *more], queue=self.name, headers=_sent()))

    def _send(self, call: Callable[[], object]) -> None:
        from kombu.exceptions import BatchPublishError, OperationalError
        from redis import RedisError

        try:
            call()
        except (BatchPublishError, OperationalError, RedisError, OSError) as error:
            raise Unreachable("broker", str(error.__cause__ or error)) from error

    def close(self) -> None:
        """Give back the connections."""
        self.app.close()


def _sent() -> dict[str, int]:
    return {QUEUE_HEADER: time.time_ns() // 1_000_000}


@dataclass(frozen=True)
class Run:
    """A handle on one run: its id, its state, and waiting for its end."""

    id: str
    _mirror: Mirror

    def state(self) -> RunState:
        """Tell how the run stands. `queued` until a worker has taken it in. Raises `Unreachable`."""
        return self._mirror.seen(self.id) or RunState("queued")

    def wait(self, timeout: float | None = None) -> RunState:
        """Wait until the run has ended and give its state. Raises `TimeoutError` after `timeout` seconds.

        `Unreachable` if the broker does not answer meanwhile: the run goes on, and can be waited for again.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        pause = 0.01
        while not (state := self.state()).ended:
            if deadline is not None and time.monotonic() >= deadline:
                raise TimeoutError(f"run {self.id} is {state.state} after {timeout} s")
            time.sleep(pause)
            pause = min(0.25, pause * 1.5)
        return state


def _identity(idempotency_key: str | None) -> tuple[str, int]:
    """Give what tells an event apart from others, and its time (ms). Raises `BadEvent` for a key that cannot be."""
    if idempotency_key is None:
        return str(uuid.uuid4()), time.time_ns() // 1_000_000
    # Most likely a variable that was never filled: all that have none would be one run, or none would be.
    if not idempotency_key.strip():
        raise events.BadEvent("BLANK_FIELD", "idempotency_key", "blank; a key was expected, or none at all")
    if not _is_utf8(idempotency_key):
        raise events.BadEvent("BAD_CHARACTER", "idempotency_key", "holds half of a surrogate pair; text was expected")
    # The event must be the same every time, so its time cannot be the clock's.
    return idempotency_key, 0


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


class Lern:
    """Enqueues work from any Python service. Needs nothing but the broker's address."""

    def __init__(self, broker_url: str | None = None, *, settings: "Settings | None" = None) -> None:
        """Use `broker_url`, or what `LERN_BROKER_URL` says. Raises `Refused` if neither is there."""
        from lern.settings import Settings

        self._settings = settings or Settings.load()
        url = broker_url or self._settings.broker_url
        if url is None:
            raise Refused("no broker: set LERN_BROKER_URL or call Lern(broker_url=...)")
        self._url = url

    @cached_property
    def _queue(self) -> Queue:
        return Queue(self._url, self._settings.queue)

    @cached_property
    def _mirror(self) -> Mirror:
        from redis import Redis

        return Mirror(Redis.from_url(self._url, **TIMEOUTS))

    def merge_accounts(self, source: str, target: str, *, idempotency_key: str | None = None) -> Run:
        """Merge the account `source` into `target`.

        Calls with the same accounts and the same `idempotency_key` are one run, however often. Raises
        `lern.events.BadEvent` for ids and a key that cannot be, `Unreachable` if the broker does not answer.
        """
        key, event_time = _identity(idempotency_key)
        value = events.to_bytes(events.merge_request(source, target, event_time, key))
        merge = events.merge(events.parse(value))
        run_id = events.run_id("merge", value, merge.mid, (source, target))
        self._queue.send_intake(value, None, run_id)
        return Run(run_id, self._mirror)

    def transfer_ownership(
        self, source: str, target: str, *, organisation_id: str | None, idempotency_key: str | None = None
    ) -> Run:
        """Hand the course batches that `source` creates or mentors over to `target`.

        `organisation_id`: that of both, checked where userorg-service is known (`LERN_USERORG_URL`); None: not
        checked. Repeats and errors are as with `merge_accounts`.
        """
        key, event_time = _identity(idempotency_key)
        value = events.to_bytes(events.ownership_request(source, target, organisation_id, event_time, key))
        wanted = events.ownership(events.parse(value))
        run_id = events.run_id("ownership", value, wanted.mid, (source, target))
        self._queue.send_intake(value, None, run_id)
        return Run(run_id, self._mirror)

    def run(self, run_id: str) -> Run:
        """Give a handle on a run by its id."""
        return Run(run_id, self._mirror)
