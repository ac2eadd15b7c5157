"""The sweeper: sends what is due and what got lost. A loop in every worker and bridge; one at a time sweeps.

What it looks after: steps that stepped aside and are due; steps whose worker died (the ledger calls
them running, but nobody holds their users under their token); steps whose message is gone; everything
unfinished when Redis has lost its memory; events that nobody sent; the later check of merges. What
merely waits in the queue is left alone.
"""

import base64
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import structlog
from celery.signals import before_task_publish, worker_init, worker_ready, worker_shutting_down
from redis import RedisError
from redis.exceptions import LockError

from lern import verification
from lern.client import INTAKE, QUEUE_HEADER
from lern.errors import LernError, Unreachable
from lern.forks import NO_FORKS
from lern.health import Health
from lern.ledger import Pending
from lern.services import Services
from lern.settings import Settings
from tasks import serving
from tasks.step import deliver, now_ms

log = structlog.get_logger()

# Redis keys: whose sweep it is, a mark that is gone when Redis has lost its memory, and up to which
# ended merge (time and run) the later check has been begun.
LEADER: Final = "{lern}:sweeper"
EPOCH: Final = "{lern}:epoch"
VERIFIED: Final = "{lern}:verified"
# How many lock lives an event may take to be taken in before we believe that it was lost.
INTAKE_PATIENCE: Final = 3
A_DAY: Final = 86_400_000
AT_ONCE: Final = 200
# An event is sent by its own step at once. Only one that has lain so long (ms) has lost its sender.
EVENT_LEFT_AFTER: Final = 60_000
# A sweep may wait for the ledger's lock (30 s), more than once. A loop that stands for longer (s) hangs.
PATIENCE: Final = 120.0
# How long (s), besides the time that a step waits for its users, it may be found without them until its worker is
# believed to be dead. One that has lost the ledger lets them go, and asks for them a second after the ledger answers.
RETURNS_WITHIN: Final = 2.0
# By this name a worker's health says that it cannot sweep.
_SWEEPER: Final = "sweeper"


