"""What a process needs to do work: each part opened when it is first used, once per process.

A worker's children are forked from a parent that has opened nothing, so that no connection is shared.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import redis

from lern.client import Queue
from lern.ledger import Ledger
from lern.locks import Locks
from lern.mirror import Mirror
from lern.outgoing import FileSender, Sender
from lern.redis_timeouts import TIMEOUTS
from lern.relations import Relations
from lern.search import Search, open_search
from lern.settings import Settings, SettingsError
from lern.store import open_store
from lern.store.base import Store

if TYPE_CHECKING:
    from lern.users import Users


@dataclass(frozen=True)
class Services:
    """The parts, by the design's words. `settings` says where each is."""

    settings: Settings

    @cached_property
    def ledger(self) -> Ledger:
        """The truth about runs."""
        return Ledger(self.settings.ledger_url_or_default)

    @cached_property
    def store(self) -> Store:
        """The learner rows."""
        return open_store(self.settings)

    @cached_property
    def search(self) -> Search:
        """The documents of course batches."""
        return open_search(self.settings, self.store)

    @cached_property
    def users(self) -> "Users | None":
        """The users as userorg-service knows them, where that is known."""
        if self.settings.userorg_url is None:
            return None
        from lern.users import Users  # noqa: PLC0415 - needed only where there is the service

        return Users(self.settings.userorg_url, self.settings.user_read_api)

    @cached_property
    def locks(self) -> Locks:
        """The locks on users."""
        url = self.settings.locks_url_or(self.broker_url)
        return Locks(redis.Redis.from_url(url, **TIMEOUTS), self.settings.lock_ttl)

    @cached_property
    def relations(self) -> Relations:
        """The relations of collections."""
        return Relations(redis.Redis.from_url(self.settings.relations_url_or(self.broker_url), **TIMEOUTS))

    @cached_property
    def mirror(self) -> Mirror:
        """The runs' states as other services see them."""
        return Mirror(self.broker)

    @cached_property
    def broker(self) -> "redis.Redis":
        """A plain client of the broker's Redis."""
        return redis.Redis.from_url(self.broker_url, **TIMEOUTS)

    @cached_property
    def lms_cache(self) -> "redis.Redis | None":
        """A client of lms-service's Redis, where that is known."""
        url = self.settings.lms_redis_url
        return redis.Redis.from_url(url, **TIMEOUTS) if url else None

    @cached_property
    def sender(self) -> Sender:
        """Where outgoing events go: Kafka, or files in the data directory where there is none."""
        if self.settings.kafka_bootstrap is not None:
            # Kafka's library is needed, and installed, only where there is a Kafka.
            from lern.kafka import KafkaSender  # noqa: PLC0415

            return KafkaSender(self.settings)
        return FileSender(self.settings.out_dir)

    @cached_property
    def queue(self) -> Queue:
        """The queue that the workers consume."""
        return Queue(self.broker_url, self.settings.queue)

    @property
    def broker_url(self) -> str:
        """The broker's address. Raises `SettingsError` where the embedded Redis has not been started."""
        if self.settings.broker_url is None:
            raise SettingsError("LERN_BROKER_URL: not set, and no embedded Redis was started for this process")
        return self.settings.broker_url

    def close(self) -> None:
        """Give back the connections of what was opened; what is used after it is opened anew."""
        for name in [name for name in vars(self) if name != "settings"]:
            part = vars(self).pop(name)
            if hasattr(part, "close"):
                part.close()
