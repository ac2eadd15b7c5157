"""`lern runs list|show|retry|undo`."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Annotated, Any, Final, get_args

import typer

from lern import actions, phrases
from lern.cli import console
from lern.cli.options import AsJson, Limit, RunId, Wait, moment_of
from lern.cli.problems import WrongUse
from lern.cli.run_page import page
from lern.cli.stack import stack
from lern.cli.waiting import NO_WORKER, has_worker, now_ms, require_success, wait_for, whoami
from lern.cli.watch import watch
from lern.errors import Refused
from lern.ledger import Ledger, Run, RunDetail
from lern.ledger.records import RunState
from lern.services import Services
from lern.settings import Settings

app = typer.Typer(no_args_is_help=True)
app.command()(watch)

SHORT: Final = 8
SHORTEST: Final = 4
CANDIDATES: Final = 5
WORKFLOWS: Final = ("merge", "ownership", "undo", "sweep", "verification")


@app.command(name="list")
def list_runs(
    *,
    state: Annotated[str | None, typer.Option("--state", "-s", help=f"One of {', '.join(get_args(RunState))}.")] = None,
    workflow: Annotated[str | None, typer.Option("--workflow", "-w", help=f"One of {', '.join(WORKFLOWS)}.")] = None,
    user: Annotated[
        str | None, typer.Option("--user", "-u", help="Runs with this account as source or target.")
    ] = None,
    since: Annotated[str | None, typer.Option("--since", help="Entered since: 30m, 2h, 7d, a date or a time.")] = None,
    until: Annotated[str | None, typer.Option("--until", help="Entered before.")] = None,
    limit: Limit = 20,
    as_json: AsJson = False,
) -> None:
    """List runs, the newest first."""
    with ledger_of(Settings.load()) as ledger:
        found = ledger.runs(
            state=_state(state),
            workflow=_workflow(workflow),
            user=user,
            since=moment_of(since, "--since"),
            until=moment_of(until, "--until"),
            limit=limit + 1,
        )
    shown = found[:limit]
    if as_json:
        console.print_json(asdict(run) for run in shown)
        return
    if not shown:
        console.remark("no runs")
        return
    screen = console.out()
    screen.print(table(shown, short=screen.is_terminal))
    if len(found) > limit:
        console.remark(f"only the newest {limit}; --limit shows more")


def _state(name: str | None) -> RunState | None:
    known: dict[str, RunState] = {state: state for state in get_args(RunState)}
    if name is None:
        return None
    if name not in known:
        raise WrongUse(f"--state {name!r}: one of {', '.join(known)} was expected")
    return known[name]


def _workflow(name: str | None) -> str | None:
    if name is not None and name not in WORKFLOWS:
        raise WrongUse(f"--workflow {name!r}: one of {', '.join(WORKFLOWS)} was expected")
    return name


def table(runs: list[Run], *, short: bool) -> Any:
    """Give runs as a table; `short`: only as much of their ids as people need."""
    result = console.table("run", "workflow", "state", "source → target", f"entered ({console.zone()})", "took>", "why")
    for run in runs:
        result.add_row(
            run.id[:SHORT] if short else run.id,
            run.workflow,
            console.state(run.state),
            console.text(f"{run.source} → {run.target}"),
            console.moment(run.created_at),
            phrases.span(None if run.ended_at is None else run.ended_at - run.created_at),
            console.text(why(run)),
        )
    return result


def why(run: Run) -> str:
    """Say where a run is and why it is not done; empty for one that has ended well."""
    if run.state == "succeeded":
        return phrases.many(len(run.warnings), "warning") if run.warnings else ""
    return ": ".join(filter(None, (run.step, run.error or run.reason)))


@app.command()
def show(run_id: RunId, *, as_json: AsJson = False) -> None:
    """Show a run: its event, every step with its row counts, what went wrong, and who did what about it."""
    with ledger_of(Settings.load()) as ledger:
        detail = _detail(ledger, run_id)
        later = ledger.later_merges(detail.run.id)
    if as_json:
        console.print_json([detail.record()])
        return
    screen = console.out()
    for part in page(detail, later, now_ms()):
        screen.print(part)


@app.command()
def retry(
    run_id: RunId,
    *,
    step: Annotated[str | None, typer.Option("--step", help="Begin at this step, even if the run succeeded.")] = None,
    wait: Wait = False,
) -> None:
    """Try a failed run again, from the step where it failed."""
    _act(run_id, lambda parts, run: actions.retry(parts, run.id, whoami(), now_ms(), step), wait=wait)


@app.command()
def undo(run_id: RunId, *, wait: Wait = False) -> None:
    """Take a merge or a transfer back: all as before. It is a run of its own; its id is printed."""
    _act(run_id, lambda parts, run: actions.undo(parts, run.id, whoami(), now_ms()), wait=wait)


def _act(run_id: str, action: Callable[[Services, Run], actions.Started], *, wait: bool) -> None:
    """Do something about a run, and print the id of the run that is set going by it."""
    settings = Settings.load()
    with ledger_of(settings) as ledger:
        found = _detail(ledger, run_id).run
    with stack(settings) as running:
        parts = Services(running.settings)
        new = action(parts, found).run
        typer.echo(new.id)
        works = not settings.embedded_redis or has_worker(parts)
        if not wait:
            if not works:
                console.remark(NO_WORKER)
            return
        if not works:
            running.start_worker()
        ended = wait_for(parts, new.id, running.check)
    require_success(ended)
    console.remark(f"{ended.workflow} succeeded; lern runs show {ended.id[:SHORT]} tells more")


@contextmanager
def ledger_of(settings: Settings) -> Iterator[Ledger]:
    """Give the ledger; the embedded default's is made if it is not there yet."""
    ledger = Ledger(settings.ledger_url_or_default)
    try:
        if settings.ledger_url is None:
            ledger.migrate()
        yield ledger
    finally:
        ledger.close()


def _detail(ledger: Ledger, given: str) -> RunDetail:
    """Find a run by its id or the beginning of it. Raises `Refused` if that is not one run, `WrongUse` if too short."""
    found = ledger.run(given)
    if found is not None:
        return found
    if len(given) < SHORTEST:
        raise WrongUse(f"{given!r} is too little of a run's id: {SHORTEST} characters at least")
    like = [run.id for run in ledger.named(given, CANDIDATES)]
    if len(like) > 1:
        raise Refused(f"{given} is the beginning of several runs: {', '.join(like)}")
    one = ledger.run(like[0]) if like else None
    if one is None:
        raise Refused(f"there is no run {given}; lern runs list shows which there are")
    return one
