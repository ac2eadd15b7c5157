"""The channel through which a worker hears Redis: it can be closed when Redis is gone."""

from typing import Any

from kombu.transport import redis


class Channel(redis.Channel):
    """Kombu's channel, but its pool of connections lasts as long as itself.

    When the connection breaks, Celery closes everything twice, and the first time may stop halfway: Redis is gone.
    The second time the addresses are forgotten already. Kombu, which gives unacknowledged messages back at a channel's
    end, then cannot make the pool that it has just dropped, and an AttributeError ends the worker instead of the
    ConnectionError after which it would connect again. The same goes for a step that ends after its channel: its
    acknowledgement needs a connection too. A pool that was disconnected connects when it is used, so we keep it.

    What could not be given back is not lost: the sweeper sends it again.
    """

    def _disconnect_pools(self) -> None:
        pool = self._pool
        super()._disconnect_pools()  # type: ignore[no-untyped-call]
        # Made before the first message was handed out: every one that is handed out is written down through it.
        self._pool = pool

    def _create_client(self, asynchronous: bool = False) -> Any:
        """Give one client for all commands: kombu makes a new one for each, which takes longer than the command."""
        if asynchronous:
            return super()._create_client(asynchronous)  # type: ignore[no-untyped-call]
        if self._lasting is None or self._lasting.connection_pool is not self.pool:
            self._lasting = super()._create_client()  # type: ignore[no-untyped-call]
        return self._lasting

    _lasting: Any = None
