"""Fetching the next while one is worked on."""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
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
