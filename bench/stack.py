"""The embedded stack for a bench: a data directory of its own, Redis, and a prefork worker."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from lern.embedded import EmbeddedRedis
from lern.ledger import NewRun
from lern.services import Services
from lern.settings import Settings

ROOT = Path(__file__).resolve().parent.parent


@contextmanager
def embedded(**settings: str) -> Iterator[Services]:
    """Give services in a new data directory, which is removed afterwards."""
    with tempfile.TemporaryDirectory(prefix="lern-bench-") as name, EmbeddedRedis(Path(name)) as redis:
        parts = Services(Settings.load({"LERN_DATA_DIR": name, "LERN_BROKER_URL": redis.url, **settings}))
        parts.ledger.migrate()
        create: Any = parts.store
        create.create()
        try:
            yield parts
        finally:
            parts.store.close()
            parts.ledger.close()


@contextmanager
def worker(
    parts: Services, log: IO[bytes], environment: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a worker with two children on the services' settings until the block ends."""
    command = [sys.executable, "-m", "celery", "-A", "tasks.app", "worker", "-I", "bench.empty", "--concurrency", "2"]
    quiet = {"LERN_LOG_LEVEL": "WARNING", **(environment or {})}
    process = subprocess.Popen(
        command, cwd=ROOT, env={**os.environ, **parts.settings.environ(), **quiet}, stdout=log, stderr=log
    )
    try:
        yield process
    finally:
        process.terminate()
        process.wait(60)


def enter(parts: Services, workflow: str, steps: tuple[str, ...], pairs: list[tuple[str, str]]) -> list[str]:
    """Enter runs in the ledger without sending them; give their ids."""
    runs = [
        NewRun(f"{workflow}:{source}:{target}", workflow, steps, source, target, b"{}", 1_700_000_000_000)
        for source, target in pairs
    ]
    return [entered.run_id for entered in parts.ledger.enter(runs, [], time.time_ns() // 1_000_000)]


def until(condition: Any, seconds: float = 600.0) -> None:
    """Look every 20 ms until a condition holds. Raises `TimeoutError`."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError
        time.sleep(0.02)


def resident_mib(pid: int) -> float:
    """Give the resident memory of a process and its children."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
    return sum(map(_resident_kib, [pid, *map(int, children)])) / 1024


def _resident_kib(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    return 0
