"""Waiting for runs to end, and seeing to it that somebody works on them."""

import getpass
import socket
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final

from lern.cli import console
from lern.cli.problems import WorkFailed
from lern.client import worker_client
from lern.ledger import Ledger, Run
from lern.ledger.records import ACTIVE
from lern.services import Services

PAUSE: Final = 0.05
LOOK_AT: Final = 100
NO_WORKER: Final = "no worker is running here; it is carried out when there is one: lern worker"


def now_ms() -> int:
    """Give the time, in milliseconds since 1970 UTC."""
    return time.time_ns() // 1_000_000


def whoami() -> str:
    """Name whoever calls the command, for the audit."""
    return f"{getpass.getuser()}@{socket.gethostname()}"


def has_worker(parts: Services) -> bool:
    """Whether a worker of our queue waits for messages at the broker, seen by its blocking read and its name."""
    clients: Any = parts.broker.client_list()
    name = worker_client(parts.settings.queue)
    return any((client.get("cmd"), client.get("name")) == ("brpop", name) for client in clients)


@dataclass(frozen=True)
class Look:
    """How far runs are: how many have ended, how many steps are done at least, and a run that has not ended."""

    ended: int
    steps: int
    run: Run | None


def until_ended(ledger: Ledger, ids: Iterable[str], tick: Callable[[Look], None]) -> dict[str, Run]:
    """Wait until every run has ended; give them by id. `tick` is called after every look, and may raise."""
    ended: dict[str, Run] = {}
    left = list(dict.fromkeys(ids))
    while left:
        began = time.monotonic()
        seen = [run for run_id in left[:LOOK_AT] if (run := ledger.peek(run_id)) is not None]
        ended.update({run.id: run for run in seen if run.state not in ACTIVE})
        left = [run_id for run_id in left if run_id not in ended]
        under_way = [run for run in seen if run.id not in ended]
        steps = sum(run.position for run in under_way) + sum(len(run.steps) for run in ended.values())
        tick(Look(len(ended), steps, next(iter(under_way), None)))
        if left:
            # Looking must not take from the worker what it needs: a tenth of the time at most.
            time.sleep(max(PAUSE, 9 * (time.monotonic() - began)))
    return ended


def what_it_does(run: Run | None) -> str:
    """Say in a few words where a run is."""
    if run is None:
        return ""
    place = f"{run.source} → {run.target}: {run.step or 'ends'}"
    return f"{place} waits: {run.reason or run.error}" if run.state == "waiting" else place


def wait_for(parts: Services, run_id: str, check: Callable[[], None]) -> Run:
    """Wait for one run and show where it is. Raises what `check` raises."""
    with console.progress() as bar:
        task = bar.add_task(run_id[:8], total=None, note="")

        def tick(look: Look) -> None:
            check()
            if look.run is not None:
                bar.update(task, total=len(look.run.steps), completed=look.steps, note=what_it_does(look.run))

        return until_ended(parts.ledger, [run_id], tick)[run_id]


def require_success(run: Run) -> None:
    """Raise `WorkFailed` unless a run has succeeded."""
    if run.state != "succeeded":
        raise WorkFailed(f"run {run.id} is {run.state}: {run.reason or ''} {run.error or ''}".rstrip())
