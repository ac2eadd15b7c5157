"""A connection on which what needs no answer is not waited for: nothing is lost, mixed up or out of order by that."""

import os
from collections.abc import Iterator

import pytest
import redis

from lern.redis_line import RedisLine
from tests.servers.redis import RedisServer


@pytest.fixture
def client(redis_server: RedisServer) -> Iterator[redis.Redis]:
    with redis_server.client() as opened:
        opened.delete("told")
        yield opened


@pytest.fixture
def line(client: redis.Redis) -> RedisLine:
    return RedisLine(client.connection_pool)


def hang_up(client: redis.Redis) -> None:
    """Have Redis close every connection but the one that asks for it."""
    client.client_kill_filter(_type="normal", skipme=True)


def test_what_is_told_takes_effect_before_what_is_asked_next(line: RedisLine) -> None:
    for number in range(100):
        line.tell("RPUSH", "told", number)
        if number % 7 == 0:
            assert line.ask("LLEN", "told") == number + 1
    assert line.ask("LRANGE", "told", 0, -1) == [str(number).encode() for number in range(100)]


def test_an_error_that_nobody_waits_for_is_not_taken_for_the_next_answer(line: RedisLine) -> None:
    line.tell("SET", "told", "text")
    line.tell("RPUSH", "told", "no list")
    assert line.ask("GET", "told") == b"text"
    with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
        line.ask("RPUSH", "told", "no list")
    assert line.ask("GET", "told") == b"text"


@pytest.mark.parametrize("owing", [False, True])
def test_a_connection_that_redis_has_closed_is_made_anew(line: RedisLine, client: redis.Redis, owing: bool) -> None:
    line.ask("PING")
    if owing:
        line.tell("PING")
    hang_up(client)
    line.tell("RPUSH", "told", "one")
    hang_up(client)
    assert line.ask("RPUSH", "told", "two") == 2


def test_a_redis_that_is_away_is_said(own_redis: RedisServer) -> None:
    with own_redis.client() as client:
        line = RedisLine(client.connection_pool)
        line.ask("PING")
        own_redis.kill()
        with pytest.raises(redis.ConnectionError):
            line.tell("PING")
        with pytest.raises(redis.ConnectionError):
            line.ask("PING")
        own_redis.start()
        assert line.ask("PING") == b"PONG"


def test_a_forked_child_has_a_connection_of_its_own(line: RedisLine) -> None:
    line.tell("RPUSH", "told", "parent")
    pid = os.fork()
    if pid == 0:
        os._exit(0 if line.ask("RPUSH", "told", "child") == 2 else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert line.ask("LRANGE", "told", 0, -1) == [b"parent", b"child"]
