"""A transfer of 2,000 batches, next to a bare loop of the same compare-and-set writes and bulk updates.

The loop knows what to write: it finds, journals, reads back and checks nothing. On SQLite it makes the store's own
compare-and-set calls, ten batches in a transaction as in the transfer; on Cassandra and Elasticsearch it uses their
drivers, one conditional statement after the other, then bulks of 200. Memory is the peak of a process that transfers
100 batches, and of one that transfers 10,000.
"""

import json
import logging
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, Final

import structlog
from cassandra.cluster import Cluster
from elasticsearch import Elasticsearch

from bench.stack import ROOT, embedded
from lern import events
from lern.ledger import NewRun
from lern.services import Services
from lern.store.base import Swap
from lern.store.tables import COURSE_BATCH, Row
from tasks.app import BODIES
from tasks.step import Done, perform
from tests.servers.cassandra import PERIODIC, Cassandra
from tests.servers.elasticsearch import Elasticsearch as ElasticsearchServer
from workflows import OWNERSHIP

BATCHES: Final = 2_000
ROUNDS: Final = 5
LIMIT: Final = 1.5
SIZES: Final = (100, 10_000)
BULK: Final = 200
AT_ONCE: Final = 10
TIME: Final = 1_700_000_000_000
INDEX: Final = "course-batch"


@dataclass(frozen=True)
class Measured:
    """Medians over the rounds, in seconds: of a transfer of `BATCHES`, and of the bare loop."""

    where: str
    transfer: float
    bare: float
    limit: float

    @property
    def ratio(self) -> float:
        """How many times longer the transfer takes."""
        return self.transfer / self.bare

    @property
    def per_second(self) -> float:
        """Batches that change hands in a second."""
        return BATCHES / self.transfer


def measure() -> Iterator[Measured]:
    """Measure everything embedded, and, where the servers can be started, Cassandra with Elasticsearch."""
    # A line for each step would stand between the table's.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    with embedded(LERN_LOG_LEVEL="ERROR") as parts:
        yield _measured("SQLite", parts, partial(_bare_store, parts))
    with _servers() as settings, embedded(**settings, LERN_LOG_LEVEL="ERROR") as parts:
        parts.search.create()
        with _bare_servers(settings) as bare:
            yield _measured("Cassandra and Elasticsearch", parts, bare)


def memory() -> dict[int, float]:
    """Give the peak memory (MiB) of a process by how many batches it has transferred."""
    found = {}
    for size in SIZES:
        command = [sys.executable, "-m", "bench.ownership", str(size)]
        done = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE)
        found[size] = float(json.loads(done.stdout))
    return found


def rows(user: str, number: int = BATCHES) -> Iterator[Row]:
    """Give batches: one half created by the user, the other mentored."""
    for at in range(number):
        mine = at % 2 == 0
        yield {
            "courseid": f"do_{user}_{at % 97}",
            "batchid": f"{user}-{at:06}",
            "name": f"Batch {at}",
            "createdby": user if mine else "somebody",
            "mentors": ["another"] if mine else ["another", user],
            "status": 1,
            "updated_date": TIME - at,
        }


def _after(row: Row, user: str, heir: str) -> Row:
    mentors = [heir if mentor == user else mentor for mentor in row["mentors"]]
    return {**row, "createdby": heir if row["createdby"] == user else row["createdby"], "mentors": mentors}


def _document(row: Row) -> dict[str, Any]:
    return {
        "batchId": row["batchid"],
        "courseId": row["courseid"],
        "createdBy": row["createdby"],
        "mentors": row["mentors"],
        "name": row["name"],
        "status": row["status"],
    }


def _measured(where: str, parts: Services, bare: Any) -> Measured:
    numbers = count()
    times: dict[str, list[float]] = {"transfer": [], "bare": []}
    for round_ in range(ROUNDS + 1):
        for what, measured in times.items():
            user = f"user-{next(numbers)}"
            _load(parts, list(rows(user)))
            begun = time.perf_counter()
            if what == "transfer":
                transfer(parts, user, f"heir-{user}")
            else:
                bare([(row, _after(row, user, f"heir-{user}")) for row in rows(user)])
            if round_:
                measured.append(time.perf_counter() - begun)
            _check(parts, user)
    # Of a limit is spoken where there are documents, too: a bare loop on SQLite does hardly anything.
    limit = LIMIT if parts.search.own else 0.0
    return Measured(where, statistics.median(times["transfer"]), statistics.median(times["bare"]), limit)


def _load(parts: Services, some: Sequence[Row]) -> None:
    parts.store.insert(COURSE_BATCH, some)
    if parts.search.own:
        parts.search.insert(map(_document, some))


