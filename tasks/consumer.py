"""The part of a worker that takes messages, and tells whoever listens (Flower) what becomes of them."""

import time
from typing import Final

from celery.worker import consumer

# Seconds between two messages that carry events.
PAUSE: Final = 0.1


class Consumer(consumer.Consumer):
    """Celery's consumer, but its events leave together.

    Celery sends them as soon as it can: three messages for each step, which is two fifths of all that the worker's
    main process does. Nobody who looks at a page sees a tenth of a second.
    """

    _due = 0.0

    def on_send_event_buffered(self) -> None:
        """Have what waits leave soon, with all that joins it until then."""
        now = time.monotonic()
        # A timer may be forgotten when the connection is made anew; a time that is past is not waited for.
        if self.hub and now >= self._due:
            self._due = now + PAUSE
            self.hub.call_later(PAUSE, self._flush_events)

    def on_close(self) -> None:
        """Hand what waits to the dispatcher that comes after the connection that has broken."""
        self._flush_events()
        super().on_close()

    def shutdown(self) -> None:
        """Leave nothing behind of steps that ended while the worker was stopping."""
        self._flush_events()
        super().shutdown()
