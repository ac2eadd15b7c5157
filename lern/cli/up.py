"""`lern up`: the embedded stack as supervised processes."""

import os
import signal
import subprocess
import sys
import time
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final

import typer

from lern.cli import console
from lern.cli.bridge import Start
from lern.cli.children import ROOT, kafka_bridge
from lern.cli.logged import say
from lern.cli.parts import parts, url
from lern.cli.problems import WorkFailed, WrongUse
from lern.cli.running_stack import RunningStack
from lern.errors import Refused
from lern.settings import Settings
from lern.supervisor import Kept, PartDied, Supervisor

app = typer.Typer()

# How long (s) --detach waits for all to be ready.
START: Final = 90.0


@app.command()
def up(
    *,
    watch: Annotated[
        str | None,
        typer.Option("--watch", metavar="EVENTS.jsonl", help="Take in what is added to this file.", show_default=False),
    ] = None,
    topic: Annotated[str | None, typer.Option("--topic", help="The topic of bare events in that file.")] = None,
    start: Start = None,
    detach: Annotated[
        bool, typer.Option("--detach", "-d", help="Return when all is ready; lern down ends it.")
    ] = False,
) -> None:
    """Start Redis, a worker, beat, a bridge and Flower, and keep them running until Ctrl-C or [bold]lern down[/bold].

    The bridge reads Kafka where LERN_KAFKA_BOOTSTRAP is set, or a file with --watch. A part that dies is started
    again; one that dies five times in a row, or whose settings are wrong, ends the stack, with its error.
    With --detach the exit code is 1 if not all is ready within 90 seconds; what waits for a server goes on waiting.
    """
    settings = Settings.load()
    settings.require_shared_ledger()
    bridge = _bridge(settings, watch, topic, start)
    if detach:
        _detached(settings, sys.argv[1:])
        return
    running = RunningStack(settings.data_dir)
    with running.owned() as ended, parts(running, settings, bridge) as made:
        if ended:
            say("lern", f"of one that was killed this was left, and is ended: {', '.join(ended)}")
        supervisor = Supervisor(made, time.monotonic, lambda kept: _tell(running, kept, settings))
        _run(supervisor)


def _bridge(settings: Settings, watch: str | None, topic: str | None, start: str | None) -> Sequence[str] | None:
    """Give the command line of the bridge; None: there are no events but those of callers. Raises `WrongUse`."""
    if watch is not None:
        if start is not None:
            raise WrongUse("--start is for Kafka; a watched file is read from its first line")
        topics = ("--topic", topic) if topic is not None else ()
        return [sys.executable, "-m", "workflows.watch", "--from", str(Path(watch).resolve()), *topics]
    if topic is not None:
        raise WrongUse("--topic is for --watch FILE; the bridge of Kafka reads the topics of every workflow")
    if settings.kafka_bootstrap is None:
        if start is not None:
            raise WrongUse("--start is for Kafka: LERN_KAFKA_BOOTSTRAP is not set")
        return None
    return kafka_bridge(start)


def _run(supervisor: Supervisor) -> None:
    def stop(_number: int, _frame: types.FrameType | None) -> None:
        supervisor.stop()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, stop)
    try:
        supervisor.run()
    except PartDied as died:
        raise WorkFailed(f"{died}; its last lines are above") from died
    say("lern", "all has ended")


def _tell(running: RunningStack, kept: Sequence[Kept], settings: Settings) -> None:
    running.tell(kept, url(settings))
    say("lern", "  ".join(f"{one.part.name} {one.state}" for one in kept))
    if all(one.state == "ready" for one in kept):
        say("lern", f"ready: {url(settings)}/runs")


def _detached(settings: Settings, arguments: Sequence[str]) -> None:
    """Start the same without --detach, in a session of its own, and wait until it is ready."""
    running = RunningStack(settings.data_dir)
    if running.runs:
        raise Refused(f"it runs already: {settings.data_dir}; lern status, lern down")
    log = settings.data_dir / "logs" / "up.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    own = [word for word in arguments if word not in {"--detach", "-d"}]
    with log.open("wb") as output:
        started = subprocess.Popen(  # noqa: S603 - ourselves
            [sys.executable, "-m", "lern.cli", *own],
            env={
                **os.environ,
                **settings.environ(),
                "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))),
            },
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    deadline = time.monotonic() + START
    while not _all_ready(running):
        if started.poll() is not None:
            raise WorkFailed(f"it does not come up; {_end_of(log)}")
        if time.monotonic() > deadline:
            # What waits for a server that is away is not helped by being ended; a script sees the exit code.
            raise WorkFailed(
                f"not all of it is ready within {START:g} s. It still tries: lern status tells how it does, lern down "
                f"ends it; {_end_of(log)}"
            )
        time.sleep(0.1)
    typer.echo(f"{url(settings)}/runs")
    console.remark(f"logs in {log}; lern down ends it")


def _all_ready(running: RunningStack) -> bool:
    seen = running.seen()
    return seen is not None and bool(seen["parts"]) and all(part["state"] == "ready" for part in seen["parts"])


def _end_of(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines()
    last = lines[-1] if lines else "empty"
    # Who waits at the terminal has no lines above: what the part that gave up said last is the cause.
    name, gave_up, _ = last.removeprefix("lern: ").partition(" has ended")
    said = [text.strip() for part, bar, text in (line.partition("│") for line in lines) if bar and part.strip() == name]
    cause = next(filter(None, reversed(said)), "") if gave_up else ""
    return f"{log} ends: {last}" + (f"; {name} said: {cause.removeprefix('lern: ')}" if cause else "")
