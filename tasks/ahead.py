"""Fetching the next while one is worked on, and finishing the one before."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import copy_context
from typing import TypeVar

Item = TypeVar("Item")


def ahead(items: Iterator[Item]) -> Iterator[Item]:
    """Give what an iterator gives; a thread fetches the next item while the one before is in use, never more than one.

    What fetching raises is raised when the item's turn comes. However this ends, the thread has ended then: nothing is
    fetched any more, and nothing that it was told about the run's locks can be outdated.
    """
    end = object()
    with ThreadPoolExecutor(1, "ahead") as pool:

        def fetch() -> "Future[Item | object]":
            context = copy_context()
            return pool.submit(lambda: context.run(lambda: next(items, end)))

        following = fetch()
        while (item := following.result()) is not end:
            following = fetch()
            yield item  # type: ignore[misc]  # all but the end is an item


@contextmanager
def behind() -> Iterator[Callable[[Callable[[], object]], None]]:
    """Give a function that has a thread do a piece of work, and returns as soon as the piece before is done.

    What a piece raises is raised by the next call, or when the block ends. However it ends, the thread has ended then:
    nothing is done any more by a step that was given up.
    """
    with ThreadPoolExecutor(1, "behind") as pool:
        last: list[Future[object]] = []

        def do(piece: Callable[[], object]) -> None:
            if last:
                last.pop().result()
            last.append(pool.submit(copy_context().run, piece))

        yield do
        if last:
            last.pop().result()
