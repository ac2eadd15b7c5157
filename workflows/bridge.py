"""The bridge: events become runs, from a file here, from Kafka in `workflows.kafka_bridge`.

    python -m workflows.bridge --from EVENTS.jsonl [--topic TOPIC] [--report REPORT.json]

A line of the file is an event, or `{"topic": …, "key": …, "value": …}` around one.
"""

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, Final

import structlog

from lern import events, phrases
from lern import log as logging
from lern.services import Services
from lern.settings import Settings
from workflows.intake import Message, take_in

log = structlog.get_logger()

LINES_AT_ONCE: Final = 500
PAUSE: Final = 1.0
WRAPPER: Final = frozenset({"topic", "partition", "offset", "key", "value"})
# Characters of a topic as Kafka has it. What is longer names none, and is more than PostgreSQL keeps in an index.
LONGEST_TOPIC: Final = 249


@dataclass
class Report:
    """What became of a file: the runs by id, and how many lines were repeats or dead letters."""

    lines: int = 0
    new: int = 0
    repeated: int = 0
    dead: int = 0
    refused: int = 0
    runs: dict[str, None] = field(default_factory=dict)

    def as_json(self) -> str:
        """Give the report as one JSON object."""
        return json.dumps({**self.__dict__, "runs": list(self.runs)})

    def __str__(self) -> str:
        """Say it in a line."""
        parts = [f"{phrases.many(self.lines, 'line')}: {phrases.many(self.new, 'new run')}"]
        if self.repeated:
            parts.append(f"{self.repeated:,} seen before")
        if self.dead:
            parts.append(f"{phrases.many(self.dead, 'dead letter')} (lern dead list)")
        return ", ".join(parts)


def messages(file: BinaryIO, topic: str | None) -> Iterator[Message]:
    """Read a file line by line; blank lines do not count. `topic` is that of bare events."""
    for number, line in enumerate(file, start=1):
        value = line.rstrip(b"\r\n")
        if value.strip():
            yield _unwrapped(value, number) or Message(topic, None, number, None, value)


def _unwrapped(line: bytes, number: int) -> Message | None:
    """Take an event out of its wrapper; None if the line is not one.

    Where it lay in Kafka, which the wrapper may say, is left aside: here its place is the line.
    """
    try:
        wrapper: Any = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(wrapper, dict) or not {"topic", "value"} <= wrapper.keys() <= WRAPPER:
        return None
    topic = wrapper["topic"]
    if not isinstance(topic, str) or len(topic) > LONGEST_TOPIC:
        return None
    return Message(topic, None, number, _bytes(wrapper.get("key")), _bytes(wrapper["value"]))


def _bytes(value: Any) -> bytes | None:
    """Give a key's or value's bytes: a text is the bytes as they were, an object is written out."""
    if value is None:
        return None
    return value.encode("utf-8", "surrogatepass") if isinstance(value, str) else events.to_bytes(value)


def from_file(parts: Services, file: BinaryIO, topic: str | None) -> Report:
    """Take in a whole file, some hundred lines at a time; a server that is away is waited for."""
    report = Report()
    stream = messages(file, topic)
    while bunch := list(islice(stream, LINES_AT_ONCE)):
        taken = take_in(parts, bunch, _wait)
        outcome = Counter("refused" if e.refused is not None else "new" if e.new else "repeated" for e in taken.entered)
        report.lines += len(bunch)
        report.new += outcome["new"]
        report.repeated += outcome["repeated"]
        report.refused += outcome["refused"]
        report.dead += taken.dead
        report.runs.update((e.run_id, None) for e in taken.entered if e.refused is None)
    return report


def _wait(error: Exception) -> None:
    log.warning("the bridge waits", reason=str(error))
    time.sleep(PAUSE)


def main() -> int:
    """Run the bridge from a file; 0 when every line became a run, 1 when there was a dead letter."""
    parser = argparse.ArgumentParser(prog="lern bridge")
    parser.add_argument("--from", dest="file", required=True, type=Path)
    parser.add_argument("--topic")
    parser.add_argument("--report", type=Path)
    arguments = parser.parse_args()
    settings = Settings.load()
    logging.configure(settings)
    parts = Services(settings)
    parts.ledger.migrate()
    with arguments.file.open("rb") as file:
        report = from_file(parts, file, arguments.topic)
    if arguments.report is not None:
        arguments.report.write_text(report.as_json())
    else:
        sys.stdout.write(f"{report}\n")
    return 1 if report.dead else 0


if __name__ == "__main__":
    sys.exit(main())
