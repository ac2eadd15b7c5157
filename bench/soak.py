"""`make soak`: merges for ten minutes through every process; none may grow, no connection, lock or file may be left.

Events are added to a file that a bridge watches, two workers carry them out, and Flower's pages are looked at.

    python -m bench.soak [MINUTES [postgresql]]

The ledger is in SQLite, or in a PostgreSQL of its own. What is compared are medians: of the last quarter against the
second. The first is for caches to fill.
"""

import os
import re
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.error import HTTPError
from urllib.request import urlopen

import sqlalchemy as sa
from rich.console import Console
from rich.table import Table

from bench.stack import embedded, until
from lern import events
from lern.cli.children import Child, celery_beat, celery_worker, environ
from lern.cli.flower import command as flower_command
from lern.cli.node_name import node_name
from lern.ledger import NewRun
from lern.locks import PREFIX
from lern.redis_server import free_port
from lern.services import Services
from lern.store.tables import ASSESSMENT_AGGREGATOR, USER_CONTENT_CONSUMPTION, USER_ENROLMENTS
from tests.servers.postgres import PostgresServer
from workflows.intake import Message, judge

MINUTES: Final = "10"
SQLITE: Final = "sqlite"
_SESSIONS: Final = sa.text("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()")
EVERY: Final = 2.0
# Runs on their way at most: the stream is as fast as the workers, and no backlog hides behind it.
UNDER_WAY: Final = 40
CONTENTS: Final = 20
# What a process may grow by between two quarters: SQLite fills its page caches (2 MiB for rows, 2 MiB for the ledger)
# over a process's first two thousand merges. Beyond these it was seen to stay within 10 KiB for the next 1,500.
GROWTH_KIB: Final = 4_096
# Connections that a process may open late: pools grow when two threads (a step, and what keeps its locks) need one at
# the same moment, which may come once in thousands of merges. What leaks would open thousands.
LATE: Final = 2
# A run's state in Redis, kept for seven days, is what Redis may grow by.
REDIS_BYTES_PER_RUN: Final = 1_024
SOAK_WORKERS: Final = 2


@dataclass
class Watched:
    """What was seen of one process over time: private memory in KiB, open files, threads."""

    name: str
    memory: list[int] = field(default_factory=list)
    files: list[int] = field(default_factory=list)
    threads: list[int] = field(default_factory=list)

    def look(self, pid: int) -> None:
        """Take one sample; a process that has ended gives none."""
        with suppress(FileNotFoundError, ProcessLookupError):
            status = dict(re.findall(r"^(\w+):\s+(\d+)", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE))
            files = len(list(Path(f"/proc/{pid}/fd").iterdir()))
            self.memory.append(int(status["RssAnon"]))
            self.files.append(files)
            self.threads.append(int(status["Threads"]))


@dataclass(frozen=True)
class Verdict:
    """One line of the table: medians of the second and of the last quarter, and whether that is flat."""

    what: str
    early: float
    late: float
    flat: bool


