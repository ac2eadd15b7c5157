"""The Celery application, and how a step's outcome is said in Celery's words."""

import gc
import os
import time
import warnings
from collections.abc import Callable
from typing import Any, Final

import structlog
from billiard import pool
from celery import Celery
from celery.exceptions import CPendingDeprecationWarning, Ignore, Reject, Retry
from celery.signals import celeryd_after_setup, setup_logging, worker_process_init, worker_shutting_down
from kombu.transport import redis

from lern import log as logging
from lern.errors import Transient, Unreachable
from lern.services import Services
from lern.settings import Settings
from lern.stopping import STOP
from tasks.channel import Channel
from tasks.dispatcher import Dispatcher
from tasks.last_resort import LastResort
from tasks.step import Aside, Body, Done, Ended, Failed, Outcome, Result, new_token, perform

log = structlog.get_logger()

redis.Transport.Channel = Channel
app = Celery("lern")
app.config_from_object("celeryconfig")
app.steps["worker"].add(LastResort)
app.events.dispatcher_cls = Dispatcher

LEDGER_PAUSE: Final = 1.0
FAREWELL: Final = 2.0
# As many objects more than there were when Python last looked for circles.
COLLECT_AFTER: Final = 50_000


class StepFailed(Exception):
    """The step failed for good; the run can be retried once the cause is mended."""


class _Process:
    """The services of this process. A forked child starts with none of its parent's connections."""

    pid: int | None = None
    services: Services | None = None
    littered = False


def services() -> Services:
    """Give this process's services, opened when first used."""
    if _Process.services is None or _Process.pid != os.getpid():
        _Process.services, _Process.pid = Services(Settings.load()), os.getpid()
    return _Process.services


@worker_process_init.connect
def _forget_parent(**_: Any) -> None:
    _Process.services = None
    collect_seldom()


def collect_seldom() -> None:
    """Have Python look for circles of objects less often: of rows, which come by the thousand, there are none.

    Left to itself it goes through every row of a chunk again and again, for a sixth of a large merge's time.
    """
    # What is there before the first step stays for good: nobody need look through it.
    gc.freeze()
    gc.set_threshold(COLLECT_AFTER)


@worker_shutting_down.connect
def _ask_to_stop(**_: Any) -> None:
    """Have the steps at work end with the chunk in hand. Called in a signal handler."""
    STOP.set()


@worker_process_init.connect
def _end_soon(**_: Any) -> None:
    """Let a child that ends wait no longer than this for its parent to take note of what it did.

    Now and then the parent never does (it has dropped a message that the child had taken already), and half a
    minute is what supervisors wait before they kill. The message comes back and finds its step done.
    """
    pool.GUARANTEE_MESSAGE_CONSUMPTION_RETRY_LIMIT = round(FAREWELL / pool.GUARANTEE_MESSAGE_CONSUMPTION_RETRY_INTERVAL)


def give_back_when_stopping() -> None:
    """Give the message in hand back to the queue if this worker is to stop: another takes it at once."""
    if STOP.is_set():
        raise Reject("the worker is being stopped", requeue=True)


@setup_logging.connect
def _set_up_logging(**_: Any) -> None:
    """Use our own logging; that something is connected here keeps Celery's away."""
    logging.configure(Settings.load())


@celeryd_after_setup.connect
def _refuse_advice(**_: Any) -> None:
    """Do without what Celery says at every loss of the broker: to use a setting that is off on purpose.

    Not earlier: when logging is set up, Celery has its warnings heard, whatever was said of them before.
    """
    warnings.filterwarnings("ignore", r"\nIn Celery 5\.1 we introduced", CPendingDeprecationWarning)


def step_task(name: str) -> Callable[[Body], Body]:
    """Make a step's body a Celery task of this name. The body itself stays callable without Celery."""

    def register(body: Body) -> Body:
        BODIES[name] = body

        def run(run_id: str, generation: int) -> Result:
            return _say(_perform(name, body, run_id, generation))

        # A step that fails for good has been written down with its reason: no traceback on top of that.
        app.task(run, name=name, throws=(StepFailed,))
        return body

    return register


BODIES: dict[str, Body] = {}


def _perform(name: str, body: Body, run_id: str, generation: int) -> Outcome:
    """Carry out a step; while the ledger cannot be reached, wait for it here.

    Without the ledger nothing can be written down, not even that the step waits; no user is held meanwhile.
    """
    # One token for all tries: to the ledger it is one execution, not one that died and another.
    token = new_token()
    _clean_up()
    while True:
        give_back_when_stopping()
        try:
            return perform(services(), name, body, run_id, generation, token)
        except (Unreachable, Transient) as error:
            log.warning("waits for the ledger", reason=str(error))
            time.sleep(LEDGER_PAUSE)


def _clean_up() -> None:
    """Clear away what the exception of the step before has left behind.

    Celery keeps a picture of its traceback, some 200 KB in a circle. When hundreds of steps find their user busy,
    Python's own collector comes after a hundred megabytes of those.
    """
    if _Process.littered:
        gc.collect()
        _Process.littered = False


def _say(outcome: Outcome) -> Result:
    """Say an outcome in Celery's words: a result sends the chain on, anything else ends it here."""
    _Process.littered = not isinstance(outcome, Done)
    match outcome:
        case Done(result):
            return result
        case Ended(_):
            raise Ignore
        case Aside(reason, _):
            # Only the state: the sweeper sends the step again when it is due. An ETA would be held by
            # this worker, unacknowledged, and with prefetch 1 block everything behind it.
            raise Retry(reason)
        case Failed(code, reason):
            raise StepFailed(f"{code}: {reason}")
