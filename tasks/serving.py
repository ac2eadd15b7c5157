"""What a worker says of itself over HTTP: `/health`, `/ready` and `/metrics`, from its parent process."""

import math
import time
from contextlib import ExitStack
from typing import Any, Final

import structlog
from redis import RedisError

from lern import metrics
from lern.errors import LernError
from lern.health import Health, PortTaken, served
from lern.services import Services
from lern.settings import Settings

log = structlog.get_logger()

_ends: Final = ExitStack()


def start(settings: Settings, health: Health) -> None:
    """Serve, if there is a port to serve on. A port that is taken costs the numbers, not the worker."""
    if settings.worker_port is None:
        return
    # A connection of its own: the sweeper's is in use by another thread.
    metrics.look_first(QueueLook(Services(settings)))
    try:
        _ends.enter_context(served(health, settings.worker_host, settings.worker_port))
    except PortTaken as error:
        log.error("the worker's health and metrics are not served", reason=str(error))  # noqa: TRY400 - it says it all


class QueueLook:
    """Looks at the queue when somebody asks for the metrics: how long it is, and since when the oldest run waits."""

    def __init__(self, services: Services) -> None:
        """Open nothing yet."""
        self._services = services

    def __call__(self) -> None:
        """Set the metrics; what cannot be known is said to be no number."""
        name = self._services.settings.queue
        try:
            metrics.queue(name, self._length(name), self._oldest())
        except (LernError, RedisError):
            metrics.queue(name, math.nan, math.nan)

    def _length(self, name: str) -> int:
        length: Any = self._services.broker.llen(name)
        return int(length)

    def _oldest(self) -> float:
        now = time.time_ns() // 1_000_000
        waiting = self._services.ledger.queued_before(now, 1)
        queued_at = waiting[0].queued_at if waiting else None
        return 0.0 if queued_at is None else max(0.0, (now - queued_at) / 1000)
