"""A whole merge through broker and workers, next to an empty chain of five tasks on the same broker and workers."""

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import count

from bench.dataset import SIZES, rows
from bench.empty import DONE, EMPTY, SHELL
from bench.stack import embedded, enter, until, worker
from lern.services import Services
from workflows import MERGE

ROUNDS = 5
CHAINS = 100


def measure() -> Iterator[tuple[str, float, float, float]]:
    """Give (what, milliseconds a chain, ratio to the empty chain, limit) as medians over interleaved rounds."""
    with embedded() as parts, tempfile.TemporaryFile() as log, worker(parts, log):
        numbers = count()
        kinds: dict[str, Callable[[], float]] = {
            "empty chain of five tasks": lambda: _empty(parts),
            "a step's shell (locks, ledger), five times": lambda: _shell(parts, numbers),
            "merge without a row": lambda: _merge(parts, numbers, filled=False),
            "merge of 60 contents, 3 enrolments, 10 attempts": lambda: _merge(parts, numbers, filled=True),
        }
        for run in kinds.values():
            run()
        times: dict[str, list[float]] = {what: [] for what in kinds}
        for _ in range(ROUNDS):
            for what, run in kinds.items():
                times[what].append(run())
        limits = dict(zip(kinds, (1.0, 1.5, 0.0, 4.0), strict=True))
        empty = statistics.median(next(iter(times.values())))
        for what, measured in times.items():
            median = statistics.median(measured)
            yield what, median * 1000, median / empty, limits[what]


def _timed(parts: Services, names: tuple[str, ...], ids: list[str], ended: Callable[[], bool]) -> float:
    begun = time.perf_counter()
    for run_id in ids:
        parts.queue.send_chain(run_id, 1, names)
    until(ended)
    return (time.perf_counter() - begun) / len(ids)


def _empty(parts: Services) -> float:
    parts.broker.delete(DONE)
    ids = [f"empty-{number}" for number in range(CHAINS)]
    return _timed(parts, EMPTY, ids, lambda: int(parts.broker.get(DONE) or 0) >= CHAINS)


def _shell(parts: Services, numbers: Iterator[int]) -> float:
    pairs = [(f"source-{number}", f"target-{number}") for number in (next(numbers) for _ in range(CHAINS))]
    return _run(parts, "shell", SHELL, pairs)


def _merge(parts: Services, numbers: Iterator[int], *, filled: bool) -> float:
    size = SIZES["a"]
    some = [next(numbers) for _ in range(CHAINS)]
    for number in some if filled else ():
        for table, row in rows(size, number, attempts=10):
            parts.store.insert(table, [row])
    return _run(parts, "merge", MERGE.steps, [(size.source(number), size.target(number)) for number in some])


def _run(parts: Services, workflow: str, steps: tuple[str, ...], pairs: list[tuple[str, str]]) -> float:
    ids = enter(parts, workflow, steps, pairs)
    # The cheapest question that there is: asking must not take what is measured.
    return _timed(parts, steps, ids, lambda: not parts.ledger.unfinished(limit=1))
