"""A place with a worker and a Flower: processes as in production, on loopback, for one test."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from tests.acceptance.place import Place
from tests.acceptance.workers import Worker

ROOT = Path(__file__).parents[2]
PATIENCE = 60.0


@dataclass
class Site:
    """A worker and a Flower that work at a place. `token` opens the API."""

    place: Place
    token: str = "a-token-for-scripts-of-this-test"
    environment: dict[str, str] = field(default_factory=dict)
    port: int = 0
    prefix: str = ""
    _flower: subprocess.Popen[bytes] | None = None
    _worker: Worker | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}{self.prefix}"

    @property
    def log(self) -> Path:
        return self.place.settings.data_dir / "site.log"

    def start_worker(self) -> None:
        """Start a worker of two processes, which works as soon as it can."""
        self._worker = Worker(self.place, self.log, 2)

    def stop_worker(self) -> None:
        """End the worker after what it is at."""
        worker, self._worker = self._worker, None
        if worker is not None:
            worker.terminate()
            worker.kill()

    def choose_port(self) -> None:
        """Choose where Flower will be, for those who must know that before it starts."""
        self.port = self.port or _free_port()

    def start_flower(self, *options: str) -> None:
        """Start Flower, and return when it answers."""
        self.choose_port()
        self._flower = self._start(sys.executable, "-m", "lern.flower", f"--port={self.port}", *options)
        deadline = time.monotonic() + PATIENCE
        while not self._answers():
            assert self._flower.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.05)

    def stop_flower(self) -> int | None:
        """End Flower as a service manager does; gives its exit code."""
        flower, self._flower = self._flower, None
        _ended(flower)
        return None if flower is None else flower.returncode

    def kill_flower(self) -> None:
        """Have Flower die in the middle of what it is at."""
        assert self._flower is not None
        self._flower.kill()
        self._flower.wait()

    def ask_flower_to_end(self) -> None:
        """Ask Flower to end, and return when it has heard that; what it is at may hold it up still."""
        assert self._flower is not None
        self._flower.terminate()
        deadline = time.monotonic() + PATIENCE
        while self._answers(patience=1):
            assert time.monotonic() < deadline, self.log.read_text()

    def api(self, method: str, path: str, **options: object) -> httpx.Response:
        """Ask as a script does."""
        headers = {"Authorization": f"Bearer {self.token}"}
        return httpx.request(method, f"{self.url}/api/lern{path}", headers=headers, timeout=30, **options)  # type: ignore[arg-type]

    def until(self, run_id: str, *states: str) -> str:
        """Wait until a run is in one of these states; gives it."""
        deadline = time.monotonic() + PATIENCE
        while (state := self.place.run(run_id).state) not in states:
            assert time.monotonic() < deadline, (
                f"run {run_id} is {self.place.run(run_id)}\n{self.log.read_text()[-4000:]}"
            )
            time.sleep(0.02)
        return state

    def end(self) -> None:
        """End everything."""
        self.stop_flower()
        self.stop_worker()

    def _answers(self, patience: float = 5) -> bool:
        try:
            return httpx.get(f"{self.url}/healthcheck", timeout=patience).status_code == httpx.codes.OK
        except httpx.TransportError:
            return False

    def _start(self, *command: str) -> subprocess.Popen[bytes]:
        environment = {**os.environ, **self.place.settings.environ(), "LERN_FLOWER_API_TOKEN": self.token}
        with self.log.open("ab") as log:
            return subprocess.Popen(
                command,
                cwd=ROOT,
                env={**environment, **self.environment},
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
            )


@contextmanager
def site(place: Place, **environment: str) -> Iterator[Site]:
    """Give a site at a place; nothing is started yet, and everything ends with the block."""
    made = Site(place, environment=environment)
    try:
        yield made
    finally:
        made.end()


def _ended(process: subprocess.Popen[bytes] | None) -> None:
    if process is not None:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
