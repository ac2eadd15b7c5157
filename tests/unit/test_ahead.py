"""Fetching ahead: order, errors, and that nothing goes on when nobody wants more."""

import threading
from collections.abc import Iterator

import pytest

from tasks.ahead import ahead


def test_everything_comes_in_order() -> None:
    assert list(ahead(iter(range(5)))) == [0, 1, 2, 3, 4]
    assert list(ahead(iter(()))) == []


def test_the_next_is_fetched_while_one_is_in_use_and_no_more_than_that() -> None:
    fetched = [threading.Event() for _ in range(4)]

    def numbers() -> Iterator[int]:
        for number, event in enumerate(fetched):
            event.set()
            yield number

    items = ahead(numbers())
    assert next(items) == 0
    assert fetched[1].wait(10)
    assert not fetched[2].is_set()
    assert next(items) == 1
    assert fetched[2].wait(10)
    assert not fetched[3].is_set()
    items.close()  # type: ignore[attr-defined]  # a generator


def test_what_fetching_raises_comes_when_its_turn_has_come() -> None:
    def numbers() -> Iterator[int]:
        yield 1
        raise LookupError

    items = ahead(numbers())
    assert next(items) == 1
    with pytest.raises(LookupError):
        next(items)


def test_whoever_stops_waits_for_the_fetching_to_end() -> None:
    ended = threading.Event()

    def numbers() -> Iterator[int]:
        yield 1
        ended.set()
        yield 2

    items = ahead(numbers())
    assert next(items) == 1
    with pytest.raises(ZeroDivisionError):
        items.throw(ZeroDivisionError)  # type: ignore[attr-defined]  # a generator
    assert ended.is_set()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("ahead")]
