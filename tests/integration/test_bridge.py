"""The bridge between a real Kafka and a real Redis: every event becomes one run or one dead letter."""

import base64
import hashlib
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer

from tests.bridges import Surroundings, merges, run_of, surroundings, until
from tests.servers.postgres import PostgresServer
from tests.servers.redis import RedisServer
from tests.servers.server import Server
from workflows import intake, kafka_bridge
from workflows.partitions import Partitions


@pytest.fixture
def place(kafka: Server, redis_server: RedisServer, tmp_path: Path) -> Iterator[Surroundings]:
    made = surroundings(kafka.address, redis_server.url, tmp_path)
    yield made
    made.close()


def runs_of(values: list[bytes]) -> set[str]:
    return {run_of(value) for value in values}


def test_events_become_runs_and_their_chains_are_sent(place: Surroundings) -> None:
    events = merges(30)
    place.produce(events)
    with place.bridge() as bridge:
        bridge.until_ready()
        until(lambda: len(place.queued()) == 30, "30 chains are sent")
        until(place.all_committed, "the offsets are committed")
    assert place.runs() == runs_of(events)
    assert set(place.queued().values()) == {1}


def test_an_event_that_comes_again_is_the_same_run(place: Surroundings) -> None:
    [event] = merges(1)
    place.produce([event, event, event, event])
    with place.bridge():
        until(lambda: place.committed() == {0: 2, 1: 2}, "four messages are through")
    assert place.runs() == {run_of(event)}


def test_what_its_producer_took_back_never_happened(place: Surroundings) -> None:
    producer = Producer(
        {
            "bootstrap.servers": str(place.settings.kafka_bootstrap),
            "transactional.id": place.settings.env,
            "log_level": 0,
        }
    )
    producer.init_transactions(30)
    taken_back, good = merges(3), merges(3)
    for values, end in ((taken_back, producer.abort_transaction), (good, producer.commit_transaction)):
        producer.begin_transaction()
        for value in values:
            producer.produce(place.topic, value, partition=0)
        producer.flush(30)
        end(30)
    with place.bridge():
        # They lie behind the others, so whoever has read them has read past those.
        until(lambda: runs_of(good) <= place.runs(), "what was not taken back is taken in")
    assert place.runs() == runs_of(good)
    assert not place.dead()


def test_a_run_that_has_ended_is_not_sent_again(place: Surroundings) -> None:
    [event] = merges(1)
    place.produce([event])
    with place.bridge():
        until(place.all_committed, "it is taken in")
    run = place.ledger.peek(run_of(event))
    assert run is not None
    place.ledger.fail(run.id, run.step or "", run.generation, None, 1, "BAD_ROW", "no", None)
    place.parts.broker.delete(place.settings.queue)
    place.produce([event])
    with place.bridge():
        until(place.all_committed, "it has come again")
    assert not place.queued()


def test_a_restarted_bridge_goes_on_where_it_stopped(place: Surroundings) -> None:
    first, second = merges(10), merges(10)
    place.produce(first)
    with place.bridge():
        until(place.all_committed, "the first are taken in")
    place.produce(second)
    with place.bridge(start=None):
        until(place.all_committed, "the others are taken in")
    assert place.runs() == runs_of(first + second)
    assert set(place.queued().values()) == {1}


BROKEN: dict[str, tuple[bytes | None, str]] = {
    "no value": (None, "EMPTY"),
    "nothing in it": (b"", "INVALID_JSON"),
    "not UTF-8": (b'{"mid": "\xff"}', "NOT_UTF8"),
    "UTF-16": ('{"mid": "m"}'.encode("utf-16"), "NOT_UTF8"),
    "torn": (b'{"mid": ', "INVALID_JSON"),
    "no object": (b"[1, 2]", "WRONG_TYPE"),
    "a key twice": (b'{"edata": {"action": "a", "action": "b"}}', "DUPLICATE_KEY"),
    "nested too deep": (b'{"a":' * 40 + b"1" + b"}" * 40, "TOO_DEEP"),
    "nested beyond reason": (b"[" * 200_000 + b"]" * 200_000, "TOO_DEEP"),
    "a number without end": (b'{"ets": ' + b"9" * 5_000 + b"}", "INVALID_JSON"),
    "another action": (b'{"edata": {"action": "delete"}}', "UNKNOWN_ACTION"),
    "an action of a megabyte": (f'{{"edata": {{"action": "{chr(0xE000) * 349_000}"}}}}'.encode(), "UNKNOWN_ACTION"),
    "a long key twice": (b'{"%b": 1, "%b": 2}' % ((b"k" * 500_000,) * 2), "DUPLICATE_KEY"),
    "an id of the wrong kind": (b'{"edata": {"fromAccountId": 7, "toAccountId": "t"}}', "WRONG_TYPE"),
    "an id with NUL": (b'{"edata": {"fromAccountId": "a\\u0000", "toAccountId": "t"}}', "BAD_CHARACTER"),
    "one account": (b'{"edata": {"fromAccountId": "a", "toAccountId": "a"}}', "SAME_ACCOUNT"),
}


