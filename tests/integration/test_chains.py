"""A run's chain on its way to the broker: what Celery would send, in order, confirmed."""

import base64
import json
from collections.abc import Iterator
from typing import Any

import pytest
from celery import Celery, chain

from lern.client import Chain, Queue
from lern.errors import Unreachable
from tests.servers.redis import RedisServer

STEPS = ("merge.content", "merge.enrolments", "merge.aggregates")
OF_EACH_MESSAGE = {"delivery_tag", "reply_to", "lern_sent"}


@pytest.fixture
def queue(own_redis: RedisServer) -> Iterator[Queue]:
    made = Queue(own_redis.url, "steps")
    yield made
    made.close()


def sent(server: RedisServer, queue: str = "steps") -> list[dict[str, Any]]:
    """The messages of a queue, the oldest first, with their bodies read."""
    with server.client() as client:
        raw: Any = client.lrange(queue, 0, -1)
    found = [json.loads(one) for one in reversed(raw)]
    return [{**one, "body": json.loads(base64.b64decode(one["body"]))} for one in found]


def same_for_all(value: Any) -> Any:
    """Leave out what differs from message to message."""
    if isinstance(value, dict):
        return {name: same_for_all(part) for name, part in value.items() if name not in OF_EACH_MESSAGE}
    return [same_for_all(part) for part in value] if isinstance(value, list) else value


@pytest.mark.parametrize("steps", [STEPS, STEPS[1:2]])
def test_the_message_is_the_one_that_celery_s_chain_sends(
    queue: Queue, own_redis: RedisServer, steps: tuple[str, ...]
) -> None:
    app = Celery("lern", broker=own_redis.url, set_as_current=False)
    app.conf.update(task_default_queue="celery-s", task_serializer="json", task_ignore_result=True)
    signatures = [
        app.signature(step, args=["run-1", 3], immutable=True, task_id=f"run-1.3.{step}", queue="steps")
        for step in steps
    ]
    (chain(signatures) if len(signatures) > 1 else signatures[0]).apply_async()
    app.close()
    queue.send_chain("run-1", 3, steps)
    celery_s, ours = sent(own_redis)
    assert same_for_all(ours) == same_for_all(celery_s)


def test_every_run_has_its_own_ids(queue: Queue, own_redis: RedisServer) -> None:
    queue.send_chains([Chain("a", 1, STEPS), Chain('b"\\', 1, STEPS), Chain("a", 2, STEPS[1:])])
    first, second, third = sent(own_redis)
    assert first["headers"]["id"] == first["properties"]["correlation_id"] == "a.1.merge.content"
    assert second["body"][0] == ['b"\\', 1]
    assert third["headers"]["task"] == "merge.enrolments"
    assert third["body"][0] == ["a", 2]
    rest = [(one["task"], one["args"], one["options"]["task_id"]) for one in first["body"][2]["chain"]]
    assert rest == [
        ("merge.aggregates", ["a", 1], "a.1.merge.aggregates"),
        ("merge.enrolments", ["a", 1], "a.1.merge.enrolments"),
    ]


def test_chains_are_queued_in_the_order_given(queue: Queue, own_redis: RedisServer) -> None:
    queue.send_chains([Chain(f"run-{n}", 1, STEPS) for n in range(2_500)])
    assert [one["body"][0][0] for one in sent(own_redis)] == [f"run-{n}" for n in range(2_500)]


def test_a_message_says_when_it_was_sent(queue: Queue, own_redis: RedisServer) -> None:
    queue.send_chain("a", 1, STEPS)
    [message] = sent(own_redis)
    assert message["headers"]["lern_sent"] > 1_700_000_000_000


def test_a_broker_that_is_away_is_said_and_a_broker_that_is_back_is_used(queue: Queue, own_redis: RedisServer) -> None:
    queue.send_chain("a", 1, STEPS)
    own_redis.stop()
    for _ in range(2):
        with pytest.raises(Unreachable, match="broker cannot be reached"):
            queue.send_chains([Chain("b", 1, STEPS)])
    own_redis.start()
    queue.send_chain("c", 1, STEPS)
    assert [one["body"][0][0] for one in sent(own_redis)] == ["c"]
