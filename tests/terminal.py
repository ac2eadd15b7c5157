"""A command on a terminal of its own, as somebody sits at it."""

import os
import pty
import re
import subprocess
import threading
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Final, Self

from lern.cli.children import ROOT
from tests.workers import until

STEERING: Final = re.compile(rb"\x1b\[[0-9;?]*[a-zA-Z]")
HOME: Final = b"\x1b[H"
CTRL_C: Final = b"\x03"
# The first process of a session gets the terminal that it opens as the session's: Ctrl-C there is SIGINT to it.
ON_TERMINAL: Final = ("sh", "-c", ': <>"$0"; exec "$@"')


class Terminal:
    """The command and what it has sent to its terminal, `written`."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        """Start it."""
        self._ours, theirs = pty.openpty()
        size = {"COLUMNS": "200", "LINES": "20", "TERM": "xterm-256color"}
        words = [*ON_TERMINAL, os.ttyname(theirs), *command]
        self.process = subprocess.Popen(
            words,
            cwd=ROOT,
            env={**environment, **size},
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        )
        os.close(theirs)
        self.written = b""
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        # Linux says EIO, others nothing, when the last on the other side has gone.
        try:
            while piece := os.read(self._ours, 1 << 16):
                self.written += piece
        except OSError:
            pass

    @property
    def screen(self) -> str:
        """The latest page, without what steers the terminal."""
        return STEERING.sub(b"", self.written.rpartition(HOME)[2]).decode("utf-8", "replace")

    def shows(self, *words: str) -> None:
        """Wait until a page has all of these words."""
        until(lambda: self.process.poll() is not None or all(word in self.screen for word in words))
        assert self.process.poll() is None, self.written

    def press(self, key: bytes) -> None:
        """Type something."""
        os.write(self._ours, key)

    def __enter__(self) -> Self:
        """Begin."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End it."""
        self.process.kill()
        self.process.wait()
        self._reader.join()
        os.close(self._ours)
