"""Going through all batches: a bar, and how long it will take."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from lern import phrases
from lern.cli import console


@contextmanager
def through_all_batches() -> Iterator[Callable[[float], None]]:
    """Show a bar; gives what is to be told how much is done (0 to 1)."""
    begun = time.monotonic()
    with console.progress() as bar:
        task = bar.add_task("looking through all batches", total=100, note="")

        def tell(done: float) -> None:
            left = (time.monotonic() - begun) * (1 / done - 1) if done else 0.0
            bar.update(task, completed=round(done * 100), note=f"{phrases.span(round(left * 1000))} to go")

        yield tell
