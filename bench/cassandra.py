"""A merge on Cassandra next to writing its source's rows one at a time, in one run: what `make bench` prints of it.

"Row at a time" is one synchronous single-row INSERT for each row of the source, through the very session that the
merges use: a job that writes so needs at least that long, reading, comparing and deleting left out.

One learner of up to 50,000 rows in 40 courses is merged by a process of its own, whose memory is to stay flat.
"""

import json
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table as Printed

from bench import aim
from bench.dataset import SIZES, SUMS, Size, Sums, rows
from bench.empty import DONE, EMPTY
from bench.stack import ROOT, embedded, enter, resident_mib, until, worker
from lern import log
from lern.services import Services
from lern.store.cassandra import CassandraStore
from lern.store.tables import USER_ACTIVITY_AGG, USER_CONTENT_CONSUMPTION, USER_ENROLMENTS, Row, Table
from tasks.app import BODIES, collect_seldom
from tasks.step import Done, perform
from tests.servers.cassandra import PERIODIC, Cassandra
from tests.servers.jars import MissingError
from workflows import MERGE

ROUNDS: Final = 5
# Pairs to warm up on, until Cassandra has compiled what it does for them, and pairs of one round, by size.
WARM: Final = {"a": 500, "b": 20, "c": 3}
PAIRS: Final = {"a": 20, "b": 4, "c": 1}
LIMITS: Final = {"a": 1.3, "b": 6.0, "c": 8.0}
# One learner's rows: how many contents in each of 40 courses. The most memory (MiB) beyond the first's.
WIDE: Final = (25, 250, 1250)
COURSES: Final = 40
MOST_MIB: Final = 40.0
# Merges of one round through broker and workers.
CHAINED: Final = 60


@dataclass(frozen=True)
class Measured:
    """Milliseconds, medians over the rounds: of a merge, and of writing its source's `rows` one at a time."""

    what: str
    rows: int
    merge: float
    row_at_a_time: float
    limit: float

    @property
    def ratio(self) -> float:
        """How many times faster the merge is."""
        return self.row_at_a_time / self.merge


def main() -> None:
    """Print the table."""
    table = Printed(title="A merge on Cassandra, next to row at a time", title_justify="left")
    table.add_column("")
    for heading in ("rows", "ms", "row at a time, ms", "times faster", "at least", "µs a row"):
        table.add_column(heading, justify="right")
    with ExitStack() as ends:
        try:
            parts = ends.enter_context(_parts())
        except MissingError as error:
            Console().print(f"A merge on Cassandra: not measured, {error}")
            return
        for one in measure(parts):
            table.add_row(*_cells(one))
        chained, memory = through_the_chain(parts)
        table.add_row(*_cells(chained))
        table.caption = f"worker with two children, resident: {memory}"
        wide = list(one_learner(parts))
    Console(width=130).print(table, _printed(wide))


def _cells(one: Measured) -> tuple[str, ...]:
    faster = aim.cell(one.ratio, one.limit, at_least=True)
    cost = f"{one.merge * 1000 / one.rows:.0f}"
    return one.what, f"{one.rows:,}", f"{one.merge:.1f}", f"{one.row_at_a_time:.1f}", faster, f"{one.limit:g}", cost


def _printed(wide: Sequence["Wide"]) -> Printed:
    table = Printed(title=f"One learner in {COURSES} courses on Cassandra, one process", title_justify="left")
    for heading in ("content rows", "µs a row", "ratio", "MiB", "more", "limit"):
        table.add_column(heading, justify="right")
    for one in wide:
        cost, first = one.seconds / one.rows, wide[0].seconds / wide[0].rows
        more = one.peak_mib - wide[0].peak_mib
        cells = (f"{cost * 1e6:.0f}", f"{cost / first:.2f}", f"{one.peak_mib:.0f}", aim.cell(more, MOST_MIB, "+.0f"))
        table.add_row(f"{one.rows:,}", *cells, f"{MOST_MIB:g}")
    return table


@dataclass(frozen=True)
class Wide:
    """The merge of one learner: rows, seconds, and the peak of the process's memory in MiB."""

    rows: int
    seconds: float
    peak_mib: float


