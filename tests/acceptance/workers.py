"""Real workers: `celery worker` with its children and its sweeper, each in a process group of its own."""

import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from celeryconfig import broker_transport_options
from lern.cli.children import Child, celery_worker, environ
from lern.cli.node_name import node_name
from lern.ledger import Run
from tests.acceptance.place import Place

# Seconds until a test gives up. Whatever is recovered by then was not recovered by the broker's own timeout.
PATIENCE: Final = 200
assert broker_transport_options["visibility_timeout"] > 10 * PATIENCE

# Settings with which waiting is short.
BRISK: Final = {"lock_ttl": "2", "lock_wait": "0.5", "sweep_interval": "0.1", "retry_base": "0.05", "retry_cap": "1"}


class Worker(Child):
    """One worker with its children. `log`: what they print."""

    def __init__(self, place: Place, log: Path, concurrency: int) -> None:
        self.log = log
        with node_name(place.settings.data_dir) as name, log.open("ab") as output:
            command = celery_worker(place.settings, name, concurrency=concurrency)
            super().__init__(command, environ(place.settings), output, (name.descriptor,))

    @property
    def text(self) -> str:
        """What they have printed."""
        return self.log.read_text(errors="replace")

    @property
    def children(self) -> list[int]:
        """The processes that carry out steps."""
        return [int(pid) for pid in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()]

    @property
    def memory(self) -> int:
        """What worker and children have in memory, in KiB. What they share counts for each, always."""
        return sum(_resident(pid) for pid in (self.pid, *self.children))

    def kill_child(self) -> int:
        """Kill one of the children alone; returns which."""
        victim = self.children[0]
        os.kill(victim, signal.SIGKILL)
        return victim

    def terminate(self) -> int | None:
        """Ask it to end, and wait until it has; returns its exit code."""
        self.signal(signal.SIGTERM)
        return self.wait(PATIENCE)


class Workers:
    """The workers of one place."""

    def __init__(self, place: Place, ends: ExitStack) -> None:
        self.place = place
        self._ends = ends
        self._started: list[Worker] = []

    def start(self, concurrency: int = 2) -> Worker:
        """Start a worker."""
        log = self.place.settings.data_dir / f"worker-{len(self._started)}.log"
        worker = Worker(self.place, log, concurrency)
        self._ends.callback(worker.kill)
        self._started.append(worker)
        return worker

    def until(self, happened: Callable[[], object], what: str) -> None:
        """Wait for something to happen."""
        deadline = time.monotonic() + PATIENCE
        while not happened():
            if time.monotonic() > deadline:
                raise AssertionError(f"{what}: not within {PATIENCE} s\n{self.logs()}")
            time.sleep(0.02)

    def until_ended(self, runs: Iterable[str]) -> list[Run]:
        """Wait until runs have ended, and give them."""
        open_runs = dict.fromkeys(runs)
        ended: list[Run] = []

        def all_ended() -> bool:
            for run_id in list(open_runs):
                run = self.place.run(run_id)
                if run.ended_at is None:
                    return False
                del open_runs[run_id]
                ended.append(run)
            return True

        self.until(all_ended, "every run has ended")
        return ended

    def logs(self) -> str:
        """The end of every worker's log."""
        return "\n".join(f"{w.log}\n{w.text[-3000:]}" for w in self._started)


@contextmanager
def workers_of(place: Place) -> Iterator[Workers]:
    """Have workers for the length of a block."""
    with ExitStack() as ends:
        yield Workers(place, ends)


def _resident(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    raise AssertionError(f"process {pid} does not say how much memory it has")
