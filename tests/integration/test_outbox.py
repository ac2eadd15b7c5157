"""The outbox before a Kafka that takes some events and not others: what can go goes, and goes once."""

import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from lern import events
from lern.errors import Refused, TooLarge, Unreachable
from lern.kafka import KafkaSender
from tasks.step import Aside, Done, Failed, Work, deliver, perform
from tests.acceptance.place import Place
from tests.accounts import RELATIONS, two_accounts
from tests.bridges import Surroundings, merges, surroundings
from tests.contract.given_ledger import carry_out, chunk
from tests.servers.redis import RedisServer
from tests.servers.server import Server
from workflows.intake import Message, take_in

# Later than any event was planned.
EVER: Final = 2**60


@pytest.fixture
def around(kafka: Server, own_redis: RedisServer, tmp_path: Path) -> Iterator[Surroundings]:
    made = surroundings(kafka.address, own_redis.url, tmp_path, without=["learning_events_failed"])
    yield made
    made.parts.store.close()
    made.close()


def impatient(around: Surroundings) -> None:
    """Wait less long than in production for a topic that is not there; what is there must be reached within it, too."""
    around.parts.__dict__["sender"] = KafkaSender(around.settings, {"delivery.timeout.ms": 2_500})


def mids(around: Surroundings, topic: Any) -> Counter[str]:
    """How often each event lies in a topic, by its mid."""
    return Counter(event["mid"] for event in around.held(around.settings.topic(topic)))


def fails(_work: Work) -> dict[str, Any]:
    raise Refused("no")


def fails_at_length(_work: Work) -> dict[str, Any]:
    raise Refused(random.randbytes(1_000).hex())


def fail(around: Surroundings, value: bytes) -> str:
    """Have a run of this event fail."""
    [entered] = take_in(around.parts, [Message(around.topic, 0, 0, None, value)]).entered
    assert isinstance(perform(around.parts, "merge.content", fails, entered.run_id, 1), Failed)
    return entered.run_id


def test_while_one_topic_is_missing_the_events_of_the_others_arrive_and_only_once(around: Surroundings) -> None:
    impatient(around)
    topics = around.settings.topic
    around.create_topics(topics("coursebatch_job_request"), topics("issue_certificate_request"))
    place = Place(around.parts).create()
    place.load(two_accounts("from", "to"), RELATIONS)
    run_id = place.enter("from", "to")
    while place.run(run_id).step != "merge.batch_enrolment_sync":
        assert isinstance(place.step(run_id), Done)
    for _ in range(2):
        outcome = place.step(run_id)
        assert isinstance(outcome, Aside)
        assert topics("telemetry_raw") in outcome.reason
    assert {event.topic for event in around.ledger.undelivered()} == {topics("telemetry_raw")}
    around.create_topics(topics("telemetry_raw"))
    assert place.carry_out(run_id).state == "succeeded"
    for topic in ("coursebatch_job_request", "issue_certificate_request", "telemetry_raw"):
        found = mids(around, topic)
        assert found
        assert set(found.values()) == {1}, topic


def test_a_topic_in_trouble_does_not_hold_up_the_events_of_others(
    around: Surroundings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even where so many of its events stand before them as are sent at once."""
    impatient(around)
    monkeypatch.setattr("tasks.step.SEND_AT_ONCE", 2)
    topic = around.settings.topic("coursebatch_job_request")
    around.create_topics(topic)
    for value in merges(2):
        fail(around, value)
    other = events.enrolment_sync(topic, "another run", 1, "u", "c", "b")
    carry_out(around.ledger, chunk("another run"), other)
    with pytest.raises(Unreachable, match=around.failed_topic):
        deliver(around.parts, None, created_before=EVER)
    assert mids(around, "coursebatch_job_request") == {other.mid: 1}
    assert {event.topic for event in around.ledger.undelivered()} == {around.failed_topic}
    # Nothing else is left: it is the topic that is waited for.
    around.create_topics(around.failed_topic)
    deliver(around.parts, None, created_before=EVER)
    assert around.ledger.undelivered() == []
    assert len(around.announced()) == 2


def test_a_failed_run_whose_event_is_too_large_for_the_topic_is_announced_without_it(around: Surroundings) -> None:
    around.create_topics(around.failed_topic, config={"max.message.bytes": "2000"})
    # Random, for what can be compressed is not long.
    long = {**events.merge_request("a", "b", 1, "k"), "pad": random.randbytes(5_000).hex()}
    runs = [fail(around, value) for value in (events.to_bytes(long), *merges(1))]
    assert around.ledger.undelivered() == []
    held = around.announced()
    # Either may lie in the first partition.
    assert sorted(event["runId"] for event in held) == sorted(runs)
    announced = {event["runId"]: event for event in held}
    assert "edata" not in announced[runs[0]]
    assert announced[runs[0]]["failInfo"] == {"errorCode": "REFUSED", "error": "no"}
    assert "edata" in announced[runs[1]]


def test_a_failure_that_the_topic_takes_in_no_form_is_tried_again_and_holds_up_nothing(around: Surroundings) -> None:
    around.create_topics(around.failed_topic, config={"max.message.bytes": "350"})
    long = fail(around, events.to_bytes(events.merge_request("a" * 200, "b" * 200, 1, "k")))
    [entered] = take_in(around.parts, [Message(around.topic, 0, 0, None, *merges(1))]).entered
    assert isinstance(perform(around.parts, "merge.content", fails_at_length, entered.run_id, 1), Failed)
    with pytest.raises(TooLarge):
        deliver(around.parts, None, created_before=EVER)
    assert [event.mid for event in around.ledger.undelivered()] == [f"{entered.run_id}.failed.1"]
    assert [event["runId"] for event in around.announced()] == [long]
