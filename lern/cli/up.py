"""`lern up`: the embedded stack as supervised processes."""

import os
import signal
import subprocess
import sys
import threading
import time
import types
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Annotated, Any, Final

import redis
import typer

from lern import metrics_dir
from lern.cli import console
from lern.cli.bridge import Start
from lern.cli.children import ROOT, Child, celery_beat, celery_worker, environ, kafka_bridge
from lern.cli.flower import command as flower_command
from lern.cli.node_name import NodeName, node_name
from lern.cli.problems import WorkFailed, WrongUse
from lern.cli.running_stack import RunningStack
from lern.cli.stack import in_use, prepare
from lern.cli.waiting import has_worker
from lern.embedded import EmbeddedRedis
from lern.errors import Refused, Unreachable
from lern.redis_server import free_port
from lern.services import Services
from lern.settings import Settings
from lern.supervisor import Kept, Part, PartDied, Process, Supervisor

app = typer.Typer()

COLOURS: Final = {
    "redis": "red",
    "worker": "green",
    "beat": "blue",
    "bridge": "cyan",
    "flower": "magenta",
    "lern": "bold",
}
START: Final = 90.0
EVERYWHERE: Final = frozenset({"0.0.0.0", "::"})  # noqa: S104 - read, not bound


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
    """
    settings = Settings.load()
    settings.require_shared_ledger()
    bridge = _bridge(settings, watch, topic, start)
    if detach:
        _detached(settings, sys.argv[1:])
        return
    running = RunningStack(settings.data_dir)
    with running.owned(), _parts(settings, bridge) as parts:
        supervisor = Supervisor(parts, time.monotonic, lambda kept: _tell(running, kept, settings))
        _run(supervisor)


@dataclass(frozen=True)
class Bridge:
    """The command line of the bridge. `asked`: it says at its port whether it is ready."""

    command: Sequence[str]
    asked: bool


def _bridge(settings: Settings, watch: str | None, topic: str | None, start: str | None) -> Bridge | None:
    """Give the bridge that is meant; None: there are no events but those of callers. Raises `WrongUse`."""
    if watch is not None:
        if start is not None:
            raise WrongUse("--start is for Kafka; a watched file is read from its first line")
        topics = ("--topic", topic) if topic is not None else ()
        command = [sys.executable, "-m", "workflows.watch", "--from", str(Path(watch).resolve()), *topics]
        return Bridge(command, asked=False)
    if topic is not None:
        raise WrongUse("--topic is for --watch FILE; the bridge of Kafka reads the topics of every workflow")
    if settings.kafka_bootstrap is None:
        if start is not None:
            raise WrongUse("--start is for Kafka: LERN_KAFKA_BOOTSTRAP is not set")
        return None
    return Bridge(kafka_bridge(start), asked=True)


def _run(supervisor: Supervisor) -> None:
    def stop(_number: int, _frame: types.FrameType | None) -> None:
        supervisor.stop()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, stop)
    try:
        supervisor.run()
    except PartDied as died:
        raise WorkFailed(f"{died}; its last lines are above") from died
    _say("lern", "all has ended")


def _tell(running: RunningStack, kept: Sequence[Kept], settings: Settings) -> None:
    running.tell(kept, url(settings))
    _say("lern", "  ".join(f"{one.part.name} {one.state}" for one in kept))
    if all(one.state == "ready" for one in kept):
        _say("lern", f"ready: {url(settings)}/runs")


def url(settings: Settings) -> str:
    """Give Flower's address as a browser on this machine takes it."""
    host = settings.flower_address
    return f"http://{'localhost' if host in {'127.0.0.1', *EVERYWHERE} else host}:{settings.flower_port}"


@contextmanager
def _parts(settings: Settings, bridge: Bridge | None) -> Iterator[list[Part]]:
    """Give the parts, in the order in which they start."""
    prepare(settings)
    if bridge is not None and bridge.asked and settings.bridge_port is None:
        # Where it can be asked whether it is ready.
        settings = settings.model_copy(update={"bridge_port": free_port()})
    # Held here, so that a worker that is started again has the name of the one that died.
    with node_name(settings.data_dir) as name:
        if not settings.embedded_redis:
            yield _processes(settings, name, bridge, ())
            return
        server = EmbeddedRedis(settings.data_dir)
        with server:
            private = Part("redis", lambda: PrivateRedis.started(server), lambda: True)
            named = settings.model_copy(update={"broker_url": server.url})
            with in_use(settings) as use:
                yield [private, *_processes(named, name, bridge, (use,))]