def test_what_can_never_be_a_run_is_a_dead_letter_and_the_partition_moves_on(place: Surroundings) -> None:
    [good] = merges(1)
    place.produce([value for value, _ in BROKEN.values()], partition=0)
    place.produce([good], partition=0)
    with place.bridge():
        until(place.all_committed, "everything is through")
    assert place.runs() == {run_of(good)}
    letters = {letter.value: letter for letter in place.ledger.dead_letters(limit=100)}
    for offset, (what, (value, code)) in enumerate(BROKEN.items()):
        letter = letters.pop(value or b"", None)
        # A message without a value and one with nothing in it have the same bytes: one letter, which came twice.
        if letter is None:
            assert what == "nothing in it"
            continue
        assert letter.code == (code if what != "no value" else "INVALID_JSON"), what
        assert (letter.partition, letter.topic) == (0, place.topic)
        assert letter.offset == (offset if what != "no value" else 1), what
    assert not letters


def test_dead_letters_are_announced_with_their_bytes_and_where_they_lay(place: Surroundings) -> None:
    place.produce([b"text \xc3\xbc", b"bytes \xff"], b"\xfe", partition=1)
    with place.bridge():
        until(place.all_committed, "everything is through")
    text, binary = sorted(place.announced(), key=lambda letter: int(letter["offset"]))
    assert text["event"] == "text ü"
    assert base64.b64decode(binary["eventBase64"]) == b"bytes \xff"
    assert [letter["keyBase64"] for letter in (text, binary)] == ["/g=="] * 2
    assert (binary["topic"], binary["partition"], binary["offset"]) == (place.topic, 1, 1)
    assert binary["failInfo"] == {"errorCode": "NOT_UTF8", "error": "byte 6 is not UTF-8", "field": ""}


def test_keys_and_headers_change_nothing(place: Surroundings) -> None:
    events = merges(3)
    place.produce(events[:1], b"key", headers={"trace": b"\xff", "empty": None})
    place.produce(events[1:2], b"")
    place.produce(events[2:], None, headers=[])
    with place.bridge():
        until(place.all_committed, "everything is through")
    assert place.runs() == runs_of(events)


def test_a_refused_merge_is_announced_too(place: Surroundings) -> None:
    [first] = merges(1)
    there, back = json.loads(first), json.loads(first)
    source, target = there["edata"]["fromAccountId"], there["edata"]["toAccountId"]
    back["edata"] |= {"fromAccountId": target, "toAccountId": source}
    place.produce([first, json.dumps(back).encode()], partition=0)
    with place.bridge():
        until(place.all_committed, "both are through")
    [letter] = place.announced()
    assert letter["failInfo"]["errorCode"] == "MERGE_CIRCLE"
    assert (letter["partition"], letter["offset"]) == (0, 1)


def test_an_event_as_large_as_the_topic_takes_is_dead_and_its_bytes_are_kept(place: Surroundings) -> None:
    large = b'"' + b"\x01" * 1_000_000 + b'"'
    place.produce([large, *merges(2)], partition=0)
    with place.bridge():
        until(place.all_committed, "everything is through")
    assert len(place.runs()) == 2
    assert place.dead() == {large: 1}
    [letter] = place.announced()
    assert letter["sha256"] == hashlib.sha256(large).hexdigest()
    assert "event" not in letter


