"""A bridge that watches a file: `python -m workflows.watch --from FILE`. Lines that are added become runs.

How far it has come is saved after the runs are in the ledger, so a kill repeats work and loses none. A file that was
moved away, as log files are, is read to its end before the one that has come in its place; one that was cut or
written anew is read from its first line. A last line without its end is not yet a line, unless nothing comes after it.
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
from io import BytesIO, FileIO
from pathlib import Path
from typing import Final, Self

import structlog

from lern import log as logging
from lern.health import Health, PortTaken, served
from lern.services import Services
from lern.settings import Settings
from workflows.bridge import messages
from workflows.intake import PASSING, Message, Wait, impatient, take_in

log = structlog.get_logger()

PAUSE: Final = 0.5
AT_ONCE: Final = 1 << 20
TAIL: Final = 1 << 10
# What is read at once may wait for the ledger's lock (30 s). A loop that stands for longer (s) hangs.
PATIENCE: Final = 120.0


@dataclass(frozen=True, slots=True)
class Place:
    """How far a file was read: which file (device and inode), the byte after the last line, and its number.

    `tail` is a digest of the bytes before that place: a file that was written anew may be as long as the old one.
    """

    device: int = 0
    inode: int = 0
    offset: int = 0
    line: int = 0
    tail: str = ""

    @classmethod
    def start(cls, status: os.stat_result) -> Self:
        """Give the place of a file's first line."""
        return cls(status.st_dev, status.st_ino)

    def is_in(self, status: os.stat_result) -> bool:
        """Whether this is a place in that file."""
        return (self.device, self.inode) == (status.st_dev, status.st_ino)


class Watch:
    """One watched file. The place is kept in the data directory."""

    def __init__(self, parts: Services, file: Path, topic: str | None, wait: Wait = impatient) -> None:
        """Go on where an earlier watch of this file has stopped. `wait`: see `take_in`."""
        self._parts = parts
        self._wait = wait
        self._file = file
        self._topic = topic
        name = hashlib.sha256(os.fsencode(file)).hexdigest()[:16]
        self._saved = parts.settings.data_dir / "watched" / f"{name}.json"
        self.place = self._read_place()
        # Held open: a file that is moved away, or even deleted, can still be read to its end.
        self._open: FileIO | None = None

    def look(self) -> int:
        """Take in what was added; gives the number of lines. Raises what `wait` does: then it is taken in later."""
        if self._open is None:
            self._open = self._found()
        if self._open is None:
            return 0
        if (lines := self._take(self._open)) or not self._is_replaced(self._open):
            return lines
        # It may have grown between the two looks; after that nobody adds to it.
        return self._take(self._open) or self._take(self._open, to_the_end=True) or self._turn_over()

    def close(self) -> None:
        """Close the file."""
        if self._open is not None:
            self._open.close()
        self._open = None

    def _turn_over(self) -> int:
        """Go on with the file that has come in the place of ours, which is done with."""
        try:
            new = _opened(self._file)
        except FileNotFoundError:
            return 0
        self.close()
        self._open = new
        self._save(Place.start(os.fstat(new.fileno())))
        return self.look()

    def _found(self) -> FileIO | None:
        """Open the file in which we stopped, wherever it was moved to; else the one that is there now, if one is."""
        if self.place.inode and (moved := self._moved()) is not None:
            return moved
        try:
            return _opened(self._file)
        except FileNotFoundError:
            return None

    def _moved(self) -> FileIO | None:
        """Open the file of our place if it lies in the same directory and is not another one of the same inode."""
        try:
            entries = [entry for entry in os.scandir(self._file.parent) if entry.inode() == self.place.inode]
        except FileNotFoundError:
            return None
        for entry in entries:
            if not entry.is_file(follow_symlinks=False):
                continue
            try:
                file = _opened(entry.path)
            except FileNotFoundError:
                continue  # deleted since it was listed
            if self._start(file) == self.place:
                return file
            file.close()
        return None

    def _is_replaced(self, file: FileIO) -> bool:
        """Whether another file has come in its place. While none has, more may be added to the one that was moved."""
        try:
            return not os.path.samestat(self._file.stat(), os.fstat(file.fileno()))
        except FileNotFoundError:
            return False

    def _take(self, file: FileIO, *, to_the_end: bool = False) -> int:
        """Take in the next lines, some at a time. `to_the_end`: with a last line that has no end."""
        start = self._start(file)
        block = _whole_lines(file, start.offset)
        if not block and to_the_end:
            block = b"".join(_pieces(file, start.offset))
        if not block:
            if start != self.place:
                # Cut: it must be known again if it is moved away before anything was read of it.
                self._save(start)
            return 0
        lines = block.count(b"\n") + (not block.endswith(b"\n"))
        taken = take_in(self._parts, list(self._messages(block, start.line)), self._wait)
        offset = start.offset + len(block)
        self._save(replace(start, offset=offset, line=start.line + lines, tail=_tail(file, offset)))
        log.info("events were taken in", lines=lines, runs=len(taken.entered), dead=taken.dead, file=str(self._file))
        return lines

    def _start(self, file: FileIO) -> Place:
        """Give the place where a file is to be read: where we stopped, or its beginning if it is not as it was."""
        status = os.fstat(file.fileno())
        here = self.place.is_in(status) and status.st_size >= self.place.offset
        same = here and self.place.tail in {"", _tail(file, self.place.offset)}
        return self.place if same else Place.start(status)

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


