"""As `tests.acceptance.dying`, with the learner rows in Cassandra.

    python -m tests.acceptance.dying_on_cassandra PLAN.json

Each program has a keyspace of its own, named as in the plan's settings with its process id behind it, which it drops in
the end. There the rows of the plan's keyspace are written afresh for each death.

A call to Cassandra is a statement that the store sends. Those who die have a session of their own, as workers'
children have, forked from a process that has opened nothing. What happens after a death is done by one process that
lives as long as the program: to open a session anew each time would take longer than all the rest.
"""

import json
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cassandra.cluster import Session

from lern import log
from lern.ledger import Ledger
from lern.services import Services
from lern.settings import Settings
from lern.store import open_store
from lern.store.base import Change, Store
from lern.store.cassandra import CassandraStore
from lern.store.tables import TABLES, Row, Table
from tasks.app import _Process, app
from tests.acceptance.calls import CALLS, count_everything
from tests.acceptance.dying import TOLD, Plan, Shard, end, recover, tell


def count_cassandra() -> None:
    """Have every statement that is sent through a session counted from now on."""
    execute_async = Session.execute_async

    def counted(self: Session, query: Any, *arguments: Any, **options: Any) -> Any:
        text = getattr(getattr(query, "prepared_statement", None), "query_string", "batch")
        # Without the keyspace: each program has its own.
        CALLS.make(f"cassandra {re.sub(r' [a-z0-9_]+[.]', ' ', text)[:60]}")
        return execute_async(self, query, *arguments, **options)

    Session.execute_async = counted


@dataclass(frozen=True)
class Survivor:
    """A process that does what happens before and after the deaths, by a word at a time."""

    words: int
    answers: int

    @classmethod
    def of(cls, acts: dict[str, Callable[[], None]]) -> "Survivor":
        """Fork it."""
        hears, words = os.pipe()
        answers, says = os.pipe()
        if os.fork() == 0:
            os.close(words)
            with os.fdopen(hears) as heard:
                for word in heard:
                    acts[word.strip()]()
                    os.write(says, b".")
            os._exit(0)
        # Those who are forked later must not keep it alive: what they inherit of this pipe ends with them.
        os.close(hears)
        os.close(says)
        return cls(words, answers)

    def do(self, word: str) -> None:
        """Have it act. Raises `SystemExit` if it fails."""
        os.write(self.words, word.encode() + b"\n")
        if os.read(self.answers, 1) != b".":
            raise SystemExit(f"the survivor could not {word}")


@dataclass(frozen=True)
class CassandraShard(Shard):
    """The program at work on rows in Cassandra."""

    survivor: Survivor

    def _use_services(self) -> None:
        use_services(self.store)

    def _copy(self) -> None:
        super()._copy()
        self.survivor.do("load")

    def _recovered(self) -> dict[str, Any]:
        self.survivor.do("recover")
        found: dict[str, Any] = json.loads(self._told.read_text())
        return found


def use_services(store: Store) -> None:
    """Have the services of this process afresh, all but the store: the data directory is another each time."""
    if _Process.services is not None and _Process.pid == os.getpid():
        _Process.services.ledger.close()
    parts = Services(Settings.load())
    parts.__dict__["store"] = store
    _Process.services, _Process.pid = parts, os.getpid()


def _load(store: Store, beginning: Mapping[Table, Sequence[Row]]) -> None:
    """Bring the learner rows to where everything begins."""
    for table in TABLES.values():
        keys = [table.key_of(row) for row in store.scan(table)]
        with store.unit(lambda: None) as unit:
            unit.settle(table, keys, lambda now: [Change(key, delete=True) for key in now])
    for table, rows in beginning.items():
        store.insert(table, rows)


def main() -> None:
    """Go through the plan's points; first, as point 0, undisturbed."""
    plan = Plan(**json.loads(Path(sys.argv[1]).read_text()))
    directory = Path(plan.copies) / str(os.getpid())
    url = f"{plan.settings['LERN_STORE_URL']}_{os.getpid()}"
    os.environ.update(plan.settings, LERN_DATA_DIR=str(directory), LERN_STORE_URL=url)
    settings = Settings.load()
    log.configure(settings)
    app.loader.import_default_modules()
    app.finalize()
    count_everything()
    count_cassandra()
    store = open_store(settings)
    assert isinstance(store, CassandraStore)
    ledger = Ledger(settings.ledger_url_or_default)
    beginning: dict[Table, Sequence[Row]] = {}

    def create() -> None:
        store.create()
        with closing(CassandraStore(plan.settings["LERN_STORE_URL"])) as template:
            beginning.update((table, list(template.scan(table))) for table in TABLES.values())

    def recover_and_tell() -> None:
        use_services(store)
        recover(plan)
        (directory / TOLD).write_text(json.dumps(asdict(end(plan))))

    def drop() -> None:
        connected = store._sessions.connected()
        connected.session.execute(f"DROP KEYSPACE {connected.place.keyspace}", timeout=60)

    acts = {
        "create": create,
        "load": lambda: _load(store, beginning),
        "recover": recover_and_tell,
        "drop": drop,
    }
    shard = CassandraShard(plan, directory, store, ledger, Survivor.of(acts))
    shard.survivor.do("create")
    try:
        tell({"point": 0, **shard.undisturbed()})
        for point in plan.points:
            tell({"point": point, **shard.killed_at(point)})
    finally:
        shard.survivor.do("drop")


if __name__ == "__main__":
    main()
