"""What a worker tells of itself and its steps to whoever listens (Flower): it never waits for the broker."""

from typing import Any, Final

from celery.events.dispatcher import EventDispatcher

_HEARTBEAT: Final = "worker.heartbeat"


class Dispatcher(EventDispatcher):
    """Celery's dispatcher, but what it tells is told once.

    Celery has the heartbeat repeated until it gets through, from the very loop that hears Redis. Where a heartbeat is
    the first to find Redis away, that loop stands still until Redis is back: without a word, and deaf to SIGTERM. Here
    it tells the loop, which then connects anew. What is told of steps is kept for the new connection.
    """

    def _publish(self, event: Any, producer: Any, routing_key: str, retry: bool = False, **options: Any) -> None:
        del retry
        self.buffer_while_offline = routing_key != _HEARTBEAT
        super()._publish(event, producer, routing_key, **options)
