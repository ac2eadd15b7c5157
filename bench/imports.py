"""What other services and people wait for: importing the client, `lern --help`, and a bare interpreter beside them."""

import statistics
import subprocess
import sys
import time
from collections.abc import Iterator

from bench.stack import ROOT

ROUNDS = 7
DRIVERS = ("sqlalchemy", "cassandra", "elasticsearch", "confluent_kafka", "celery", "redis", "pydantic", "psycopg")


def measure() -> Iterator[tuple[str, float, float]]:
    """Give (what, milliseconds as a median, limit in milliseconds)."""
    kinds = {
        "python -c pass": (["-c", "pass"], 0.0),
        "from lern import Lern": (["-c", "from lern import Lern"], 100.0),
        "lern --help": (["-m", "lern.cli", "--help"], 300.0),
    }
    times: dict[str, list[float]] = {what: [] for what in kinds}
    for _ in range(ROUNDS):
        for what, (arguments, _limit) in kinds.items():
            begun = time.perf_counter()
            subprocess.run([sys.executable, *arguments], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
            times[what].append((time.perf_counter() - begun) * 1000)
    bare = statistics.median(times["python -c pass"])
    for what, (_, limit) in kinds.items():
        median = statistics.median(times[what])
        yield what, median - bare if what.startswith("from") else median, limit


def drivers_imported() -> list[str]:
    """Give the drivers that `from lern import Lern` imports: none is to be among them."""
    code = f"import sys; from lern import Lern; print(*[name for name in {DRIVERS!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout.split()
