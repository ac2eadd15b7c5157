"""The name under which Celery and Flower know a worker: no two on a host have the same.

A worker takes the lowest number that no other worker of its data directory holds, so one that is started in the
place of another has its name again. The number is held by a lock on a file, which the worker's processes inherit:
it is free when the last of them has ended, however it ended. Where nothing may be written (a container without a
volume, whose host name is its own) it is the number of the process.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from itertools import count
from pathlib import Path
from typing import Final

_DIGITS: Final = 4


@dataclass(frozen=True)
class NodeName:
    """A worker's name, as Celery takes it. `descriptor`: an open file that its processes must inherit."""

    text: str
    descriptor: int


@contextmanager
def node_name(data_dir: Path) -> Iterator[NodeName]:
    """Hold a name for the length of the block, or for as long as a process that inherits it lives."""
    directory = data_dir.resolve()
    try:
        number, descriptor = _taken(directory / "workers")
    except OSError:
        number, descriptor = os.getpid(), os.open(os.devnull, os.O_RDONLY)
    try:
        # Elsewhere on this host another data directory counts from one as well.
        place = sha256(os.fsencode(directory)).hexdigest()[:_DIGITS]
        yield NodeName(f"lern-{place}-{number}@%h", descriptor)
    finally:
        os.close(descriptor)


def _taken(directory: Path) -> tuple[int, int]:
    """Take the lowest number that is free; gives it with the open file that holds it."""
    directory.mkdir(parents=True, exist_ok=True)
    for number in count(1):
        descriptor = os.open(directory / f"{number}.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            continue
        os.set_inheritable(descriptor, True)
        return number, descriptor
    raise AssertionError
