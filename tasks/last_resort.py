"""A worker that has failed ends, whatever it waits for."""

import os
import signal
import threading
from typing import Any, Final

import structlog
from billiard import active_children
from celery.bootsteps import StartStopStep

from lern.stopping import STOP

log = structlog.get_logger()

# Seconds that the steps at work have to end with the chunk in hand, as long as SIGTERM gives them at first.
PATIENCE: Final = 10.0


class LastResort(StartStopStep):
    """Part of a worker: after an error that Celery calls unrecoverable the process ends, if need be by force.

    Celery then waits without limit for the result of every message that it has taken, also of those that no child
    has yet, although the loop that hands them on has stopped: such a worker does nothing for good, and no supervisor
    sees it. One that has ended is started again, and its steps are sent again by the sweeper.
    """

    def close(self, worker: Any) -> None:
        """Give the worker, which begins to end, a limit if it has failed. Only then it has an exit code by now."""
        if worker.exitcode:
            STOP.set()
            timer = threading.Timer(PATIENCE, _end, [worker.exitcode])
            timer.daemon = True
            timer.start()


def _end(code: int) -> None:
    log.critical("the worker has failed and does not end: it is ended", code=code)
    for child in active_children():
        os.kill(child.pid, signal.SIGKILL)
    os._exit(code)
