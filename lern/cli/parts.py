"""The parts of the stack: how each is started, and what it is asked to learn whether it does its work."""

import os
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException
from typing import Any, Final

import redis

from lern import metrics_dir
from lern.cli import part_lock
from lern.cli.children import celery_beat, celery_worker, environ
from lern.cli.flower import command as flower_command
from lern.cli.logged import Logged
from lern.cli.node_name import NodeName, node_name
from lern.cli.running_stack import RunningStack
from lern.cli.stack import in_use, prepare
from lern.embedded import EmbeddedRedis
from lern.errors import Refused
from lern.health import PROCESS
from lern.redis_server import free_port
from lern.settings import Settings
from lern.supervisor import Part, Process

EVERYWHERE: Final = frozenset({"0.0.0.0", "::"})  # noqa: S104 - read, not bound
# How long (s) a part may take to say that it is ready. The others are not looked at meanwhile.
PATIENCE: Final = 2.0


def url(settings: Settings) -> str:
    """Give Flower's address as a browser on this machine takes it."""
    host = settings.flower_address
    return f"http://{'localhost' if host in {'127.0.0.1', *EVERYWHERE} else host}:{settings.flower_port}"


@contextmanager
def parts(running: RunningStack, settings: Settings, bridge: Sequence[str] | None) -> Iterator[list[Part]]:
    """Give the parts, in the order in which they start. `bridge`: its command line; None: there is none."""
    prepare(settings)
    # Where they can be asked whether they are ready.
    ports = {name: getattr(settings, name) or free_port() for name in ("worker_port", "bridge_port")}
    settings = settings.model_copy(update=ports)
    # Held here, so that a worker that is started again has the name of the one that died.
    with node_name(settings.data_dir) as name:
        if not settings.embedded_redis:
            yield _Starting(running, settings, name, ()).parts(bridge)
            return
        with EmbeddedRedis(settings.data_dir) as server, in_use(settings) as use:
            named = settings.model_copy(update={"broker_url": server.url})
            private = Part("redis", lambda: PrivateRedis.started(server), lambda _pid: _pings(server.url))
            yield [private, *_Starting(running, named, name, (use,)).parts(bridge)]


@dataclass(frozen=True)
class _Starting:
    """What the processes need to be started: settings that name a broker, the worker's name, files to inherit."""

    running: RunningStack
    settings: Settings
    name: NodeName
    inherited: tuple[int, ...]

    def parts(self, bridge: Sequence[str] | None) -> list[Part]:
        settings = self.settings
        made = [
            Part("worker", self._worker, _answers(settings.worker_host, settings.worker_port, "/ready")),
            # It answers nobody; what it sends lies in the queue. That it lives is all that is known.
            self._part("beat", celery_beat(settings), lambda _pid: True),
        ]
        if bridge is not None:
            made.append(self._part("bridge", bridge, _answers(settings.bridge_host, settings.bridge_port, "/ready")))
        flower = _answers(settings.flower_address, settings.flower_port, "/lern/process")
        return [*made, self._part("flower", flower_command(), flower)]

    def _part(self, kind: str, command: Sequence[str], ready: Callable[[int], bool]) -> Part:
        return Part(kind, lambda: self._started(kind, command, environ(self.settings)), ready)

    def _worker(self) -> Process:
        """Start the worker, with a new place for its processes' numbers."""
        numbers = metrics_dir.new(self.settings.data_dir / "metrics")
        try:
            given = environ(self.settings) | numbers.environ
            command = celery_worker(self.settings, self.name)
            return self._started("worker", command, given, self.name.descriptor, numbers.descriptor)
        finally:
            os.close(numbers.descriptor)

    def _started(self, kind: str, command: Sequence[str], environment: dict[str, str], *more: int) -> Process:
        with self.running.part(kind).taken() as lock:
            words = part_lock.command(command, lock)
            return Logged.started(kind, words, environment, (*self.inherited, *more, lock))


# This machine is asked directly, whatever proxy the environment names.
_direct: Final = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def _answers(host: str, port: int | None, path: str) -> Callable[[int], bool]:
    """Give what asks at an address. A part may listen everywhere, and then does so here as well."""
    address = f"http://{'127.0.0.1' if host in EVERYWHERE else host}:{port}{path}"
    return lambda pid: answers(address, pid)


def answers(address: str, pid: int) -> bool:
    """Whether this process, and no other that has its port, says at the address that all is well."""
    try:
        with _direct.open(address, timeout=PATIENCE) as answer:
            return bool(answer.headers.get(PROCESS) == str(pid))
    except (OSError, HTTPException):
        return False


def _pings(address: str) -> bool:
    client = redis.Redis.from_url(address, socket_timeout=PATIENCE)
    try:
        return bool(client.ping())
    except redis.RedisError:
        return False
    finally:
        client.close()


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
        client = redis.Redis.from_url(address, socket_timeout=PATIENCE)
        info: Any = client.info("server")
        return cls(server, address, client, int(info["process_id"]))

    @property
    def exit_code(self) -> int | None:
        """None while it answers, or hangs."""
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
