"""Where a new group begins: what can be said, and what is refused."""

from datetime import UTC, datetime

import pytest

from lern.errors import Refused
from lern.kafka_start import End, Groups, Moment, parse


@pytest.mark.parametrize("which", ["latest", "earliest"])
def test_it_can_begin_at_either_end(which: str) -> None:
    assert parse(which) == End(which)  # type: ignore[arg-type]


def test_it_can_go_on_where_other_groups_stopped() -> None:
    assert parse("group:dev-merge-courses-group") == Groups(("dev-merge-courses-group",))
    assert parse("group: a , b") == Groups(("a", "b"))


@pytest.mark.parametrize("which", ["latest", "earliest"])
def test_topics_that_no_group_has_read_begin_at_an_end(which: str) -> None:
    assert parse(f"group:a,b,{which}") == Groups(("a", "b"), End(which))  # type: ignore[arg-type]


def test_it_can_begin_at_a_time() -> None:
    assert parse("2022-02-21T05:54:43.853Z") == Moment(1645422883853)
    assert parse("2022-02-21T11:24:43.853+05:30") == Moment(1645422883853)


def test_a_time_without_an_offset_is_this_machine_s() -> None:
    here = datetime(2024, 5, 1, tzinfo=UTC).astimezone().replace(tzinfo=None)
    assert parse(here.isoformat()) == Moment(1714521600000)


@pytest.mark.parametrize(
    "words", ["", "newest", "group:", "group: ,", "group:latest", "LATEST", "yesterday", "2024-13-01"]
)
def test_anything_else_is_refused_with_what_can_be_said(words: str) -> None:
    with pytest.raises(Refused, match="or group:NAME was expected"):
        parse(words)