class Sweeper:
    """One sweep after the other, for one process."""

    def __init__(self, services: Services, returns_within: float | None = None) -> None:
        """Use services of its own: it runs in a thread beside others."""
        self._services = services
        default = RETURNS_WITHIN + services.settings.lock_wait
        self._returns_within = default if returns_within is None else returns_within
        self._turn: Any = None
        # Steps that the last sweep found without their users, by run and token, and since when.
        self._alone: dict[tuple[str, str | None], float] = {}

    def sweep(self) -> int:
        """Sweep once if it is our turn; give how many steps were sent."""
        # What was seen by no sweep in a row counts no more: in between a step may have come back, and gone again.
        seen, self._alone = self._alone, {}
        if not self._is_our_turn():
            return 0
        sent = self.remember()
        sent += self._send_due()
        sent += self._recover_dead(seen)
        sent += self._recover_lost()
        sent += self._recover_intakes()
        sent += self._verify()
        deliver(self._services, None, created_before=now_ms() - EVENT_LEFT_AFTER)
        return sent

    def resign(self) -> None:
        """Let another sweep at once, instead of when our turn lapses."""
        if self._turn is not None and self._turn.owned():
            self._turn.release()

    def remember(self) -> int:
        """Send everything unfinished if Redis does not remember us, then leave our mark.

        In this order: killed in between, it is sent once more, which does no harm.
        """
        broker = self._services.broker
        if broker.get(EPOCH) is not None:
            return 0
        sent = 0
        for pending in self._unfinished():
            sent += self._send(pending) if self._services.ledger.requeue(pending, now_ms()) else 0
        broker.set(EPOCH, now_ms())
        if sent:
            log.warning("the broker had lost its memory", sent=sent)
        return sent

    def _is_our_turn(self) -> bool:
        """Take or keep the lead. It lapses by itself when we die."""
        if self._turn is None:
            ttl = self._services.settings.lock_ttl
            self._turn = self._services.broker.lock(LEADER, timeout=ttl, blocking=False, thread_local=False)
        try:
            if self._turn.owned():
                return bool(self._turn.reacquire())
            return bool(self._turn.acquire())
        except LockError:
            return False

    def _send_due(self) -> int:
        """Send the steps that stepped aside and whose time has come."""
        ledger = self._services.ledger
        return sum(self._send(p) for p in ledger.due(now_ms(), AT_ONCE) if ledger.requeue(p, now_ms()))

    def _recover_dead(self, seen: Mapping[tuple[str, str | None], float]) -> int:
        """Send again the steps that are running by the ledger while nobody holds their users for them.

        The lock is taken before the ledger says running and given back after it says done, so a running
        step without its lock has died, or has lost its lock and stops before its next write. Or it has lost
        the ledger and will be back: that is no death, of which a step survives only so many. `seen`: what the
        sweep before has found.
        """
        ledger, locks = self._services.ledger, self._services.locks
        sent = 0
        for pending in self._paged(ledger.running):
            held = locks.tokens([pending.source, pending.target])
            if pending.token in held.values():
                continue
            now = time.monotonic()
            since = self._alone[pending.run_id, pending.token] = seen.get((pending.run_id, pending.token), now)
            if now - since >= self._returns_within and ledger.requeue(pending, now_ms()):
                log.warning("a worker died in this step", run=pending.run_id, step=pending.step)
                sent += self._send(pending)
        return sent

    def _recover_lost(self) -> int:
        """Send again the steps whose message is gone.

        The queue is first in, first out: what was queued well before its oldest message has been handed
        out, and if it has not begun since, it died with whoever had it.
        """
        oldest = self._oldest_message()
        if oldest is None:
            return 0
        slack = round(self._services.settings.lock_ttl * 1000)
        ledger = self._services.ledger
        lost = ledger.queued_before(min(oldest, now_ms()) - slack, AT_ONCE)
        sent = sum(self._send(p) for p in lost if ledger.requeue(p, now_ms()))
        if sent:
            log.warning("messages were lost", sent=sent)
        return sent

    def _recover_intakes(self) -> int:
        """Send events again that a worker took and never finished taking in: no ledger knows of them yet.

        Broker's own: hash `unacked`, delivery tag → [message, exchange, routing key]; sorted set
        `unacked_index`, tag → when it was handed out. Sent first and removed then: killed in between, the
        event is sent twice, and is one run.
        """
        broker, sent = self._services.broker, 0
        long_ago = time.time() - self._services.settings.lock_ttl * INTAKE_PATIENCE
        # As many as the workers have children, and what workers that died have left: never a backlog.
        tags: Any = broker.zrangebyscore("unacked_index", "-inf", long_ago)
        for tag in tags:
            raw: Any = broker.hget("unacked", tag)
            arguments = _intake_of(raw)
            if arguments is not None:
                self._services.queue.send_intake(*arguments)
                broker.hdel("unacked", tag)
                broker.zrem("unacked_index", tag)
                sent += 1
        if sent:
            log.warning("events were lost on their way in", sent=sent)
        return sent

    def _verify(self) -> int:
        """Begin the later check of merges that ended `LERN_VERIFY_AFTER` seconds ago, each once.

        How far we have come stands in Redis. If that is lost, a day is gone over again: a check that was
        begun has its run, and stays the one it is.
        """
        delay = round(self._services.settings.verify_after * 1000)
        if not delay:
            return 0
        until = now_ms() - delay
        place: Any = self._services.broker.get(VERIFIED)
        ended_at, _, run_id = (place or b"").decode().partition(" ")
        after = (int(ended_at), run_id) if ended_at else (until - A_DAY, "")
        merges = self._services.ledger.merged(after, until, AT_ONCE)
        if not merges:
            return 0
        checks = [verification.of(merge) for merge in merges]
        entered = self._services.ledger.enter(checks, [], now_ms())
        for entry in entered:
            if entry.new:
                self._services.queue.send_chain(entry.run_id, entry.generation, verification.STEPS)
        self._services.broker.set(VERIFIED, f"{merges[-1].ended_at} {merges[-1].id}")
        return sum(entry.new for entry in entered)

    def _oldest_message(self) -> int | None:
        """Give when the oldest message in the queue was sent (ms): now if there is none, None if it does not say."""
        raw: Any = self._services.broker.lindex(self._services.settings.queue, -1)
        if raw is None:
            return now_ms()
        try:
            return int(json.loads(raw)["headers"][QUEUE_HEADER])
        except (ValueError, KeyError, TypeError):
            return None

    def _unfinished(self) -> Iterator[Pending]:
        return self._paged(self._services.ledger.unfinished)

    def _paged(self, page: Callable[..., list[Pending]]) -> Iterator[Pending]:
        """Go through a listing of any length in bounded memory."""
        after = ""
        while found := page(limit=AT_ONCE, after=after):
            yield from found
            after = found[-1].run_id

    def _send(self, pending: Pending) -> int:
        self._services.queue.send_chain(pending.run_id, pending.generation, pending.remaining)
        return 1


