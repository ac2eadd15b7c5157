"""The processes of one part of the stack, known by a file that they hold open and locked.

They inherit the lock, so it is held until the last of them has ended, however that was, and whatever became of
`lern up`. In the file stands the number of their process group. As long as the lock is held the group has a member, and
as long as a group has one its number is given to nobody else: it is safe to be signalled.
"""

import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from lern.cli import tied
from lern.cli.children import LADDER
from lern.errors import Refused
from lern.redis_server import open_lock, try_lock

PAUSE: Final = 0.02
# A part that was killed is gone when the system has cleared it away.
PATIENCE: Final = 10.0


class PartLock:
    """The lock of one part of a data directory's stack."""

    def __init__(self, file: Path) -> None:
        """Name the file; it is made when the lock is taken."""
        self._file = file

    @property
    def name(self) -> str:
        """The part's name."""
        return self._file.stem

    @contextmanager
    def taken(self) -> Iterator[int]:
        """Give the locked file for `command` to inherit. Raises `Refused` while a process of the part is left."""
        self._file.parent.mkdir(parents=True, exist_ok=True)
        descriptor = open_lock(self._file)
        try:
            if not _until_locked(descriptor, PATIENCE):
                raise Refused(f"{self.name} runs already, in the process group {self.group}")
            # The number of another time must not be taken for that of the process that is about to inherit this.
            os.ftruncate(descriptor, 0)
            yield descriptor
        finally:
            os.close(descriptor)

    @property
    def held(self) -> bool:
        """Whether any process of the part runs."""
        descriptor = open_lock(self._file)
        try:
            return not try_lock(descriptor)
        finally:
            os.close(descriptor)

    @property
    def group(self) -> int | None:
        """The number of the part's process group while it runs; None in the moment before it says so."""
        return int(self._file.read_text(encoding="ascii") or 0) or None

    def end(self, ladder: Sequence[tuple[int, float]] = LADDER) -> None:
        """End what is left of the part, politely at first. Raises `Refused` if it cannot be ended."""
        descriptor = open_lock(self._file)
        try:
            for number, patience in ladder:
                self._signal(number)
                if _until_locked(descriptor, patience):
                    return
            raise Refused(f"{self.name} cannot be ended: process group {self.group}")
        finally:
            os.close(descriptor)

    def _signal(self, number: int) -> None:
        """Signal the first process of the group. Without it, its children have nobody to tell them: they are killed."""
        if (group := self.group) is None or not self.held:
            return
        with suppress(ProcessLookupError):
            if number != signal.SIGKILL and _lives(group):
                os.kill(group, number)
            else:
                os.killpg(group, signal.SIGKILL)


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def _until_locked(descriptor: int, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not try_lock(descriptor):
        if time.monotonic() >= deadline:
            return False
        time.sleep(PAUSE)
    return True


def command(words: Sequence[str], descriptor: int) -> list[str]:
    """Give the command line of a part that writes its number into its lock and does not outlive us."""
    return [sys.executable, "-IS", tied.__file__, str(os.getpid()), str(descriptor), *words]
