"""The channel between workers and Redis: what kombu is kept from doing."""

from collections.abc import Iterator

import pytest
from kombu.connection import Connection
from kombu.transport import redis as kombu_redis

from tasks.channel import Channel
from tests.servers.redis import RedisServer


@pytest.fixture
def channel(own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Channel]:
    monkeypatch.setattr(kombu_redis.Transport, "Channel", Channel)
    with Connection(own_redis.url) as connection:  # type: ignore[no-untyped-call]
        yield connection.channel()


def test_all_commands_go_through_one_client_also_when_its_connection_is_new(channel: Channel) -> None:
    with channel.conn_or_acquire() as one, channel.conn_or_acquire() as other:
        assert one is other
        assert one.ping()
    channel._disconnect_pools()
    with channel.conn_or_acquire() as again:
        assert again is one
        assert again.ping()


def test_a_pool_that_kombu_makes_anew_gets_a_client_of_its_own(channel: Channel) -> None:
    with channel.conn_or_acquire() as before:
        channel._pool = None
        with channel.conn_or_acquire() as after:
            assert after is not before
            assert after.connection_pool is channel.pool
            assert after.ping()