def test_a_low_limit_of_the_failed_topic_stops_nothing(
    kafka: Server, redis_server: RedisServer, tmp_path: Path
) -> None:
    place = surroundings(kafka.address, redis_server.url, tmp_path, without=["learning_events_failed"])
    place.create_topics(place.failed_topic, config={"max.message.bytes": "2000"})
    # Random, for what can be compressed is not long.
    long, short = random.randbytes(10_000).hex().encode(), b"y"
    place.produce([long, short], partition=0)
    with place.bridge():
        until(place.all_committed, "everything is through")
    announced = {letter["bytes"]: letter for letter in place.announced()}
    assert "event" not in announced[20_000]
    assert announced[1]["event"] == "y"
    place.close()


def test_a_letter_that_the_failed_topic_takes_in_no_form_stays_in_the_ledger(
    kafka: Server, redis_server: RedisServer, tmp_path: Path
) -> None:
    place = surroundings(kafka.address, redis_server.url, tmp_path, without=["learning_events_failed"])
    place.create_topics(place.failed_topic, config={"max.message.bytes": "100"})
    [good] = merges(1)
    place.produce([b"broken", good], partition=0)
    with place.bridge() as bridge:
        until(place.all_committed, "everything is through")
    assert bridge.error is None
    assert place.dead() == {b"broken": 1}
    assert place.runs() == {run_of(good)}
    assert not place.announced()
    place.close()