@contextmanager
def _parts() -> Iterator[Services]:
    """Give services whose learner rows are in a Cassandra of their own, which is ended afterwards."""
    home = Path(tempfile.mkdtemp(prefix="lern-bench-cassandra-"))
    server = Cassandra(home)
    # A write is acknowledged before it is on the disk, as in Cassandra's own default.
    server.sync = PERIODIC
    try:
        server.start()
        url = f"cassandra://{server.address}/sunbird_courses"
        with embedded(LERN_STORE_URL=url, LERN_LOG_LEVEL="ERROR") as parts:
            yield parts
    finally:
        server.stop()
        shutil.rmtree(home)


def measure(parts: Services) -> Iterator[Measured]:
    """Give the sizes, all five steps in this process, without a broker."""
    log.configure(parts.settings)
    # As in a worker's child.
    collect_seldom()
    for size in SIZES.values():
        numbers = count()
        _merge(parts, size, [next(numbers) for _ in range(WARM[size.name])])
        merges, singles = [], []
        for _ in range(ROUNDS):
            pairs = [next(numbers) for _ in range(PAIRS[size.name])]
            _load(parts, size, pairs)
            singles.append(_row_at_a_time(parts, size, pairs))
            merges.append(_timed(parts, size, pairs))
        _check(parts, size, next(numbers))
        yield Measured(
            f"size {size.name}, one process",
            size.rows,
            statistics.median(merges),
            statistics.median(singles),
            LIMITS[size.name],
        )


def through_the_chain(parts: Services) -> tuple[Measured, str]:
    """Give size a through broker and a worker with two children; and the worker's memory, at rest and under load."""
    size, numbers = SIZES["a"], count(100_000)
    with tempfile.TemporaryFile() as file, worker(parts, file) as process:

        def chained(pairs: Sequence[int]) -> float:
            before = parts.ledger.counts().get("succeeded", 0)
            ids = enter(parts, "merge", MERGE.steps, [(size.source(pair), size.target(pair)) for pair in pairs])
            begun = time.perf_counter()
            for run_id in ids:
                parts.queue.send_chain(run_id, 1, MERGE.steps)
            until(lambda: parts.ledger.counts().get("succeeded", 0) >= before + len(pairs))
            return (time.perf_counter() - begun) * 1000 / len(pairs)

        parts.queue.send_chain("rest", 1, EMPTY)
        until(lambda: parts.broker.get(DONE))
        memory = f"{resident_mib(process.pid):.0f} MiB at rest"
        merges, singles = [], []
        for number in range(ROUNDS + 1):
            pairs = [next(numbers) for _ in range(CHAINED)]
            _load(parts, size, pairs)
            alone, together = _row_at_a_time(parts, size, pairs), chained(pairs)
            if number == 0:
                memory += f", {resident_mib(process.pid):.0f} MiB after {CHAINED} merges"
                continue
            singles.append(alone)
            merges.append(together)
        memory += f", {resident_mib(process.pid):.0f} MiB after {CHAINED * (ROUNDS + 1)}"
        return Measured(
            "size a, through the chain", size.rows, statistics.median(merges), statistics.median(singles), 1.0
        ), memory


def one_learner(parts: Services) -> Iterator[Wide]:
    """Give learners of more and more rows, each merged by a process of its own that has loaded nothing."""
    for contents in WIDE:
        size = _wide(contents)
        for table, row in rows(size, 0):
            # Nobody enrols in contents that are counted by the thousand: their map would be the largest row.
            parts.store.insert(table, [{name: value for name, value in row.items() if name != "contentstatus"}])
        command = [sys.executable, "-m", "bench.cassandra", str(contents), str(parts.settings.store_url)]
        done = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE)
        yield Wide(**json.loads(done.stdout))


def _wide(contents: int) -> Size:
    return Size(f"wide{contents}", COURSES, contents, COURSES)


