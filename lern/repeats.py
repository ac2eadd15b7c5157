"""What a library says again and again while a server is away, said once in a while."""

import logging
import re
import time
from collections.abc import Callable
from typing import Final

# Seconds. Often enough to see in a log that it still goes on.
EVERY: Final = 30.0

# Threads, ports, offsets and times: lines that differ in nothing else say the same.
_NUMBERS: Final = re.compile(r"\d+")
# Lines that differ in more than numbers are few. More of them, and all are forgotten: each is said once more.
_KNOWN: Final = 200


class Repeats(logging.Filter):
    """Lets a line pass if the same has not passed for a while; the next that does says how many were left out.

    A client of Kafka tries to connect twenty times a second and tells every time: half an hour without Kafka would be
    tens of thousands of lines, in which nobody finds those that say more.
    """

    def __init__(self, every: float = EVERY, now: Callable[[], float] = time.monotonic) -> None:
        """`every`: how long (s) the same line is kept back."""
        super().__init__()
        self._every = every
        self._now = now
        # When a line has passed, and how many were kept back since.
        self._passed: dict[str, tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Say whether the line passes."""
        # Without a mutex, which a fork could take along locked. Two threads that meet here say a line twice at worst.
        line = _NUMBERS.sub("#", f"{record.levelname} {record.getMessage()}")
        then, left_out = self._passed.get(line, (float("-inf"), 0))
        now = self._now()
        if now < then + self._every:
            self._passed[line] = (then, left_out + 1)
            return False
        if len(self._passed) >= _KNOWN:
            self._passed.clear()
        self._passed[line] = (now, 0)
        if left_out:
            record.msg, record.args = f"{record.getMessage()} (and {left_out} times before)", ()
        return True


class RaisedToo(logging.Filter):
    """Keeps back what Cassandra's driver logs with a traceback, and raises all the same: the step's line says it."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Say whether the line passes."""
        return not str(record.msg).startswith("Error preparing query")
