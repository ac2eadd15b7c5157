"""The directory through which the processes of one worker share their numbers, for `lern.metrics`.

It must be there, empty, before the first of them starts, and is of no use when the last has ended. That is told
by a lock on a file in it, which the worker's processes inherit: whoever starts the next worker clears away what
nobody holds any more, also after a SIGKILL.
"""

import fcntl
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

VARIABLE: Final = "PROMETHEUS_MULTIPROC_DIR"
_LOCK: Final = "in-use.lock"


@dataclass(frozen=True)
class MetricsDir:
    """A worker's directory. `descriptor`: an open file that its processes must inherit."""

    path: Path
    descriptor: int

    @property
    def environ(self) -> dict[str, str]:
        """What the worker's environment must say."""
        return {VARIABLE: str(self.path)}


def new(parent: Path) -> MetricsDir:
    """Make a directory for one worker in `parent`, and remove those of workers that have ended."""
    parent.mkdir(parents=True, exist_ok=True)
    # Nobody clears away what another has made and not locked yet.
    with (parent / "start.lock").open("a") as start:
        fcntl.flock(start, fcntl.LOCK_EX)
        for old in parent.glob("worker-*"):
            _remove_if_abandoned(old)
        made = Path(tempfile.mkdtemp(prefix="worker-", dir=parent))
        descriptor = os.open(made / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    os.set_inheritable(descriptor, True)
    return MetricsDir(made, descriptor)


def _remove_if_abandoned(directory: Path) -> None:
    with (directory / _LOCK).open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        shutil.rmtree(directory, ignore_errors=True)
