"""The doctor at a Redis that answers, but has no room for more."""

import pytest

from lern.doctor import redis_server
from lern.settings import Settings
from tests.servers.redis import RedisServer


def said_of_room(server: RedisServer, name: str, limit: float) -> list[str]:
    """Give what the doctor says of a Redis' room when its `maxmemory` is so many times what it uses."""
    with server.client() as client:
        client.config_set("maxmemory", round(client.info("memory")["used_memory"] * limit))
    found = redis_server(name, server.url, Settings.load({}), clock=False)
    return [f"{one.level}: {one.detail}" for one in found if "full" in one.detail]


@pytest.mark.parametrize("name", ["broker", "locks"])
def test_a_redis_without_room_is_told_of_before_and_when_nothing_can_be_written(
    own_redis: RedisServer, name: str
) -> None:
    with own_redis.client() as client:
        # So much that a connection more or less is nothing.
        client.setrange("filling", 50_000_000, "x")
    assert said_of_room(own_redis, name, 2) == []
    [warning] = said_of_room(own_redis, name, 1.05)
    assert warning.startswith("warning: it is nearly full: ")
    [problem] = said_of_room(own_redis, name, 0.9)
    assert problem.startswith("problem: it is full: ")
    assert problem.endswith(" MiB (maxmemory)")
    assert said_of_room(own_redis, name, 0) == []
