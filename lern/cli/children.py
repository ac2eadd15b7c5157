"""Processes that a command starts, and that end with it."""

import os
import signal
import subprocess
import sys
import types
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Final, NoReturn, Self

import lern
from lern.cli.node_name import NodeName
from lern.settings import PREFIX, Settings

# SIGTERM lets running steps end, SIGQUIT gives their messages back to the queue, SIGKILL asks nobody.
LADDER: Final = ((signal.SIGTERM, 10.0), (signal.SIGQUIT, 12.0), (signal.SIGKILL, 10.0))
# Where tasks and workflows lie beside lern. Children work there: Celery looks for `tasks` in the working
# directory first, and a stranger's `tasks` must not be found.
ROOT: Final = Path(lern.__file__).resolve().parent.parent


def environ(settings: Settings) -> dict[str, str]:
    """Give the environment in which a child loads these settings and no others, whatever its directory."""
    others = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    return {**others, **settings.environ()}


def celery_worker(
    settings: Settings, name: NodeName, *, concurrency: int | None = None, loglevel: str | None = None
) -> list[str]:
    """Give the command line of a worker. The process must inherit what holds its name."""
    return [
        *(*_celery(settings), "worker"),
        *("--hostname", name.text),
        *("--queues", settings.queue),
        *("--concurrency", str(concurrency or settings.concurrency)),
        *("--loglevel", loglevel or settings.log_level),
        # Workers have nothing to tell each other (the ledger knows it all), and asking around costs a second.
        *("--without-mingle", "--without-gossip"),
    ]


def celery_beat(settings: Settings, *, loglevel: str | None = None) -> list[str]:
    """Give the command line of beat. Without a pid file: that of a killed one would stop the next start."""
    return [
        *(*_celery(settings), "beat", "--pidfile="),
        *("--loglevel", loglevel or settings.log_level),
    ]


def _celery(settings: Settings) -> list[str]:
    """Give how Celery is called. Its banner of forty lines is for people: where lines are JSON it is left out."""
    from lern.log import is_text

    quiet = [] if is_text(settings, sys.stderr) else ["--quiet"]
    return [sys.executable, "-m", "celery", "-A", "tasks.app", *quiet]


def bridge(file: Path | str, topic: str | None, report: Path | None = None) -> list[str]:
    """Give the command line of a bridge that reads a file."""
    command = [sys.executable, "-m", "workflows.bridge", "--from", str(file)]
    command += ["--topic", topic] if topic is not None else []
    return command + (["--report", str(report)] if report is not None else [])


def kafka_bridge(start: str | None) -> list[str]:
    """Give the command line of a bridge that reads Kafka. `start`: where its group begins that has no offsets yet."""
    return [sys.executable, "-m", "workflows.kafka_bridge", *(("--start", start) if start is not None else ())]


class Child:
    """One process in a session of its own: Ctrl-C reaches only us, and we end it in good order."""

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        output: IO[bytes] | None = None,
        inherited: Sequence[int] = (),
    ) -> None:
        """Start it in `ROOT`. `output` takes what it prints (None: our own); `inherited` are open files to keep."""
        self._process = subprocess.Popen(  # noqa: S603 - the command is one of the above
            command,
            env=dict(environment),
            cwd=ROOT,
            stdin=subprocess.DEVNULL if output is not None else None,
            stdout=output,
            stderr=output,
            start_new_session=True,
            pass_fds=inherited,
        )

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """How it ended; None while it runs."""
        return self._process.poll()

    def wait(self, seconds: float | None = None) -> int | None:
        """Wait for its end; None if it still runs after so many seconds."""
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    def signal(self, number: int) -> None:
        """Send it a signal, if it still runs."""
        self._process.send_signal(number)

    def kill(self) -> None:
        """Kill what is left of its session, without asking. The group's number is ours until the last has ended."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def end(self) -> None:
        """End it, politely at first, and whatever it has started. An impatient Ctrl-C ends it at once."""
        try:
            for number, patience in LADDER:
                if self.exit_code is None:
                    self.signal(number)
                if self.wait(patience) is not None:
                    break
        finally:
            self.kill()

    def __enter__(self) -> Self:
        """Begin."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: types.TracebackType | None
    ) -> None:
        """End it."""
        self.end()


@contextmanager
def interruptible() -> Iterator[None]:
    """Make SIGTERM and SIGHUP end the block as Ctrl-C does, so that its children are ended too."""

    def stop(number: int, _frame: types.FrameType | None) -> NoReturn:
        # A second one must not tear what the first has set going.
        signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def replace_with(command: Sequence[str], environment: Mapping[str, str]) -> NoReturn:
    """Become another program: signals reach it, and its exit code is ours."""
    os.chdir(ROOT)
    os.execve(command[0], list(command), dict(environment))  # noqa: S606 - the command is one of the above


def forwarded(child: Child) -> int:
    """Hand every signal on to a child until it ends, and give its exit code."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT, signal.SIGHUP)
    before = {number: signal.signal(number, lambda got, _: child.signal(got)) for number in numbers}
    try:
        return child.wait() or 0
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
