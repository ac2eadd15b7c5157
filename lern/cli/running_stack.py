"""What `lern up` leaves for `lern down` and `lern status`, in the data directory.

up.lock   held as long as the stack runs: a process number alone proves nothing after a crash
up.json   its process, its address, and how each part is doing; replaced whenever that changes
parts/    a lock for each part, held by its processes: what is left of a stack whose `lern up` was killed is known by it
"""

import fcntl
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from lern.cli.part_lock import PartLock
from lern.errors import Refused
from lern.supervisor import Kept

PAUSE: Final = 0.05


class RunningStack:
    """The stack of a data directory, seen by itself and by others."""

    def __init__(self, data_dir: Path) -> None:
        """Name the data directory."""
        self._lock = data_dir / "up.lock"
        self._file = data_dir / "up.json"
        self._parts = data_dir / "parts"

    def part(self, name: str) -> PartLock:
        """Give the lock of a part."""
        return PartLock(self._parts / f"{name}.lock")

    @property
    def left(self) -> list[PartLock]:
        """The parts that run though their `lern up` does not."""
        return [] if self.runs else self._running_parts()

    def end_left(self) -> list[str]:
        """End the parts that run though their `lern up` does not; gives their names. Raises `Refused` if it does."""
        with self.owned() as ended:
            return ended

    @contextmanager
    def owned(self) -> Iterator[list[str]]:
        """Be the stack of this directory for the length of the block, once the parts that another has left are ended.

        Gives the names of those. Raises `Refused` if there is a stack.
        """
        self._lock.parent.mkdir(parents=True, exist_ok=True)
        with self._lock.open("a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise Refused(f"it runs already: {self._lock.parent}; lern status, lern down") from None
            try:
                left = self._running_parts()
                for part in left:
                    part.end()
                yield [part.name for part in left]
            finally:
                self._file.unlink(missing_ok=True)

    def _running_parts(self) -> list[PartLock]:
        return [part for file in sorted(self._parts.glob("*.lock")) if (part := PartLock(file)).held]

    def tell(self, kept: Sequence[Kept], url: str) -> None:
        """Write down how the parts are doing."""
        parts = [
            {
                "id": one.part.name,
                "state": one.state,
                "pid": None if one.process is None else one.process.pid,
                "restarts": one.restarts,
            }
            for one in kept
        ]
        new = self._file.with_suffix(".new")
        new.write_text(json.dumps({"pid": os.getpid(), "url": url, "at": round(time.time() * 1000), "parts": parts}))
        new.replace(self._file)

    def seen(self) -> Mapping[str, Any] | None:
        """Give what the stack last told; None if none runs."""
        if not self.runs:
            return None
        try:
            found: dict[str, Any] = json.loads(self._file.read_text())
        except (FileNotFoundError, ValueError):
            return {"pid": None, "url": "", "at": 0, "parts": []}
        return found

    @property
    def runs(self) -> bool:
        """Whether a stack runs."""
        if not self._lock.exists():
            return False
        with self._lock.open() as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False

    def wait_for_end(self, seconds: float) -> bool:
        """Wait until no stack runs; False if one still does after so long."""
        deadline = time.monotonic() + seconds
        while self.runs:
            if time.monotonic() >= deadline:
                return False
            time.sleep(PAUSE)
        return True
