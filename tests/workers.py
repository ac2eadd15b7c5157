"""Real processes of the command line on the settings of a test: workers and beats, each in a session of its own."""

import signal
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from lern.cli.children import Child, environ
from lern.settings import Settings

# Far beyond what it takes: reached only when something is wrong.
PATIENCE: Final = 90.0


class Process(Child):
    """`lern worker`, `lern beat` or `lern flower`, with what it prints in a file."""

    def __init__(
        self, command: str, settings: Settings, log: Path, more: Mapping[str, str] | None = None, *options: str
    ) -> None:
        """Start it. `more`: environment variables besides the settings."""
        self.log = log
        plain = {name: value for name, value in environ(settings).items() if not name.startswith("PROMETHEUS_")}
        words = [sys.executable, "-m", "lern.cli", command, *options]
        with log.open("ab") as output:
            super().__init__(words, {**plain, "LERN_LOG_LEVEL": "INFO", **(more or {})}, output)

    @property
    def text(self) -> str:
        """What it has printed."""
        return self.log.read_text(errors="replace")

    def ready(self, word: str = " ready.") -> Self:
        """Wait until it says that it is ready."""
        until(lambda: word in self.text or self.exit_code is not None)
        assert self.exit_code is None, self.text[-4000:]
        return self

    def stop(self) -> int:
        """Ask it to end; give its exit code."""
        self.signal(signal.SIGTERM)
        code = self.wait(PATIENCE)
        assert code is not None, "it did not end"
        return code

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()


def until(happened: Callable[[], object], patience: float = PATIENCE) -> None:
    """Look until something has happened."""
    deadline = time.monotonic() + patience
    while not happened():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)
