"""What `lern up` leaves for `lern down` and `lern status`, in the data directory.

up.lock   held as long as the stack runs: a process number alone proves nothing after a crash
up.json   its process, its address, and how each part is doing; replaced whenever that changes
"""

import fcntl
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from lern.errors import Refused
from lern.supervisor import Kept

PAUSE: Final = 0.05


class RunningStack:
    """The stack of a data directory, seen by itself and by others."""

    def __init__(self, data_dir: Path) -> None:
        """Name the data directory."""
        self._lock = data_dir / "up.lock"
        self._file = data_dir / "up.json"

    @contextmanager
    def owned(self) -> Iterator[None]:
        """Be the stack of this directory for the length of the block. Raises `Refused` if there is one."""
        self._lock.parent.mkdir(parents=True, exist_ok=True)
        with self._lock.open("a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise Refused(f"it runs already: {self._lock.parent}; lern status, lern down") from None
            try:
                yield
            finally:
                self._file.unlink(missing_ok=True)

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
        with self._lock.open("a") as lock:
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
