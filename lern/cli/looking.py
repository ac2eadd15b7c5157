"""Going through all batches: a bar, and how long it will take."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from lern import phrases
from lern.cli import console


@dataclass
class Pace:
    """How fast it goes, from the first part on: what comes before that is connecting to servers."""

    _first: tuple[float, float] | None = None

    def left(self, done: float, now: float) -> float | None:
        """Give how long the rest will take (s) when `done` of it (0 to 1) is done at `now` (s); None: too early."""
        if self._first is None:
            self._first = done, now
        before, began = self._first
        if done <= before:
            return None
        return (now - began) / (done - before) * (1.0 - done)


@contextmanager
def through_all_batches() -> Iterator[Callable[[float], None]]:
    """Show a bar; gives what is to be told how much is done (0 to 1)."""
    pace = Pace()
    with console.progress() as bar:
        task = bar.add_task("looking through all batches", total=100, note="", unit="%")

        def tell(done: float) -> None:
            left = pace.left(done, time.monotonic())
            note = f"{phrases.span(round(left) * 1000)} to go" if left is not None and left >= 1 else ""
            bar.update(task, completed=done * 100, note=note)

        yield tell
