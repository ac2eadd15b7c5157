"""`lern merge SOURCE TARGET`."""

from typing import Annotated

import typer

from lern.cli import console
from lern.cli.options import Wait
from lern.cli.problems import WorkFailed, WrongUse
from lern.cli.stack import Stack, stack, with_broker
from lern.cli.waiting import NO_WORKER, PAUSE, has_worker
from lern.client import Lern, Run
from lern.events import BadEvent
from lern.mirror import RunState
from lern.services import Services
from lern.settings import Settings

app = typer.Typer()

SHORT = 8


@app.command()
def merge(
    source: Annotated[str, typer.Argument(help="The account that is merged away.", show_default=False)],
    target: Annotated[str, typer.Argument(help="The account that stays.", show_default=False)],
    *,
    key: Annotated[
        str | None, typer.Option("--key", help="Merges of the same accounts with the same key are one run.")
    ] = None,
    wait: Wait = False,
) -> None:
    """Merge one account into another. Prints the id of the run."""
    settings = Settings.load()
    if settings.embedded_redis:
        with stack(settings) as running:
            _merge(running.settings, source, target, key, wait=wait, running=running)
    else:
        with with_broker(settings) as named:
            _merge(named, source, target, key, wait=wait, running=None)


def _merge(settings: Settings, source: str, target: str, key: str | None, *, wait: bool, running: Stack | None) -> None:
    try:
        run = Lern(settings=settings).merge_accounts(source, target, idempotency_key=key)
    except BadEvent as bad:
        name = {"edata.fromAccountId": "SOURCE", "edata.toAccountId": "TARGET"}.get(bad.field, bad.field)
        raise WrongUse(f"{name}: {bad.reason.replace('edata.fromAccountId', 'SOURCE')}") from bad
    typer.echo(run.id)
    works = running is None or has_worker(Services(settings))
    if wait:
        if running is not None and not works:
            running.start_worker()
        _tell(_ended(run, running))
    elif not works:
        console.remark(NO_WORKER)


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


def _tell(ended: RunState) -> None:
    if ended.state != "succeeded":
        raise WorkFailed(f"not merged: {ended.reason or 'lern runs show tells why'}")
    console.remark("succeeded")