def _one(contents: int, url: str) -> Wide:
    size = _wide(contents)
    with embedded(LERN_STORE_URL=url, LERN_LOG_LEVEL="ERROR") as parts:
        log.configure(parts.settings)
        collect_seldom()
        seconds = _timed(parts, size, [0]) / 1000
        if left := parts.store.rows(USER_CONTENT_CONSUMPTION, (size.source(0),), limit=1):
            raise ValueError(left)
    return Wide(size.rows, seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def _load(parts: Services, size: Size, pairs: Sequence[int]) -> None:
    by_table: dict[Table, list[Row]] = {}
    for pair in pairs:
        for table, row in rows(size, pair):
            by_table.setdefault(table, []).append(row)
    for table, some in by_table.items():
        parts.store.insert(table, some)


def _timed(parts: Services, size: Size, pairs: Sequence[int]) -> float:
    """Merge, and give the milliseconds of a merge."""
    ids = enter(parts, "merge", MERGE.steps, [(size.source(pair), size.target(pair)) for pair in pairs])
    begun = time.perf_counter()
    for run_id in ids:
        for step in MERGE.steps:
            outcome = perform(parts, step, BODIES[step], run_id, 1)
            if not isinstance(outcome, Done):
                raise TypeError(outcome)
    return (time.perf_counter() - begun) * 1000 / len(pairs)


def _merge(parts: Services, size: Size, pairs: Sequence[int]) -> None:
    _load(parts, size, pairs)
    _row_at_a_time(parts, size, pairs)
    _timed(parts, size, pairs)


def _row_at_a_time(parts: Services, size: Size, pairs: Sequence[int]) -> float:
    """Write the sources' rows to other accounts, and give the milliseconds of one source."""
    if not isinstance(parts.store, CassandraStore):
        raise TypeError(parts.store)
    session = parts.store._sessions.connected().session  # noqa: SLF001 - the very same, or it is no comparison
    keyspace = parts.store._sessions.place.keyspace  # noqa: SLF001 - see above
    values = [
        (table, table.with_user(row, f"{row[str(table.user)]}-alone"))
        for pair in pairs
        for table, row in rows(size, pair)
        if row[str(table.user)] == size.source(pair)
    ]
    prepared = {
        table: session.prepare(
            f"INSERT INTO {keyspace}.{table.name} ({', '.join(table.columns)}) "  # noqa: S608 - our own names
            f"VALUES ({', '.join('?' * len(table.columns))})"
        )
        for table in {table for table, _ in values}
    }
    begun = time.perf_counter()
    for table, row in values:
        session.execute(prepared[table].bind(row))
    return (time.perf_counter() - begun) * 1000 / len(pairs)


def _check(parts: Services, size: Size, pairs: int) -> None:
    """Hold the rows of all targets against what they must add up to. Raises ValueError."""
    found = [_sums(parts, size.target(pair)) for pair in range(pairs)]
    if wrong := [pair for pair, sums in enumerate(found) if sums != SUMS[size.name]]:
        raise ValueError(f"pair {wrong[0]} of size {size.name} is {found[wrong[0]]}, not {SUMS[size.name]}")
    if left := [pair for pair in range(pairs) if parts.store.rows(USER_CONTENT_CONSUMPTION, (size.source(pair),))]:
        raise ValueError(f"pair {left[0]} of size {size.name} has left rows at its source")


def _sums(parts: Services, user: str) -> Sums:
    store = parts.store
    contents = store.rows(USER_CONTENT_CONSUMPTION, (user,))
    enrolments = store.rows(USER_ENROLMENTS, (user,))
    courses = sorted({row["courseid"] for row in contents})
    keys = [("Course", row["courseid"], user, f"cb:{row['batchid']}") for row in enrolments]
    aggregates = store.read(USER_ACTIVITY_AGG, keys).values()
    if len(courses) != len(enrolments):
        raise ValueError(f"{user} has contents in {len(courses)} courses and {len(enrolments)} enrolments")

    def total(column: str) -> int:
        values: list[int] = [row[column] for row in contents if column in row]
        return sum(values)

    completed: float = sum([row["aggregates"]["completedCount"] for row in aggregates])
    return Sums(
        len(contents),
        total("viewcount"),
        total("completedcount"),
        total("progress"),
        total("status"),
        len(enrolments),
        round(completed),
        sum(len(row["aggregates"]) for row in aggregates),
    )


if __name__ == "__main__":
    sys.stdout.write(json.dumps(_one(int(sys.argv[1]), sys.argv[2]).__dict__))
