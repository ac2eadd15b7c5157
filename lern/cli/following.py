"""Following one run that was asked for through the Python API, and seeing to it that somebody works on it."""

from typing import Final

from lern.cli import console
from lern.cli.problems import WorkFailed
from lern.cli.stack import Stack
from lern.cli.waiting import NO_WORKER, PAUSE, has_worker
from lern.client import Run
from lern.mirror import RunState
from lern.services import Services
from lern.settings import Settings

SHORT: Final = 8


def follow(run: Run, settings: Settings, running: Stack | None, *, wait: bool, what: str) -> None:
    """Wait for a run's end if that is wanted; say so where nobody works. Raises `WorkFailed`: "not <what>"."""
    works = running is None or has_worker(Services(settings))
    if not wait:
        if not works:
            console.remark(NO_WORKER)
        return
    if running is not None and not works:
        running.start_worker()
    ended = _ended(run, running)
    if ended.state != "succeeded":
        raise WorkFailed(f"not {what}: {ended.reason or 'lern runs show tells why'}")
    console.remark("succeeded")


def _ended(run: Run, running: Stack | None) -> RunState:
    """Wait for the run's end and show where it is. Raises `WorkFailed` if our own worker ends before."""
    with console.progress() as bar:
        task = bar.add_task(run.id[:SHORT], total=None, note="")
        while True:
            try:
                return run.wait(timeout=PAUSE * 2)
            except TimeoutError:
                seen = run.state()
                bar.update(task, note=" ".join(filter(None, (seen.state, seen.step, seen.reason))))
            if running is not None:
                running.check()
