"""Every page of the ledger at 1,000,000 runs, in SQLite and in PostgreSQL: `python -m bench.ledger_pages [RUNS]`.

`make bench` measures fewer runs, to be quick: a page looks at a window, so that it costs the same.

A page may take 300 ms. The ledger is filled by statements of the database, without the events' and attempts' rows.
"""

import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from rich.console import Console
from rich.table import Table

from lern.ledger import Ledger, RunFilter
from tests.servers.jars import MissingError
from tests.servers.postgres import PostgresServer

RUNS = 1_000_000
FEWER = 100_000
LIMIT_MS = 300
TIMES = 5
START = 1_700_000_000_000

_COLUMNS = """
INSERT INTO runs (id, workflow, steps, state, generation, step, step_state, attempts, lost, reason, error, source,
                  target, merge, event_time, mid, topic, warnings, created_at, updated_at, ended_at, next_at)
SELECT {id}, CASE WHEN n % 50 = 0 THEN 'undo' ELSE 'merge' END, '["merge.content", "merge.enrolments"]',
    {state}, 1, CASE WHEN {state} = 'succeeded' THEN NULL ELSE 'merge.content' END,
    CASE WHEN {state} = 'succeeded' THEN NULL ELSE {state} END, 0, 0,
    CASE {state} WHEN 'failed' THEN CASE WHEN n % 3 = 0 THEN 'BAD_ROW' ELSE 'REFUSED' END
                 WHEN 'waiting' THEN 'UNREACHABLE' END,
    CASE WHEN {state} = 'failed' THEN 'user_enrolments (''u' || n || ''', ''c''), column progress: no number' END,
    'source-' || n, 'target-' || (n % 300000), 1, {start} + n, 'LMS.' || n, 'dev.lms.user.account.merge', '[]',
    {start} + n * 10, {start} + n * 10, CASE WHEN {state} IN ('succeeded', 'failed') THEN {start} + n * 10 END,
    CASE WHEN {state} = 'waiting' THEN {start} + n * 10 END
FROM numbers
"""
# A ledger in trouble: one run in ten has failed, and as many wait.
_STATE = "CASE n % 10 WHEN 3 THEN 'failed' WHEN 7 THEN 'waiting' ELSE 'succeeded' END"
_UUID = {
    "sqlite": "lower(hex(randomblob(4)) || '-' || hex(randomblob(2)) || '-5' || substr(hex(randomblob(2)), 2) || '-a' "
    "|| substr(hex(randomblob(2)), 2) || '-' || hex(randomblob(6)))",
    "postgresql": "gen_random_uuid()::text",
}
_NUMBERS = {
    "sqlite": "WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < {runs}) ",
    "postgresql": "WITH numbers(n) AS (SELECT generate_series(1, {runs})) ",
}


def fill(ledger: Ledger, runs: int) -> None:
    """Enter so many runs, at once."""
    database = ledger._database  # noqa: SLF001 - nobody else fills a ledger like this
    kind = "sqlite" if database.is_sqlite else "postgresql"
    insert = _COLUMNS.format(id=_UUID[kind], state=f"({_STATE})", start=START)
    statement = insert.replace("SELECT", _NUMBERS[kind].format(runs=runs) + "SELECT", 1)
    with database.write() as connection:
        connection.exec_driver_sql(statement.replace("%", "%%") if kind == "postgresql" else statement)
    if kind == "postgresql":
        with database.read() as connection:
            connection.execute(sa.text("VACUUM ANALYZE"))


def questions(ledger: Ledger, runs: int) -> dict[str, Callable[[], Any]]:
    """Give what the pages ask, by name."""
    middle = (START + runs * 5, "")
    failed = RunFilter(state="failed")
    no_hit = RunFilter(state="failed", text="nothing has this")
    run = ledger.page(RunFilter(), limit=1).runs[0]
    return {
        "runs, first page": lambda: ledger.page(RunFilter()),
        "runs, a page in the middle": lambda: ledger.page(RunFilter(), after=middle),
        "failed": lambda: ledger.page(failed),
        "failed, one reason": lambda: ledger.page(RunFilter(state="failed", reason="BAD_ROW"), after=middle),
        "a state that no run is in": lambda: ledger.page(RunFilter(state="undone")),
        "a workflow of few, in one state": lambda: ledger.page(RunFilter(state="failed", workflow="undo")),
        "a user": lambda: ledger.page(RunFilter(user="target-77")),
        "a user, in one state": lambda: ledger.page(RunFilter(user="source-500003", state="failed")),
        "an hour": lambda: ledger.page(RunFilter(since=START + 1_000_000, until=START + 4_600_000)),
        "a text that nothing has": lambda: ledger.page(RunFilter(text="nothing has this")),
        "a text in failed runs": lambda: ledger.page(RunFilter(state="failed", text="u12345")),
        "the beginning of an id": lambda: ledger.page(RunFilter(text=run.id[:8])),
        "live counts": ledger.live_counts,
        "failed by reason": lambda: ledger.groups("failed"),
        "waiting by reason": lambda: ledger.groups("waiting"),
        "how many to retry": lambda: ledger.count(failed, limit=200_000),
        "how many to retry, of a text": lambda: ledger.count(RunFilter(state="failed", text="progress"), limit=200_000),
        "how many to retry, of a text that nothing has": lambda: (
            ledger.count(no_hit, limit=200_000),
            ledger.page(no_hit, limit=5),
        ),
    }


def measured(question: Callable[[], Any]) -> float:
    """Ask some times, and give the slowest in ms."""
    spent = []
    for _ in range(TIMES):
        began = time.perf_counter()
        question()
        spent.append(time.perf_counter() - began)
    return max(spent) * 1000


@contextmanager
def ledgers() -> Iterator[dict[str, Ledger]]:
    """Give an empty ledger in each database; without PostgreSQL only one."""
    with tempfile.TemporaryDirectory(prefix="lern-bench-") as directory:
        made = {"SQLite": Ledger(f"sqlite:///{Path(directory) / 'ledger.sqlite'}")}
        try:
            server = PostgresServer()
        except MissingError:
            yield made
            return
        try:
            server.start()
            yield {**made, "PostgreSQL": Ledger(server.new_database())}
        finally:
            server.remove()


def main(runs: int = FEWER) -> int:
    """Fill, measure and print; 1 if a page took too long."""
    table = Table(title=f"{runs:,} runs, the slowest of {TIMES}, ms (limit {LIMIT_MS})")
    table.add_column("page", no_wrap=True)
    columns: dict[str, dict[str, float]] = {}
    with ledgers() as made:
        for name, ledger in made.items():
            ledger.migrate()
            began = time.perf_counter()
            fill(ledger, runs)
            table.add_column(f"{name}\n(filled in {time.perf_counter() - began:.0f} s)", justify="right")
            columns[name] = {page: measured(question) for page, question in questions(ledger, runs).items()}
            ledger.close()
    for page in next(iter(columns.values())):
        table.add_row(page, *(f"{column[page]:.1f}" for column in columns.values()))
    Console().print(table)
    return 1 if max(max(column.values()) for column in columns.values()) > LIMIT_MS else 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else RUNS))