def _intake_of(raw: bytes | None) -> tuple[bytes, str | None, str | None] | None:
    """Give what an unacknowledged message says if it is an event on its way in, as this version sends them.

    The broker hands out any other again by itself, only later.
    """
    if raw is None:
        return None
    message = json.loads(raw)[0]
    if message["headers"].get("task") != INTAKE:
        return None
    try:
        value, topic, run_id = json.loads(base64.b64decode(message["body"]))[0]
        return value.encode(), topic, run_id
    except (ValueError, AttributeError):
        return None


class SweeperThread:
    """Sweeps in the background until it is stopped. A worker's forks wait until it is out of a sweep."""

    def __init__(self, services: Services, health: Health | None = None) -> None:
        """Prepare; nothing runs before `start`. `health` is told how it goes."""
        self._services = services
        self._health = health
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="sweeper", daemon=True)

    def start(self) -> None:
        """Begin to sweep."""
        self._thread.start()

    def stop(self) -> None:
        """Ask the loop to end; it does at the next turn."""
        self._stop.set()

    def wait(self, seconds: float) -> bool:
        """Wait for the loop's end after `stop`; False if it is still at it."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _loop(self) -> None:
        sweeper = Sweeper(self._services)
        while not self._stop.wait(self._services.settings.sweep_interval):
            with NO_FORKS, _survived(self._health):
                sweeper.sweep()
        with NO_FORKS, _survived():
            sweeper.resign()


@contextmanager
def _survived(health: Health | None = None) -> Iterator[None]:
    """Let the next turn try again: a server that is away is no reason to stop sweeping."""
    health = health or Health(PATIENCE)
    try:
        yield
        health.cleared(_SWEEPER)
    except (Unreachable, RedisError, OSError) as error:
        log.warning("could not sweep", reason=str(error))
        health.hindered(_SWEEPER, str(error))
    except LernError as error:
        log.error("could not sweep", reason=str(error))  # noqa: TRY400 - the message says it all
        health.hindered(_SWEEPER, str(error))
    except Exception as error:
        # Nobody watches this thread: if it died, nothing would be recovered any more.
        log.exception("sweep failed")
        health.hindered(_SWEEPER, f"{type(error).__name__}: {error}")
    finally:
        health.turned()


_thread: SweeperThread | None = None


@worker_init.connect
def _remember(**_: Any) -> None:
    """Leave our mark before the first message is taken: a new Redis has not lost anything."""
    with _survived():
        Sweeper(Services(Settings.load())).remember()


@worker_ready.connect
def _start(**_: Any) -> None:
    global _thread  # noqa: PLW0603 - one sweeper a process
    settings = Settings.load()
    health = Health(PATIENCE)
    _thread = SweeperThread(Services(settings), health)
    _thread.start()
    health.cleared("start")
    serving.start(settings, health)


@worker_shutting_down.connect
def _end(**_: Any) -> None:
    if _thread is not None:
        _thread.stop()


@before_task_publish.connect
def _stamp(headers: dict[str, Any] | None = None, **_: Any) -> None:
    """Write on every message when it was sent; a chain's next step would take its predecessor's time along."""
    if headers is not None:
        headers[QUEUE_HEADER] = now_ms()
