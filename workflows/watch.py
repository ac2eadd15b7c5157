"""A bridge that watches a file: `python -m workflows.watch --from FILE`. Lines that are added become runs.

How far it has come is saved after the runs are in the ledger, so a kill repeats work and loses none. A file that
was replaced or cut is read from its first line. A last line without its end is not yet a line.
"""

import argparse
import hashlib
import json
import os
import signal
import sys
import threading
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, Final

import structlog

from lern import log as logging
from lern.errors import Unreachable
from lern.services import Services
from lern.settings import Settings
from workflows.bridge import messages
from workflows.intake import Message, take_in

log = structlog.get_logger()

PAUSE: Final = 0.5
AT_ONCE: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Place:
    """How far a file was read: which file (device and inode), the byte after the last line, and its number."""

    device: int = 0
    inode: int = 0
    offset: int = 0
    line: int = 0


class Watch:
    """One watched file. The place is kept in the data directory."""

    def __init__(self, parts: Services, file: Path, topic: str | None) -> None:
        """Go on where an earlier watch of this file has stopped."""
        self._parts = parts
        self._file = file
        self._topic = topic
        name = hashlib.sha256(os.fsencode(file)).hexdigest()[:16]
        self._saved = parts.settings.data_dir / "watched" / f"{name}.json"
        self.place = self._read_place()

    def look(self) -> int:
        """Take in what was added; gives the number of lines. Raises `Unreachable`: then it is taken in later."""
        try:
            file = self._file.open("rb")
        except FileNotFoundError:
            return 0
        with file:
            start = self._start(file)
            block = _whole_lines(file, start.offset)
            if not block:
                return 0
            lines = block.count(b"\n")
            taken = take_in(self._parts, list(self._messages(block, start.line)))
            self._save(replace(start, offset=start.offset + len(block), line=start.line + lines))
        log.info("events were taken in", lines=lines, runs=len(taken.entered), dead=taken.dead, file=str(self._file))
        return lines

    def _start(self, file: BinaryIO) -> Place:
        status = os.fstat(file.fileno())
        same = (self.place.device, self.place.inode) == (status.st_dev, status.st_ino)
        return self.place if same and status.st_size >= self.place.offset else Place(status.st_dev, status.st_ino)

    def _messages(self, block: bytes, before: int) -> Iterator[Message]:
        for message in messages(BytesIO(block), self._topic):
            yield replace(message, offset=before + (message.offset or 0))

    def _read_place(self) -> Place:
        try:
            return Place(**json.loads(self._saved.read_text()))
        except (OSError, ValueError, TypeError):
            return Place()

    def _save(self, place: Place) -> None:
        self._saved.parent.mkdir(parents=True, exist_ok=True)
        new = self._saved.with_suffix(".new")
        new.write_text(json.dumps(asdict(place)))
        new.replace(self._saved)
        self.place = place


def _whole_lines(file: BinaryIO, offset: int) -> bytes:
    """Read about a megabyte, up to the end of a line; of a line that is longer than that, all of it."""
    file.seek(offset)
    block = file.read(AT_ONCE)
    end = block.rfind(b"\n") + 1
    if end or not block:
        return block[:end]
    rest = file.readline()
    return block + rest if rest.endswith(b"\n") else b""


def main() -> int:
    """Watch until SIGTERM or Ctrl-C."""
    parser = argparse.ArgumentParser(prog="lern up --watch")
    parser.add_argument("--from", dest="file", required=True, type=Path)
    parser.add_argument("--topic")
    arguments = parser.parse_args()
    settings = Settings.load()
    logging.configure(settings)
    watch = Watch(Services(settings), arguments.file, arguments.topic)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    log.info("watches", file=str(arguments.file), from_line=watch.place.line + 1)
    while not stop.is_set():
        try:
            found = watch.look()
        except Unreachable as error:
            log.warning("the bridge waits", reason=str(error))
            found = 0
        if not found:
            stop.wait(PAUSE)
    return 0


if __name__ == "__main__":
    sys.exit(main())