def test_the_order_is_the_guarantee(place: Surroundings, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []

    def noted(owner: Any, name: str) -> None:
        real: Callable[..., Any] = getattr(owner, name)

        def note(*arguments: Any) -> Any:
            result = real(*arguments)
            done.append(name)
            return result

        monkeypatch.setattr(owner, name, note)

    for name in ("judge_all", "enter", "send", "announce"):
        noted(intake, name)
    noted(Partitions, "commit")
    place.produce([*merges(3), b"broken"], partition=0)
    with place.bridge():
        until(place.all_committed, "everything is through")
    assert done[:5] == ["judge_all", "enter", "send", "announce", "commit"]


def test_without_the_broker_nothing_is_committed_and_nothing_lost(
    kafka: Server, own_redis: RedisServer, tmp_path: Path
) -> None:
    place = surroundings(kafka.address, own_redis.url, tmp_path)
    before, after = merges(3), merges(10)
    with place.bridge() as bridge:
        place.produce(before)
        until(place.all_committed, "the first are taken in")
        own_redis.stop()
        place.produce(after)
        until(lambda: "broker cannot be reached" in str(bridge.reasons()), "/ready says no")
        assert place.committed() == {0: 2, 1: 1}
        own_redis.start()
        until(place.all_committed, "the rest is taken in")
        bridge.until_ready()
    assert place.runs() == runs_of(before + after)
    assert set(place.queued()) >= runs_of(after)
    place.close()


def test_without_the_ledger_the_bridge_stays_a_member_and_tries_the_same_again(
    kafka: Server, redis_server: RedisServer, own_postgres: PostgresServer, tmp_path: Path
) -> None:
    place = surroundings(kafka.address, redis_server.url, tmp_path, LEDGER_URL=own_postgres.new_database())
    events = merges(10)
    with place.bridge() as bridge:
        bridge.until_ready()
        own_postgres.stop()
        place.produce(events)
        assert "ledger cannot be reached" in bridge.until_hindered("batch")
        assert not place.queued()
        assert place.committed() == {0: 0, 1: 0}
        own_postgres.start()
        # The bridge finds out by itself that its connections are gone; ours we close.
        place.ledger.close()
        until(place.all_committed, "everything is taken in")
        bridge.until_ready()
    assert place.runs() == set(place.queued()) == runs_of(events)
    place.close()


def test_a_dead_letter_that_cannot_be_announced_holds_the_offset_back(
    kafka: Server, redis_server: RedisServer, tmp_path: Path
) -> None:
    place = surroundings(kafka.address, redis_server.url, tmp_path, without=["learning_events_failed"])
    place.produce([b"broken"], partition=0)
    with place.bridge() as bridge:
        assert place.failed_topic in bridge.until_hindered("batch")
        assert place.dead() == {b"broken": 1}
        assert place.committed() == {0: 0, 1: 0}
        place.create_topics(place.failed_topic)
        until(place.all_committed, "the letter is announced")
        bridge.until_ready()
    assert place.dead() == {b"broken": 1}
    assert {letter["event"] for letter in place.announced()} == {"broken"}
    place.close()


def test_the_bridge_stops_reading_while_the_workers_lag_behind(
    kafka: Server, redis_server: RedisServer, tmp_path: Path
) -> None:
    place = surroundings(
        kafka.address,
        redis_server.url,
        tmp_path,
        BRIDGE_BATCH="10",
        BRIDGE_PAUSE_AT="20",
        BRIDGE_RESUME_AT="5",
    )
    events = merges(200)
    place.produce(events)
    with place.bridge() as bridge:
        assert "wait for workers" in bridge.until_hindered("queue")
        assert 20 <= len(place.runs()) < 200
        seen: set[str] = set()

        def worked_off() -> bool:
            seen.update(place.work_off())
            return len(seen) == 200

        until(worked_off, "all chains are sent, as the queue gets shorter")
        until(place.all_committed, "the offsets are committed")
    assert seen == place.runs() == runs_of(events)
    place.close()


def test_kafka_may_restart(kafka: Server, redis_server: RedisServer, tmp_path: Path) -> None:
    place = surroundings(kafka.address, redis_server.url, tmp_path)
    before, after = merges(5), merges(5)
    with place.bridge() as bridge:
        place.produce(before)
        until(place.all_committed, "the first are taken in")
        kafka.stop()
        bridge.until_hindered("kafka")
        kafka.start()
        place.produce(after)
        until(lambda: len(place.queued()) == 10, "the others are taken in")
        bridge.until_ready()
        until(place.all_committed, "the offsets are committed")
    assert place.runs() == runs_of(before + after)
    place.close()


def test_the_bridge_waits_for_the_first_of_its_topics(kafka: Server, redis_server: RedisServer, tmp_path: Path) -> None:
    place = surroundings(kafka.address, redis_server.url, tmp_path, without=["user_account_merge"])
    with place.bridge(start=None) as bridge:
        assert f"there is no topic {place.topic}" in bridge.until_hindered("preparation")
        place.create_topics(place.topic)
        bridge.until_ready()
        events = merges(4)
        place.produce(events)
        until(place.all_committed, "everything is taken in")
    assert place.runs() == runs_of(events)
    place.close()


@pytest.mark.parametrize("start", ["latest", None])
def test_a_topic_that_is_made_later_is_read_from_its_first_message(
    kafka: Server, redis_server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start: str | None
) -> None:
    """It was said where to begin when the group began; that does not mean this one's messages."""
    place = surroundings(kafka.address, redis_server.url, tmp_path, without=["user_account_merge"])
    place.create_topics(place.settings.topic("user_ownership_transfer"))
    with place.bridge(start) as bridge:
        bridge.until_ready()
        events = merges(4)
        place.create_topics(place.topic)
        place.produce(events)
        monkeypatch.setattr(kafka_bridge, "LOOK_FOR_TOPICS", 0.2)
        until(lambda: len(place.runs()) == 4, "everything is taken in")
        until(place.all_committed, "the offsets are committed")
    assert place.runs() == runs_of(events)
    place.close()


def test_a_chain_that_nobody_sent_is_sent_by_the_bridge_s_sweep(place: Surroundings) -> None:
    """A bridge that died between ledger and broker, and whose partition came to a Kafka that lost the event."""
    [event] = merges(1)
    judged = intake.judge_all([intake.Message(place.topic, None, None, None, event)], place.settings)
    intake.enter(place.parts, judged)
    with place.bridge(lock_ttl=1.0, sweep_interval=0.1):
        until(lambda: place.queued() == {run_of(event): 1}, "the sweep has sent it")


def test_the_metrics_tell_what_became_of_events(place: Surroundings) -> None:
    from urllib.request import urlopen

    [event] = merges(1)
    place.produce([event, event, b"broken"], partition=0)
    with place.bridge() as bridge:
        until(place.all_committed, "everything is through")

        def told() -> str:
            with urlopen(f"http://127.0.0.1:{bridge.port}/metrics", timeout=5) as page:
                return str(page.read().decode())

        until(lambda: f'lern_bridge_lag_events{{partition="0",topic="{place.topic}"}} 0.0' in told(), "no lag is left")
        page = told()
    for outcome, number in (("run", 1), ("repeated", 1), ("dead", 1)):
        assert f'lern_events_total{{outcome="{outcome}",topic="{place.topic}"}} {number}.0' in page
    assert f'lern_dead_letters_total{{code="INVALID_JSON",topic="{place.topic}"}} 1.0' in page