def _opened(path: str | Path) -> FileIO:
    """Open a file without a buffer, which would not notice that the file was written anew."""
    return FileIO(path)


def _tail(file: FileIO, offset: int) -> str:
    """Give a digest of what stands before a place."""
    length = min(offset, TAIL)
    return hashlib.sha256(os.pread(file.fileno(), length, offset - length)).hexdigest()[:16]


def _whole_lines(file: FileIO, offset: int) -> bytes:
    """Read about a megabyte, up to the end of a line; of a line that is longer than that, all of it."""
    block = b""
    for piece in _pieces(file, offset):
        block += piece
        if end := block.rfind(b"\n") + 1:
            return block[:end]
    return b""


def _pieces(file: FileIO, offset: int) -> Iterator[bytes]:
    """Read from a place to the end, a megabyte at a time."""
    while piece := os.pread(file.fileno(), AT_ONCE, offset):
        yield piece
        offset += len(piece)


def main() -> int:
    """Watch until SIGTERM or Ctrl-C."""
    parser = argparse.ArgumentParser(prog="lern up --watch")
    parser.add_argument("--from", dest="file", required=True, type=Path)
    parser.add_argument("--topic")
    arguments = parser.parse_args()
    settings = Settings.load()
    logging.configure(settings)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    health = Health(PATIENCE)
    watch = Watch(Services(settings), arguments.file, arguments.topic, until_stopped(health, stop))
    try:
        with served(health, settings.bridge_host, settings.bridge_port):
            log.info("watches", file=str(arguments.file), from_line=watch.place.line + 1)
            follow(watch, health, stop)
    except PortTaken as error:
        sys.stderr.write(f"lern: {error}\n")
        return 1
    return 0


def until_stopped(health: Health, stop: threading.Event) -> Wait:
    """Give what waits for a server that is away, and says so in the process' health, until told to stop."""

    def wait(error: Exception) -> None:
        if health.hindered("batch", str(error)):
            log.warning("the bridge waits", reason=str(error))
        if stop.wait(PAUSE):
            raise error
        health.turned()

    return wait


def follow(watch: Watch, health: Health, stop: threading.Event) -> None:
    """Look at a file until told to stop."""
    while not stop.is_set():
        health.turned()
        try:
            found = watch.look()
        except PASSING as error:
            log.warning("ends with lines in hand, which are read again", reason=str(error))
            return
        health.cleared("start")
        if health.cleared("batch"):
            log.info("the bridge goes on")
        if not found:
            stop.wait(PAUSE)


if __name__ == "__main__":
    sys.exit(main())
