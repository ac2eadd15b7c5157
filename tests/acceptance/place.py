"""One data directory with everything in it: learner rows, ledger, outgoing events; and its Redis."""

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from lern import events
from lern.ledger import Run, RunDetail
from lern.services import Services
from lern.settings import Settings
from lern.store.base import Store
from lern.store.tables import TABLES, Row, Table
from lern.urls import sqlite_file
from tasks import merge, undo  # noqa: F401 - they register their steps
from tasks.app import BODIES
from tasks.step import Done, Outcome, perform
from tests.accounts import Placed
from workflows.intake import Message, take_in

EVENT_TIME = 1_700_000_000_000

Tables = dict[str, list[tuple[Any, ...]]]


@dataclass(frozen=True)
class Place:
    """A data directory, used by this process."""

    services: Services

    @classmethod
    def at(cls, directory: Path, redis_url: str, **settings: str) -> "Place":
        """Use a data directory and a Redis, with settings by their names without the prefix."""
        given = {"DATA_DIR": str(directory), "BROKER_URL": redis_url, "LOG_LEVEL": "ERROR", **settings}
        return cls(Services(Settings.load({f"LERN_{name.upper()}": value for name, value in given.items()})))

    @property
    def settings(self) -> Settings:
        return self.services.settings

    def create(self) -> "Place":
        """Make the schemas."""
        self.services.ledger.migrate()
        self.services.store.create()
        return self

    def close(self) -> None:
        """Close what was opened."""
        self.services.ledger.close()
        self.services.store.close()
        self.services.queue.close()
        self.services.broker.close()

    def load(self, rows: Iterable[Placed], relations: Mapping[str, Sequence[str]] | None = None) -> None:
        """Write learner rows and relations."""
        placed = sorted(rows, key=lambda one: one[0].name)
        for name, some in groupby(placed, key=lambda one: one[0].name):
            self.services.store.insert(TABLES[name], [row for _, row in some])
        for key, members in (relations or {}).items():
            self.services.relations.write(key, members)

    def enter(self, source: str, target: str, mid: str = "m") -> str:
        """Take in a merge event; returns the run's id."""
        taken = take_in(self.services, [message(source, target, mid)])
        return taken.entered[0].run_id

    def step(self, run_id: str) -> Outcome:
        """Carry out the next step of a run as a worker does."""
        run = self.run(run_id)
        assert run.step is not None, f"run {run_id} is {run.state}"
        return perform(self.services, run.step, BODIES[run.step], run_id, run.generation)

    def carry_out(self, run_id: str) -> Run:
        """Carry out a run as far as it goes; returns it as it stands then."""
        while self.run(run_id).step is not None and isinstance(self.step(run_id), Done):
            pass
        return self.run(run_id)

    def merge(self, source: str, target: str, mid: str = "m") -> str:
        """Merge two accounts to the end; returns the run's id."""
        run_id = self.enter(source, target, mid)
        run = self.carry_out(run_id)
        assert run.state == "succeeded", run
        return run_id

    def run(self, run_id: str) -> Run:
        """A run as the ledger has it."""
        run = self.services.ledger.peek(run_id)
        assert run is not None, f"no run {run_id}"
        return run

    def detail(self, run_id: str) -> RunDetail:
        """A run with its steps."""
        detail = self.services.ledger.run(run_id)
        assert detail is not None, f"no run {run_id}"
        return detail

    def rows(self, table: Table, user: str | None = None) -> list[Row]:
        """The rows of a table, of one user or of all."""
        return [row for row in self.services.store.scan(table) if user is None or row[str(table.user)] == user]

    def tables(self) -> Tables:
        """Every learner row as the database file has it: what "byte for byte" means."""
        return tables_of(self.settings, self.services.store)

    @contextmanager
    def standstill(self, url: str | None = None) -> Iterator[None]:
        """Keep the learner rows (or the database of a URL) for ourselves: whoever is to write there stands still."""
        file = self._file if url is None else sqlite_file(url)
        assert file is not None
        connection = sqlite3.connect(file, isolation_level=None, timeout=30)
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield
        finally:
            connection.execute("ROLLBACK")
            connection.close()

    @property
    def _file(self) -> Path:
        file = sqlite_file(self.settings.store_url_or_default)
        assert file is not None
        return file

    def sql(self, statement: str, *parameters: object) -> None:
        """Write to the learner rows behind the store's back, as nobody should."""
        connection = sqlite3.connect(self._file, isolation_level=None)
        connection.execute(statement, parameters)
        connection.close()

    def fetch(self, query: str) -> list[tuple[Any, ...]]:
        """Ask the learner rows' database."""
        connection = sqlite3.connect(self._file)
        try:
            return connection.execute(query).fetchall()
        finally:
            connection.close()

    def sent(self) -> dict[str, dict[str, bytes]]:
        """The outgoing events by topic and mid. Of one mid all copies must be the same."""
        return sent_from(self.settings.out_dir)


def message(source: str, target: str, mid: str, time: int = EVENT_TIME) -> Message:
    """A merge event as it comes."""
    return Message(None, None, None, None, events.to_bytes(events.merge_request(source, target, time, mid)))


def tables_of(settings: Settings, store: Store) -> Tables:
    """Every learner row as it stands in the file, in the order of the keys; where there is no file, as it is read."""
    file = sqlite_file(settings.store_url_or_default)
    if file is None:
        return {name: [_plain(table, row) for row in _sorted(store, table)] for name, table in TABLES.items()}
    connection = sqlite3.connect(file)
    try:
        return {
            name: connection.execute(f"SELECT * FROM {name} ORDER BY {', '.join(table.key)}").fetchall()  # noqa: S608
            for name, table in TABLES.items()
        }
    finally:
        connection.close()


def _sorted(store: Store, table: Table) -> list[Row]:
    return sorted(store.scan(table), key=table.key_of)


def _plain(table: Table, row: Row) -> tuple[str, ...]:
    """Every column as text: what "the same" means where values are not JSON."""
    return tuple(f"{column} {row.get(column)!r}" for column in table.columns)


def sent_from(directory: Path) -> dict[str, dict[str, bytes]]:
    """The events in a directory of outgoing files."""
    sent: dict[str, dict[str, bytes]] = {}
    for file in sorted(directory.glob("*.jsonl")):
        of_topic = sent.setdefault(file.stem, {})
        for line in file.read_bytes().splitlines():
            event = json.loads(line)
            mid = str(event.get("mid") or event["runId"])
            assert of_topic.setdefault(mid, line) == line, "two events of one mid differ"
    return sent
