"""What the topic of failed events is told: enough to find, understand and replay what went wrong."""

import base64
import hashlib
import json
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lern import events
from lern.events import BadEvent, Place

PLACE = Place("dev.lms.user.account.merge", 1, 42)
BAD = BadEvent("MISSING_FIELD", "edata.toAccountId", "missing; an id was expected")


def told(value: bytes, key: bytes | None = None) -> dict[str, Any]:
    event = events.dead_letter("dev.learning.events.failed", PLACE, key, value, BAD)
    assert event.topic == "dev.learning.events.failed"
    return dict(json.loads(event.value), mid_of_message=event.mid)


def test_a_dead_letter_says_what_is_wrong_and_where_it_lay() -> None:
    letter = told(b'{"a": 1}', b"k")
    assert letter["failInfo"] == {
        "errorCode": "MISSING_FIELD",
        "error": "missing; an id was expected",
        "field": "edata.toAccountId",
    }
    assert (letter["topic"], letter["partition"], letter["offset"]) == (PLACE.topic, 1, 42)
    assert (letter["key"], letter["event"], letter["bytes"]) == ("k", '{"a": 1}', 8)
    assert letter["jobName"] == "lern"


@given(st.binary(max_size=200))
def test_the_bytes_can_be_had_back_whatever_they_are(value: bytes) -> None:
    letter = told(value, value)
    for name in ("event", "key"):
        back = letter[name].encode() if name in letter else base64.b64decode(letter[f"{name}Base64"])
        assert back == value


def test_the_same_event_is_recognised_by_its_mid_and_another_is_not() -> None:
    assert told(b"x")["mid"] == told(b"x", b"other key")["mid"] == told(b"x")["mid_of_message"]
    assert told(b"x")["mid"] != told(b"y")["mid"]


def test_what_would_be_too_large_for_kafka_is_announced_without_its_bytes() -> None:
    value = b"\x00" * 900_000  # six characters each in JSON
    letter = told(value)
    assert "event" not in letter
    assert letter["bytes"] == 900_000
    assert letter["sha256"] == hashlib.sha256(value).hexdigest()


def test_it_can_be_announced_without_its_bytes_for_a_topic_with_a_low_limit() -> None:
    whole = events.dead_letter("t", PLACE, b"k", b'{"a": 1}', BAD)
    small = events.without_original(whole)
    assert small is not None
    assert small.mid == whole.mid
    letter, less = json.loads(whole.value), json.loads(small.value)
    assert less == {name: value for name, value in letter.items() if name not in {"key", "event"}}
    assert events.without_original(small) is None


def test_what_is_told_has_a_bounded_length_whatever_the_event_holds() -> None:
    bad = BadEvent("UNKNOWN_ACTION", "\U0001f600" * 100_000, "\U0001f600" * 100_000)
    whole = events.dead_letter("t", PLACE, b"k" * 100_000, b"x" * 100_000, bad)
    small = events.without_original(whole)
    assert small is not None
    assert len(small.value) < 5_000


def test_a_failed_run_is_announced_with_its_event() -> None:
    event = events.failed("t", "run", 2, b'{"mid": "m", "edata": {}}', "BAD_ROW", "no")
    assert json.loads(event.value) == {
        "mid": "m",
        "edata": {},
        "jobName": "lern",
        "runId": "run",
        "failInfo": {"errorCode": "BAD_ROW", "error": "no"},
    }


def test_a_failed_run_whose_event_is_as_large_as_kafka_takes_is_announced_without_it() -> None:
    original = json.dumps({"mid": "m", "edata": {"more": "x" * 1_000_000}}).encode()
    event = events.failed("t", "run", 1, original, "BAD_ROW", "no")
    assert json.loads(event.value) == {
        "jobName": "lern",
        "runId": "run",
        "failInfo": {"errorCode": "BAD_ROW", "error": "no"},
    }


def test_a_failed_run_can_be_announced_without_its_event_for_a_topic_with_a_low_limit() -> None:
    event = events.failed("t", "run", 1, b'{"mid": "m", "topic": "x", "edata": {}}', "BAD_ROW", "n" * 100_000)
    small = events.without_original(event)
    assert small is not None
    assert small.mid == event.mid
    assert json.loads(small.value).keys() == {"jobName", "runId", "failInfo"}
    assert len(small.value) < 500
    assert events.without_original(small) is None


def test_a_number_that_is_too_large_leaves_no_more_than_json() -> None:
    """A strict reader, as other services' are, has no word for infinity."""
    event = events.failed("t", "run", 1, b'{"ets": 1e999, "least": -1e999, "more": [1e308]}', "BAD_ROW", "no")
    told = json.loads(event.value, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert (told["ets"], told["least"]) == (sys.float_info.max, -sys.float_info.max)
