"""An event on its way out, as bytes; what sending it promises; and the sender for where there is no Kafka."""

import errno
import fcntl
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from lern.errors import LernError, TooLarge, Unreachable


@dataclass(frozen=True, slots=True)
class OutgoingEvent:
    """One message for Kafka. Planned and journalled before the rows that it announces, sent afterwards.

    `mid` is deterministic: sent twice (delivery is at least once), the event is recognised by it.
    `topic` is the full name, environment included. `key` is Kafka's partition key, None where the
    documents give none. `value` is the event's bytes, the same for every attempt.
    """

    mid: str
    topic: str
    key: bytes | None
    value: bytes


@dataclass(frozen=True)
class Sent:
    """What became of the events of one call: which are confirmed, and why each of the others is not."""

    confirmed: tuple[OutgoingEvent, ...] = ()
    failed: tuple[tuple[OutgoingEvent, LernError], ...] = ()

    def __add__(self, other: "Sent") -> "Sent":
        """Give what became of the events of both calls."""
        return Sent(self.confirmed + other.confirmed, self.failed + other.failed)

    @property
    def too_large(self) -> list[OutgoingEvent]:
        """The events that their topic does not take. Trying again cannot help."""
        return [event for event, error in self.failed if isinstance(error, TooLarge)]

    def without_too_large(self) -> "Sent":
        """Give the same without those."""
        return Sent(self.confirmed, tuple(one for one in self.failed if not isinstance(one[1], TooLarge)))

    def check(self) -> None:
        """Raise why an event is not confirmed, if one is not: `Unreachable`, `TooLarge`, `Transient` for the rest."""
        for _, error in self.failed:
            raise error


class Sender(Protocol):
    """Sends events so that they arrive at least once."""

    def send(self, events: Sequence[OutgoingEvent]) -> Sent:
        """Send events; returns when it is known of every one whether it is confirmed.

        One that fails stops none of the others. It may have arrived all the same, and is to be sent again. Confirmed
        events of one topic and key arrive in the order given.
        """


class FileSender:
    """Appends events to `<topic>.jsonl` in a directory, for where there is no Kafka: one line per event, its value.

    Confirmed means on the disk. Several processes may write the same files. A line that a killed process left
    incomplete is dropped before the next one is written; it was not confirmed, so its event is sent again.
    """

    def __init__(self, directory: Path) -> None:
        """Name the directory; it is made with the first event."""
        self._directory = directory
        self._named: set[Path] = set()

    def send(self, events: Sequence[OutgoingEvent]) -> Sent:
        """See `Sender`. Raises `ValueError`, before it writes anything, for a topic that Kafka would not have."""
        topics: dict[str, list[OutgoingEvent]] = {}
        for event in events:
            if not _TOPIC.fullmatch(event.topic):
                raise ValueError(f"not a topic's name: {event.topic!r}")
            topics.setdefault(event.topic, []).append(event)
        return sum((self._write(topic, of_topic) for topic, of_topic in topics.items()), Sent())

    def _write(self, topic: str, events: Sequence[OutgoingEvent]) -> Sent:
        path = self._directory / f"{topic}.jsonl"
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            self._append(path, [_line(event.value) for event in events])
        except OSError as error:
            problem = Unreachable("outgoing file", f"{path}: {error.strerror or error}")
            return Sent(failed=tuple((event, problem) for event in events))
        return Sent(tuple(events))

    def _append(self, path: Path, lines: Sequence[bytes]) -> None:
        file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            end = _drop_torn_line(file)
            is_new = end == 0 or path not in self._named
            for line in lines:
                if os.write(file, line) != len(line):
                    os.ftruncate(file, end)
                    raise OSError(errno.ENOSPC, "a line was written in part")
                end += len(line)
            os.fsync(file)
        finally:
            os.close(file)
        # The file's name is on the disk once this was done since the file was made, by ourselves: who made it may
        # have died before.
        if is_new:
            self._sync_directory()
            self._named.add(path)

    def _sync_directory(self) -> None:
        directory = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


# Kafka's own rule. The first character also keeps "." and ".." out.
_TOPIC: Final = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,248}")
_BLOCK: Final = 65536


def _line(value: bytes) -> bytes:
    # JSON has line breaks only where they mean nothing: between its parts, never within a text.
    return value.replace(b"\n", b" ") + b"\n"


def _drop_torn_line(file: int) -> int:
    """Cut what follows the last line break; returns the size that is left. The caller holds the file's lock."""
    size = end = os.fstat(file).st_size
    while end > 0:
        start = max(0, end - _BLOCK)
        found = os.pread(file, end - start, start).rfind(b"\n")
        if found >= 0:
            end = start + found + 1
            break
        end = start
    if end < size:
        os.ftruncate(file, end)
    return end