def quarters(samples: Sequence[int]) -> tuple[float, float]:
    """Give the medians of the second and of the last quarter."""
    size = max(1, len(samples) // 4)
    return statistics.median(samples[size : 2 * size] or samples), statistics.median(samples[-size:])


def verdicts(watched: Watched) -> Iterator[Verdict]:
    """Judge one process."""
    early, late = quarters(watched.memory)
    yield Verdict(f"{watched.name}: private memory, KiB", early, late, late - early <= GROWTH_KIB)
    early, late = quarters(watched.files)
    yield Verdict(f"{watched.name}: open files", early, late, late <= early + LATE)
    early, late = quarters(watched.threads)
    yield Verdict(f"{watched.name}: threads", early, late, late <= early + 1)


def children_of(pid: int) -> list[int]:
    """Give the processes that a process has forked."""
    with suppress(FileNotFoundError, ProcessLookupError):
        return sorted(int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
    return []


class Soak:
    """A stream of merges, and eyes on every process."""

    def __init__(self, parts: Services, started: dict[str, Child], events_file: Path, flower: str) -> None:
        """Watch these processes, and their children. The bridge reads `events_file`, `flower` is Flower's address."""
        self._parts = parts
        self._started = started
        self._events = events_file
        self._flower = flower
        self._watched: dict[int, Watched] = {}
        self._clients: list[int] = []
        self._sessions: list[int] = []
        self._runs: list[str] = []
        # Runs so far, and what Redis keeps in memory then.
        self._redis: list[tuple[int, int]] = []
        self._under_way: list[str] = []

    def run(self, seconds: float) -> None:
        """Let merges stream for so long, then wait for the last."""
        began = time.monotonic()
        looked = began
        while (now := time.monotonic()) - began < seconds:
            if now - looked >= EVERY:
                self._look()
                looked = now
            self._feed()
        until(lambda: not self._still_under_way())

    def _feed(self) -> None:
        if len(self._still_under_way()) >= UNDER_WAY:
            time.sleep(0.05)
            return
        for _ in range(UNDER_WAY // 4):
            self._under_way.append(self._merge(len(self._runs)))
            self._runs.append(self._under_way[-1])

    def _still_under_way(self) -> list[str]:
        ledger = self._parts.ledger
        states = {run_id: ledger.peek(run_id) for run_id in self._under_way}
        self._under_way = [run_id for run_id, run in states.items() if run is None or run.ended_at is None]
        return self._under_way

    def _merge(self, number: int) -> str:
        source, target = f"old-{number}", f"new-{number}"
        for user in (source, target):
            self._insert(user)
        value = events.to_bytes(events.merge_request(source, target, 1_700_000_000_000 + number, source))
        with self._events.open("ab") as file:
            file.write(value + b"\n")
        entered = judge(Message(None, None, None, None, value), self._parts.settings)
        assert isinstance(entered, NewRun)  # noqa: S101 - for the type checker: it is a good event
        return entered.id

    def _insert(self, user: str) -> None:
        store = self._parts.store
        place = {"courseid": "course", "batchid": "batch"}
        seen = {"userid": user, **place, "status": 1}
        contents = [{**seen, "contentid": f"c{number}", "viewcount": number} for number in range(CONTENTS)]
        store.insert(USER_CONTENT_CONSUMPTION, contents)
        store.insert(USER_ENROLMENTS, [{"userid": user, **place, "active": True, "status": 1}])
        attempt = {"user_id": user, "course_id": "course", "batch_id": "batch", "content_id": "c1", "attempt_id": user}
        store.insert(ASSESSMENT_AGGREGATOR, [{**attempt, "total_score": 1.0}])

    def _look(self) -> None:
        for name, child in self._started.items():
            for place, pid in enumerate([child.pid, *children_of(child.pid)]):
                label = f"{name}, child {place}" if place else name
                self._watched.setdefault(pid, Watched(label)).look(pid)
        self._watched.setdefault(os.getpid(), Watched("stream (this process)")).look(os.getpid())
        for page in ("/runs", "/failed", f"/run/{self._runs[0]}" if self._runs else "/dead"):
            with suppress(HTTPError), urlopen(self._flower + page, timeout=30) as answer:  # noqa: S310 - our own, on loopback
                answer.read()
        info: Any = self._parts.broker.info("clients")
        self._clients.append(int(info["connected_clients"]))
        self._redis.append((len(self._runs), self._redis_memory()))
        self._sessions.append(self._sessions_of_ledger())

    def _sessions_of_ledger(self) -> int:
        """Count the connections to a ledger that is a server's; SQLite's are open files."""
        database = self._parts.ledger._database  # noqa: SLF001 - what no part of the ledger tells
        if database.is_sqlite:
            return 0
        with database.read() as connection:
            return int(connection.scalar(_SESSIONS) or 0)

    def _redis_memory(self) -> int:
        info: Any = self._parts.broker.info("memory")
        return int(info["used_memory"])

    def verdicts(self) -> Iterator[Verdict]:
        """Judge all of it."""
        for watched in self._watched.values():
            yield from verdicts(watched)
        early, late = quarters(self._clients)
        yield Verdict("connections to Redis", early, late, late <= early + LATE * len(self._watched))
        early, late = quarters(self._sessions)
        yield Verdict("connections to PostgreSQL", early, late, late <= early + LATE * len(self._watched))
        runs, memory = self._redis[len(self._redis) // 4]
        per_run = (self._redis_memory() - memory) / max(1, len(self._runs) - runs)
        yield Verdict("Redis: bytes kept per run", 0, per_run, per_run <= REDIS_BYTES_PER_RUN)
        broker: Any = self._parts.broker
        left = {
            "locks left": sum(1 for _ in broker.scan_iter(f"{PREFIX}*")),
            "messages left in the queue": broker.llen(self._parts.settings.queue),
            "messages left unacknowledged": broker.hlen("unacked"),
            "runs that did not succeed": len(self._runs) - self._succeeded(),
            "source rows left": sum(
                row["userid"].startswith("old-") for row in self._parts.store.scan(USER_ENROLMENTS)
            ),
        }
        for what, number in left.items():
            yield Verdict(what, 0, number, not number)

    def _succeeded(self) -> int:
        found = (self._parts.ledger.peek(run_id) for run_id in self._runs)
        return sum(run is not None and run.state == "succeeded" for run in found)

    @property
    def merges(self) -> int:
        """How many merges there were."""
        return len(self._runs)


def files_of(directory: Path) -> set[str]:
    """Give the files in a data directory, by name without what is random in it."""
    return {re.sub(r"worker-\w+", "worker", str(file.relative_to(directory))) for file in directory.rglob("*")}


@contextmanager
def ledger_in(kind: str) -> Iterator[dict[str, str]]:
    """Give the settings of a ledger: of SQLite none, of PostgreSQL those of a server of its own."""
    if kind == SQLITE:
        yield {}
        return
    server = PostgresServer()
    try:
        server.start()
        yield {"LERN_LEDGER_URL": server.new_database()}
    finally:
        server.remove()


def main(minutes: str = MINUTES, ledger: str = SQLITE) -> int:
    """Soak, print a table, and give 1 if something is not flat."""
    console = Console()
    with ExitStack() as ends:
        settings = ends.enter_context(ledger_in(ledger))
        parts = ends.enter_context(embedded(**settings))
        log = ends.enter_context(tempfile.TemporaryFile())
        quiet = {**environ(parts.settings), "LERN_LOG_LEVEL": "WARNING"}
        started: dict[str, Child] = {}
        for number in range(SOAK_WORKERS):
            name = ends.enter_context(node_name(parts.settings.data_dir))
            command = celery_worker(parts.settings, name, concurrency=2, loglevel="WARNING")
            started[f"worker {number + 1}"] = ends.enter_context(Child(command, quiet, log, (name.descriptor,)))
        started["beat"] = ends.enter_context(Child(celery_beat(parts.settings, loglevel="WARNING"), quiet, log))
        events_file = parts.settings.data_dir / "events.jsonl"
        events_file.touch()
        bridge = [sys.executable, "-m", "workflows.watch", "--from", str(events_file)]
        started["bridge"] = ends.enter_context(Child(bridge, quiet, log))
        port = free_port()
        flower = {**quiet, "LERN_FLOWER_PORT": str(port)}
        started["flower"] = ends.enter_context(Child(flower_command(), flower, log))
        address = f"http://127.0.0.1:{port}"
        until(lambda: _answers(address), 60)
        soak = Soak(parts, started, events_file, address)
        console.print(f"soaking for {minutes} minutes, the ledger in {ledger}")
        soak.run(float(minutes) * 60)
        found = list(soak.verdicts())
        exits = {name: _ended(child) for name, child in started.items()}
        found += [Verdict(f"{name}: exit code after SIGTERM", 0, code, code == 0) for name, code in exits.items()]
        log.seek(0)
        said = [line for line in log.read().decode(errors="replace").splitlines() if '"level": "error"' in line]
        found.append(Verdict("errors in the logs", 0, len(said), not said))
        temporary = sum(1 for name in files_of(parts.settings.data_dir) if name.endswith((".tmp", ".new")))
        found.append(Verdict("temporary files left", 0, temporary, not temporary))
    table = Table(title=f"{soak.merges:,} merges in {minutes} minutes, the ledger in {ledger}")
    for heading in ("", "second quarter", "last quarter", ""):
        table.add_column(heading, justify="right" if heading else "left")
    for one in found:
        table.add_row(one.what, f"{one.early:,.0f}", f"{one.late:,.0f}", "flat" if one.flat else "[bold red]NOT FLAT")
    console.print(table)
    for line in said[:5]:
        console.print(line)
    return 0 if all(one.flat for one in found) else 1


def _answers(address: str) -> bool:
    try:
        with urlopen(f"{address}/runs", timeout=5):  # noqa: S310 - our own, on loopback
            return True
    except OSError:
        return False


def _ended(child: Child) -> int:
    """Ask a process to end; give its exit code, -1 if it does not end."""
    if child.exit_code is not None:
        return child.exit_code
    child.signal(signal.SIGTERM)
    code = child.wait(60)
    return -1 if code is None else code


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:3]))
