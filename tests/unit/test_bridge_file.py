"""A file of events: an event in a wrapper is the event that it is alone, and what came of the file fits in a line."""

import json
from io import BytesIO

import pytest

from lern import events
from workflows.bridge import Report, messages


@pytest.mark.parametrize("mid", ["m", "ä", "\ud800"])
def test_an_event_in_a_wrapper_is_the_event_that_it_is_alone(mid: str) -> None:
    """Also with half a character in it, which JSON can escape and UTF-8 cannot hold."""
    event = {"mid": mid, "edata": {}}
    lines = [json.dumps(event), json.dumps({"topic": "t", "value": event})]
    alone, wrapped = messages(BytesIO("\n".join(lines).encode()), None)
    assert events.parse(alone.value) == events.parse(wrapped.value) == event
    assert (alone.topic, wrapped.topic) == (None, "t")


def test_a_line_that_is_nested_too_deep_is_a_bare_event_and_stops_none_after_it() -> None:
    line = "[" * 100_000
    [deep, after] = messages(BytesIO(f'{line}\n{{"mid": "m"}}\n'.encode()), None)
    assert (deep.value, after.value) == (line.encode(), b'{"mid": "m"}')
    with pytest.raises(events.BadEvent, match="nested deeper"):
        events.parse(deep.value)


@pytest.mark.parametrize("topic", ["t" * 250, 7, None, {"a": "topic"}])
def test_around_what_is_no_topic_there_is_no_wrapper(topic: object) -> None:
    line = json.dumps({"topic": topic, "value": {}}).encode()
    [message] = messages(BytesIO(line), "given")
    assert (message.topic, message.value) == ("given", line)


@pytest.mark.parametrize("partition", [0, 2**70, "0", {"no": "number"}, None])
def test_an_event_of_a_file_has_its_line_for_a_place_whatever_its_wrapper_says(partition: object) -> None:
    """What no ledger can keep, as a number of any size, would stop the file at this line for good."""
    wrapper = {"topic": "t", "partition": partition, "offset": 42, "value": {}}
    [message] = messages(BytesIO(json.dumps(wrapper).encode()), None)
    assert (message.partition, message.offset) == (None, 1)


@pytest.mark.parametrize(
    ("report", "line"),
    [
        (Report(), "0 lines: 0 new runs"),
        (Report(lines=1, new=1), "1 line: 1 new run"),
        (Report(lines=1500, new=2, repeated=1, dead=1497, refused=1), "1,500 lines: 2 new runs, 1 seen before, "),
        (Report(lines=1, dead=1), "1 line: 0 new runs, 1 dead letter (lern dead list)"),
    ],
)
def test_what_came_of_a_file_is_said_in_a_line(report: Report, line: str) -> None:
    assert str(report).startswith(line)
    assert "\n" not in str(report)
