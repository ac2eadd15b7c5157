"""Waiting for runs to end, and seeing to it that somebody works on them."""

import getpass
import socket
import time
from collections.abc import Callable, Iterable
from typing import Any, Final

from lern.cli import console
from lern.cli.problems import WorkFailed
from lern.ledger import Ledger, Run
from lern.ledger.records import ACTIVE
from lern.services import Services

PAUSE: Final = 0.05
LOOK_AT: Final = 200
NO_WORKER: Final = "no worker is running here; it is carried out when there is one: lern worker"


def now_ms() -> int:
    """Give the time, in milliseconds since 1970 UTC."""
    return time.time_ns() // 1_000_000


def whoami() -> str:
    """Name whoever calls the command, for the audit."""
    return f"{getpass.getuser()}@{socket.gethostname()}"


def has_worker(parts: Services) -> bool:
    """Whether a worker waits for messages at the broker, seen by its blocking read."""
    clients: Any = parts.broker.client_list()
    return any(client.get("cmd") == "brpop" for client in clients)


def until_ended(
    ledger: Ledger,
    ids: Iterable[str],
    tick: Callable[[int, Run | None], None],
) -> dict[str, Run]:
    """Wait until every run has ended; give them by id.

    `tick` is called after every look, with how many have ended since and a run that has not, and may raise.
    """
    ended: dict[str, Run] = {}
    left = list(dict.fromkeys(ids))
    while left:
        seen = {run_id: ledger.peek(run_id) for run_id in left[:LOOK_AT]}
        done = {run_id: run for run_id, run in seen.items() if run is not None and run.state not in ACTIVE}
        ended.update(done)
        left = [run_id for run_id in left if run_id not in done]
        tick(len(done), next((run for run in seen.values() if run is not None and run.id not in done), None))
        if left and not done:
            time.sleep(PAUSE)
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

        def tick(_: int, run: Run | None) -> None:
            check()
            if run is not None:
                bar.update(task, total=len(run.steps), completed=run.position, note=what_it_does(run))

        return until_ended(parts.ledger, [run_id], tick)[run_id]


def require_success(run: Run) -> None:
    """Raise `WorkFailed` unless a run has succeeded."""
    if run.state != "succeeded":
        raise WorkFailed(f"run {run.id} is {run.state}: {run.reason or ''} {run.error or ''}".rstrip())
