"""Real processes of the command line on the settings of a test: workers and beats, each in a session of its own."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from lern.settings import Settings

ROOT: Final = Path(__file__).parents[1]
# Far beyond what it takes: reached only when something is wrong.
PATIENCE: Final = 90.0


class Process:
    """`lern worker` or `lern beat`, with what it prints in a file."""

    def __init__(self, command: str, settings: Settings, log: Path, more: Mapping[str, str] | None = None) -> None:
        """Start it."""
        plain = {name: value for name, value in os.environ.items() if not name.startswith(("LERN_", "PROMETHEUS_"))}
        self.log = log
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "lern.cli", command],
                env={**plain, **settings.environ(), "LERN_LOG_LEVEL": "INFO", **(more or {})},
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """The process that was started."""
        return self._process.pid

    @property
    def text(self) -> str:
        """What it has printed."""
        return self.log.read_text(errors="replace")

    def ready(self, word: str = " ready.") -> Self:
        """Wait until it says that it is ready."""
        until(lambda: word in self.text or self._process.poll() is not None)
        assert self._process.poll() is None, self.text[-4000:]
        return self

    def ask(self, number: int = signal.SIGTERM) -> None:
        """Send a signal to the one that was started, as a supervisor does."""
        self._process.send_signal(number)

    def stop(self) -> int:
        """Ask it to end; give its exit code."""
        self.ask()
        return self._process.wait(PATIENCE)

    def kill(self) -> None:
        """End it and its children, without asking."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def __enter__(self) -> Self:
        return self

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
