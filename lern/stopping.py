"""Whether this worker is to stop: one flag for a process and all that it has forked.

A worker is told to stop in its parent process, the steps are at work in its children. Each of them looks
between two chunks, and gives back what it has not done yet.
"""

import mmap

from lern.errors import Stopping


class StopFlag:
    """A flag in memory that a process shares with its forked children. Setting it is safe in a signal handler."""

    def __init__(self) -> None:
        """Make it before the fork; it is not set."""
        self._byte = mmap.mmap(-1, 1)

    def set(self) -> None:
        """Ask everybody to stop."""
        self._byte[0] = 1

    def clear(self) -> None:
        """Take that back."""
        self._byte[0] = 0

    def is_set(self) -> bool:
        """Whether to stop."""
        return self._byte[0] == 1

    def check(self) -> None:
        """Raise `Stopping` if so. Called where work may be broken off without leaving anything half done."""
        if self.is_set():
            raise Stopping("the worker is being stopped; another goes on")


STOP = StopFlag()
"""This worker's."""