def _processes(settings: Settings, name: NodeName, bridge: Bridge | None, inherited: tuple[int, ...]) -> list[Part]:
    services = Services(settings)

    def part(kind: str, command: Sequence[str], ready: Callable[[], bool]) -> Part:
        return Part(kind, lambda: Logged.started(kind, command, environ(settings), inherited), ready)

    # Beat answers nobody; what it sends lies in the queue.
    made = [
        Part("worker", lambda: _worker(settings, name, inherited), lambda: _works(services)),
        part("beat", celery_beat(settings), lambda: True),
    ]
    if bridge is not None:
        made.append(part("bridge", bridge.command, lambda: not bridge.asked or _bridges(settings)))
    made.append(part("flower", flower_command(), lambda: _answers(f"{url(settings)}/healthcheck")))
    return made


def _worker(settings: Settings, name: NodeName, inherited: tuple[int, ...]) -> Process:
    """Start the worker, with a new place for its processes' numbers where somebody asks for them."""
    command, held = celery_worker(settings, name), (*inherited, name.descriptor)
    if settings.worker_port is None:
        return Logged.started("worker", command, environ(settings), held)
    numbers = metrics_dir.new(settings.data_dir / "metrics")
    try:
        given = environ(settings) | numbers.environ
        return Logged.started("worker", command, given, (*held, numbers.descriptor))
    finally:
        os.close(numbers.descriptor)


def _works(services: Services) -> bool:
    try:
        return has_worker(services)
    except (Unreachable, redis.RedisError):
        return False


def _bridges(settings: Settings) -> bool:
    """Ask the bridge. It may listen everywhere, and then does so here as well."""
    host = "127.0.0.1" if settings.bridge_host in EVERYWHERE else settings.bridge_host
    return _answers(f"http://{host}:{settings.bridge_port}/ready")


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=2) as answer:  # noqa: S310 - our own address
            return int(answer.status) < 400  # noqa: PLR2004 - HTTP
    except urllib.error.HTTPError as error:
        # Flower under a prefix, or one that asks who is there, lives.
        return error.code in {401, 403, 404} and address.endswith("/healthcheck")
    except OSError:
        return False


@dataclass
class PrivateRedis:
    """The private Redis as a part: it is used and left by this process, and started anew if it dies."""

    server: EmbeddedRedis
    address: str
    client: redis.Redis
    pid: int

    @classmethod
    def started(cls, server: EmbeddedRedis) -> "PrivateRedis":
        """Join it. Raises `Refused` if it could only be had elsewhere: the other parts have its old address."""
        before = server.url
        if (address := server.join()) != before:
            raise Refused("the port of the private Redis was taken by somebody else; lern up once more")
        client = redis.Redis.from_url(address, socket_timeout=5)
        info: Any = client.info("server")
        return cls(server, address, client, int(info["process_id"]))

    @property
    def exit_code(self) -> int | None:
        """None while it answers."""
        try:
            self.client.ping()
        except redis.ConnectionError:
            return 1
        except redis.RedisError:
            return None
        return None

    def end(self) -> None:
        """Nothing: whoever uses it last ends it."""
        self.client.close()


class Logged(Child):
    """A child whose every line is printed with its name before it."""

    _reader: threading.Thread

    @classmethod
    def started(
        cls, name: str, command: Sequence[str], environment: dict[str, str], inherited: Sequence[int]
    ) -> Process:
        """Start it, and a thread that prints what it says."""
        end, beginning = os.pipe()
        try:
            with os.fdopen(beginning, "wb") as output:
                child = cls(command, environment, output, inherited)
        except BaseException:
            os.close(end)
            raise
        child._reader = threading.Thread(target=_print, args=(name, os.fdopen(end, "rb")), daemon=True)
        child._reader.start()
        return child

    def end(self) -> None:
        """End it, and print what it said last."""
        super().end()
        self._reader.join(5)


def _print(name: str, output: IO[bytes]) -> None:
    with output:
        for line in output:
            _say(name, line.decode("utf-8", "replace").rstrip("\n"))


_saying = threading.Lock()


def _say(name: str, text: str) -> None:
    screen = console.out()
    with _saying:
        screen.print(f"{name:<7}│ ", style=COLOURS[name], end="", highlight=False, markup=False)
        screen.print(console.text(text), soft_wrap=True, highlight=False, markup=False)
        sys.stdout.flush()


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
        if started.poll() is not None or time.monotonic() > deadline:
            lines = log.read_text(errors="replace").splitlines()
            raise WorkFailed(f"it does not come up; {log} ends: {lines[-1] if lines else 'empty'}")
        time.sleep(0.1)
    typer.echo(f"{url(settings)}/runs")
    console.remark(f"logs in {log}; lern down ends it")


def _all_ready(running: RunningStack) -> bool:
    seen = running.seen()
    return seen is not None and bool(seen["parts"]) and all(part["state"] == "ready" for part in seen["parts"])
