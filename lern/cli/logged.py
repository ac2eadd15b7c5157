"""Children whose lines are printed with their names before them."""

import os
import sys
import threading
from collections.abc import Sequence
from typing import IO, Final

from lern.cli import console
from lern.cli.children import Child
from lern.supervisor import Process

COLOURS: Final = {
    "redis": "red",
    "worker": "green",
    "beat": "blue",
    "bridge": "cyan",
    "flower": "magenta",
    "lern": "bold",
}


class Logged(Child):
    """A child whose every line is printed with its name before it."""

    _reader: threading.Thread

    @classmethod
    def started(
        cls, name: str, command: Sequence[str], environment: dict[str, str], inherited: Sequence[int]
    ) -> Process:
        """Start it, and a thread that prints what it says."""
        end, beginning = os.pipe()
        try:
            with os.fdopen(beginning, "wb") as output:
                child = cls(command, environment, output, inherited)
        except BaseException:
            os.close(end)
            raise
        child._reader = threading.Thread(target=_print, args=(name, os.fdopen(end, "rb")), daemon=True)
        child._reader.start()
        return child

    def end(self) -> None:
        """End it, and print what it said last."""
        super().end()
        self._reader.join(5)


def _print(name: str, output: IO[bytes]) -> None:
    with output:
        for line in output:
            say(name, line.decode("utf-8", "replace").rstrip("\n"))


_saying = threading.Lock()


def say(name: str, text: str) -> None:
    """Print a line of a part's, or our own (`lern`)."""
    screen = console.out()
    with _saying:
        screen.print(f"{name:<7}│ ", style=COLOURS[name], end="", highlight=False, markup=False)
        screen.print(console.text(text), soft_wrap=True, highlight=False, markup=False)
        sys.stdout.flush()