def transfer(parts: Services, source: str, target: str) -> None:
    """Carry out a transfer in this process, as a worker's child does."""
    event = events.to_bytes(events.ownership_request(source, target, None, TIME, source))
    new = NewRun(f"transfer:{source}", OWNERSHIP.name, OWNERSHIP.steps, source, target, event, TIME)
    parts.ledger.enter([new], [], TIME)
    for step in OWNERSHIP.steps:
        outcome = perform(parts, step, BODIES[step], new.id, 1)
        if not isinstance(outcome, Done):
            raise TypeError(outcome)


def _check(parts: Services, user: str) -> None:
    """Make sure that what was measured has been done, and make room for the next round."""
    wanted = {COURSE_BATCH.key_of(row): _after(row, user, f"heir-{user}") for row in rows(user)}
    found = parts.store.read(COURSE_BATCH, wanted.keys())
    for key, row in wanted.items():
        if (found[key]["createdby"], found[key]["mentors"]) != (row["createdby"], row["mentors"]):
            raise ValueError(key)
    if parts.search.own:
        documents = parts.search.read([batch for _, batch in wanted])
        for (_, batch), row in wanted.items():
            if documents[batch].fields["mentors"] != row["mentors"]:
                raise ValueError(batch)
        parts.search.remove([batch for _, batch in wanted])
    with parts.store.unit(lambda: None) as unit:
        unit.remove(COURSE_BATCH, [found[key] for key in sorted(found)])


def _bare_store(parts: Services, changes: Sequence[tuple[Row, Row]]) -> None:
    swaps = [
        Swap(
            COURSE_BATCH.key_of(before),
            {column: before[column] for column in ("createdby", "mentors", "updated_date")},
            {"createdby": after["createdby"], "mentors": after["mentors"], "updated_date": TIME},
        )
        for before, after in changes
    ]
    for start in range(0, len(swaps), AT_ONCE):
        parts.store.compare_and_set(COURSE_BATCH, swaps[start : start + AT_ONCE], lambda: None)


@contextmanager
def _servers() -> Iterator[dict[str, str]]:
    """Run servers of our own for the length of the block; give the settings that name them."""
    with ExitStack() as ends:
        home = Path(ends.enter_context(tempfile.TemporaryDirectory(prefix="lern-bench-", ignore_cleanup_errors=True)))
        cassandra, search = Cassandra(home / "cassandra"), ElasticsearchServer(home / "elasticsearch")
        cassandra.sync = PERIODIC
        for server in (cassandra, search):
            ends.callback(server.kill)
            server.start()
        yield {
            "LERN_STORE_URL": f"cassandra://{cassandra.address}/bench",
            "LERN_SEARCH_URL": search.address,
        }


@contextmanager
def _bare_servers(settings: dict[str, str]) -> Iterator[Any]:
    """Give the bare loop on servers, with clients of its own."""
    host, _, port = settings["LERN_STORE_URL"].removeprefix("cassandra://").partition("/")[0].partition(":")
    with Elasticsearch(settings["LERN_SEARCH_URL"]) as search, Cluster([host], port=int(port)) as cluster:
        session = cluster.connect("bench")
        swap = session.prepare(
            "UPDATE course_batch SET createdby = ?, mentors = ?, updated_date = ? WHERE courseid = ? AND batchid = ?"
            " IF createdby = ? AND mentors = ? AND updated_date = ?"
        )

        def bare(changes: Sequence[tuple[Row, Row]]) -> None:
            for before, after in changes:
                new = (after["createdby"], after["mentors"], TIME)
                old = (before["createdby"], before["mentors"], before["updated_date"])
                session.execute(swap, (*new, before["courseid"], before["batchid"], *old))
            for start in range(0, len(changes), BULK):
                operations: list[Any] = []
                for _, after in changes[start : start + BULK]:
                    operations.append({"update": {"_id": after["batchid"]}})
                    operations.append({"doc": {"createdBy": after["createdby"], "mentors": after["mentors"]}})
                search.bulk(index=INDEX, operations=operations)

        yield bare


def _one(number: int) -> float:
    """Transfer so many batches; give the peak memory in MiB."""
    with embedded(LERN_LOG_LEVEL="ERROR") as parts:
        for row in rows("user", number):
            parts.store.insert(COURSE_BATCH, [row])
        transfer(parts, "user", "heir")
    # Not by getrusage: what that gives is the parent's until the child has grown beyond it.
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise LookupError("VmHWM")


if __name__ == "__main__":
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    if len(sys.argv) > 1:
        print(json.dumps(_one(int(sys.argv[1]))))
    else:
        for one in measure():
            print(f"{one.where}: {one.per_second:.0f}/s, {one.transfer:.2f} s, bare {one.bare:.2f} s, {one.ratio:.2f}")
        print(memory())
