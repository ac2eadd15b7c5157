"""The embedded stack for the length of a command: the private Redis, the schemas, a worker, a bridge."""

import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

from lern.cli.children import Child, bridge, celery_worker, environ
from lern.cli.node_name import node_name
from lern.cli.problems import WorkFailed
from lern.embedded import EmbeddedRedis
from lern.errors import SchemaMissing
from lern.ledger import Ledger
from lern.ledger.schema import HEAD
from lern.settings import Settings
from lern.store import open_store
from lern.urls import scheme

LOGS_KEPT: Final = 20
SQL: Final = frozenset({"sqlite", "postgresql"})


@contextmanager
def with_broker(settings: Settings) -> Iterator[Settings]:
    """Give settings that name a broker: where none is set, the private Redis runs for the length of the block."""
    if not settings.embedded_redis:
        yield settings
        return
    with EmbeddedRedis(settings.data_dir) as server:
        yield settings.model_copy(update={"broker_url": server.url})


def prepare(settings: Settings) -> None:
    """Make the embedded default's schemas; of a ledger elsewhere make sure that it is this version's.

    Raises `SchemaMissing`. A server that others share is migrated by `lern migrate` and by nobody else.
    """
    ledger = Ledger(settings.ledger_url_or_default)
    if settings.ledger_url is None:
        ledger.migrate()
    elif (found := ledger.version()) != HEAD:
        raise SchemaMissing(f"version {found}, not {HEAD}" if found else "there is none")
    ledger.close()
    if settings.store_url is None:
        create_tables(settings)


def create_tables(settings: Settings) -> None:
    """Create the learner tables that are not there."""
    store = open_store(settings)
    try:
        store.create()
    finally:
        store.close()


def is_sql(url: str) -> bool:
    """Whether a store's URL is one of SQLAlchemy's."""
    return scheme(url).partition("+")[0] in SQL


@dataclass
class Stack:
    """A worker and bridges that run beside a command and end with it. `settings` name the broker."""

    settings: Settings
    _ends: ExitStack
    _inherited: tuple[int, ...]
    _worker: Child | None = None

    @cached_property
    def log(self) -> Path:
        """What worker and bridge have printed."""
        return _new_log(self.settings.data_dir / "logs")

    def start_worker(self, concurrency: int | None = None, loglevel: str | None = None) -> None:
        """Start a worker that writes to the log."""
        name = self._ends.enter_context(node_name(self.settings.data_dir))
        command = celery_worker(self.settings, name, concurrency=concurrency, loglevel=loglevel)
        self._worker = self._start(command, name.descriptor)

    def start_bridge(self, file: Path, topic: str | None, report: Path) -> Child:
        """Start a bridge that reads a file, reports, and ends."""
        return self._start(bridge(file, topic, report))

    def check(self) -> None:
        """Raise `WorkFailed` with the end of the log if the worker has ended."""
        if self._worker is not None and self._worker.exit_code is not None:
            raise WorkFailed(f"the worker has ended with code {self._worker.exit_code}; {self.end_of_log()}")

    def end_of_log(self) -> str:
        """Give the last line of the log, and where the rest is."""
        lines = self.log.read_text(errors="replace").splitlines()
        last = next((line for line in reversed(lines) if line.strip()), "it says nothing")
        return f"{self.log} ends: {last.strip()}"

    def _start(self, command: list[str], *inherited: int) -> Child:
        with self.log.open("ab") as output:
            child = Child(command, environ(self.settings), output, (*self._inherited, *inherited))
        return self._ends.enter_context(child)


@contextmanager
def stack(settings: Settings) -> Iterator[Stack]:
    """Prepare the schemas and give a stack; whatever it has started ends with the block."""
    prepare(settings)
    with ExitStack() as ends:
        named = ends.enter_context(with_broker(settings))
        inherited = tuple(ends.enter_context(in_use(settings)) for _ in range(settings.embedded_redis))
        yield Stack(named, ends, inherited)


def _new_log(directory: Path) -> Path:
    """Make a log file for the worker and the bridge of one command; the oldest of many make room."""
    directory.mkdir(parents=True, exist_ok=True)
    for old in sorted(directory.glob("lern-*.log"), key=lambda file: file.stat().st_mtime)[:-LOGS_KEPT]:
        old.unlink(missing_ok=True)
    descriptor, name = tempfile.mkstemp(prefix="lern-", suffix=".log", dir=directory)
    os.close(descriptor)
    return Path(name)


@contextmanager
def in_use(settings: Settings) -> Iterator[int]:
    """Give an open file that marks a user of the private Redis, for children to inherit.

    If we are killed, they go on; while they hold this, nobody takes them for gone.
    """
    with EmbeddedRedis(settings.data_dir).users_lock.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        yield file.fileno()
