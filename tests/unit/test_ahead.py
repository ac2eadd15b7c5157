"""Fetching ahead and finishing behind: order, errors, and that nothing goes on when nobody wants more."""

import threading
from collections.abc import Iterator

import pytest

from tasks.ahead import ahead, behind


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


def test_a_piece_is_done_while_its_giver_goes_on_and_before_the_next() -> None:
    may_end = threading.Event()
    done: list[int] = []

    def first() -> None:
        assert may_end.wait(10)
        done.append(1)

    with behind() as have_done:
        have_done(first)
        assert done == []
        may_end.set()
        have_done(lambda: done.append(2))
        assert done[0] == 1
    assert done == [1, 2]


@pytest.mark.parametrize("pieces", [1, 2])
def test_what_a_piece_raises_is_raised_by_whoever_comes_next(pieces: int) -> None:
    def fail() -> None:
        raise LookupError

    done: list[int] = []

    def give() -> None:
        with behind() as have_done:
            have_done(fail)
            if pieces == 2:
                have_done(lambda: done.append(2))

    with pytest.raises(LookupError):
        give()
    assert done == []


def test_whoever_gives_up_waits_for_the_piece_to_end() -> None:
    has_begun, ended = threading.Event(), threading.Event()

    def piece() -> None:
        has_begun.set()
        ended.set()

    def give_up() -> None:
        with behind() as have_done:
            have_done(piece)
            assert has_begun.wait(10)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        give_up()
    assert ended.is_set()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("behind")]
