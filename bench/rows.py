"""Time per row and memory for one user of 100 to 100,000 content rows: both are to stay flat.

Each size has a process of its own, which merges several such users, as a worker does in its life; their median counts.
What a merge with anything to do costs, measured in the same process with users of one row and one enrolment, is taken
off and shown beside: it is there once, however many rows there are.
"""

import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass

from bench.dataset import Size, rows
from bench.stack import ROOT, embedded, enter
from lern.store.tables import USER_CONTENT_CONSUMPTION
from workflows import MERGE

# How many users of each size.
SIZES = {100: 25, 1_000: 9, 10_000: 3, 100_000: 1}
REFERENCE = 1_000
# How many users of one row.
ONES = 25
ROUNDS = 3
FLAT = 1.5
MOST_MIB = 40.0


@dataclass(frozen=True)
class Measured:
    """One user's merge: rows, microseconds for each row but the first (the best of some rounds), peak memory in MiB.

    `first`: milliseconds of a merge of one row.
    """

    rows: int
    microseconds: float
    peak_mib: float
    first: float


def measure() -> Iterator[tuple[Measured, float, float]]:
    """Give (measured, time a row as a ratio, MiB more than at the reference size) by size."""
    found = {count: min((_measured(count) for _ in range(ROUNDS)), key=lambda one: one.microseconds) for count in SIZES}
    reference = found[REFERENCE]
    for one in found.values():
        yield one, one.microseconds / reference.microseconds, one.peak_mib - reference.peak_mib


def _measured(count: int) -> Measured:
    """Measure in a process of its own: memory that was once taken is not given back."""
    done = subprocess.run(
        [sys.executable, "-m", "bench.rows", str(count)], cwd=ROOT, check=True, stdout=subprocess.PIPE
    )
    return Measured(**json.loads(done.stdout))


def _one(count: int) -> Measured:
    from tasks.app import BODIES
    from tasks.step import Done, perform

    size = Size("r", max(1, count // 500), min(500, count), 0)
    with embedded(LERN_LOG_LEVEL="ERROR") as parts:

        def load(size: Size, user: int) -> None:
            """Load row by row, so that loading takes no memory that the merge could hide in."""
            for table, row in rows(size, user):
                if table is USER_CONTENT_CONSUMPTION or row.get("contentstatus"):
                    parts.store.insert(table, [row])

        def timed(size: Size, user: int) -> float:
            [run_id] = enter(parts, "merge", MERGE.steps, [(size.source(user), size.target(user))])
            begun = time.perf_counter()
            for step in MERGE.steps:
                outcome = perform(parts, step, BODIES[step], run_id, 1)
                if not isinstance(outcome, Done):
                    raise TypeError(outcome)
            return time.perf_counter() - begun

        warm, one = Size("w", 1, 50, 1), Size("o", 1, 1, 0)
        load(warm, 0)
        timed(warm, 0)
        for user in range(ONES):
            load(one, user)
        for user in range(SIZES[count]):
            load(size, user)
        first = statistics.median([timed(one, user) for user in range(ONES)])
        seconds = statistics.median([timed(size, user) for user in range(SIZES[count])]) - first
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return Measured(count, seconds / (count - 1) * 1e6, peak, first * 1000)


if __name__ == "__main__":
    import structlog

    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
    sys.stdout.write(json.dumps(_one(int(sys.argv[1])).__dict__))
