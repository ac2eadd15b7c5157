"""The embedded stack, as it is started, watched and ended."""

import json
import os
import re
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis

from lern import events
from lern.embedded import EmbeddedRedis
from lern.ledger import Ledger, Run
from lern.redis_server import free_port
from lern.urls import sqlite_url
from tests.acceptance.site import ROOT
from tests.bridges import merges, surroundings
from tests.servers.redis import RedisServer
from tests.servers.server import Server
from tests.terminal import CTRL_C, STEERING, Terminal
from tests.workers import PATIENCE, until

LERN = (sys.executable, "-m", "lern.cli")
PARTS = {"redis", "worker", "beat", "bridge", "flower"}


class Stack:
    """`lern up` of one data directory."""

    def __init__(self, directory: Path, **settings: str) -> None:
        self.port = free_port()
        self.directory = directory
        own = {"DATA_DIR": str(directory), "FLOWER_PORT": str(self.port), "LOCK_TTL": "1", **settings}
        self.environment = {**os.environ, **{f"LERN_{name}": value for name, value in own.items()}}

    def lern(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        return self._run(*LERN, *arguments)

    def _run(self, *command: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            command, cwd=ROOT, env=self.environment, capture_output=True, text=True, timeout=120, check=False
        )

    def up(self, *arguments: str) -> None:
        """Start it, and return when it is ready."""
        done = self.lern("up", "--detach", *arguments)
        assert done.returncode == 0, done.stderr

    def up_but_not_in_time(self) -> None:
        """Start it, and return before it is ready, as if that took too long."""
        code = "from lern.cli import app, up; up.START = 0.0; app()"
        done = self._run(sys.executable, "-c", code, "up", "--detach")
        assert done.returncode == 1
        assert re.search(r"still tries: lern status .*lern down", done.stderr)

    def parts(self) -> dict[str, Any]:
        """How the parts are doing, as `lern status --json` prints it."""
        return {part["id"]: part for part in self.told()["parts"]}

    def told(self) -> Any:
        """What `lern up` tells of itself."""
        return json.loads((self.directory / "up.json").read_text())

    def ledger(self) -> Ledger:
        return Ledger(sqlite_url(self.directory / "ledger.sqlite"))

    @property
    def log(self) -> str:
        return (self.directory / "logs" / "up.log").read_text()

    def restarted(self, name: str) -> bool:
        """Whether a part was started once more, and all of them are ready."""
        return self.parts()[name]["restarts"] == 1 and self.states() == {"ready"}

    def states(self) -> set[str]:
        """The states that the parts are in."""
        return {part["state"] for part in self.parts().values()}

    def processes(self) -> list[int]:
        """All processes of this data directory, whoever has started them."""
        return [number for number in _processes_of(self.directory) if number != os.getpid()]


class Watched(Stack):
    """A stack that watches a file."""

    def __init__(self, directory: Path) -> None:
        self.worker_port, self.bridge_port = free_port(), free_port()
        ports = {"WORKER_PORT": str(self.worker_port), "BRIDGE_PORT": str(self.bridge_port)}
        super().__init__(directory / "data", **ports)
        self.file = directory / "events.jsonl"

    def merged(self) -> Run:
        """Write an event into the file, and give its run when it has succeeded."""
        name = uuid.uuid4().hex
        with self.file.open("ab") as lines:
            lines.write(events.to_bytes(events.merge_request(f"{name}-s", f"{name}-t", 1, name)) + b"\n")
        with closing(self.ledger()) as ledger:
            until(lambda: [run.state for run in ledger.runs(user=f"{name}-s")] == ["succeeded"])
            return ledger.runs(user=f"{name}-s")[0]


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """One for all tests of this module but those in which it is meant to fail."""
    made = Watched(tmp_path_factory.mktemp("up"))
    assert made.lern("status").returncode == 1
    made.up("--watch", str(made.file))
    yield made
    made.lern("down")


def test_everything_comes_up_and_does_its_work(stack: Watched) -> None:
    assert httpx.get(f"http://127.0.0.1:{stack.port}/runs").status_code == 200
    status = stack.lern("status", "--json")
    assert status.returncode == 0
    assert {part["id"]: part["state"] for part in json.loads(status.stdout)} == dict.fromkeys(PARTS, "ready")
    again = stack.lern("up")
    assert (again.returncode, "runs already" in again.stderr) == (1, True)
    run = stack.merged()
    numbers = httpx.get(f"http://127.0.0.1:{stack.worker_port}/metrics").text
    assert 'lern_runs_total{outcome="succeeded",workflow="merge"} 1.0' in numbers.splitlines()
    assert httpx.get(f"http://127.0.0.1:{stack.port}/api/lern/runs").json()[0]["id"] == run.id


def test_what_the_watched_file_brings_is_counted_where_it_is_taken_in(stack: Watched) -> None:
    with stack.file.open("ab") as lines:
        lines.write(b"no event\n")

    def counted() -> str:
        return httpx.get(f"http://127.0.0.1:{stack.bridge_port}/metrics").text

    until(lambda: 'lern_dead_letters_total{code="' in counted())
    assert httpx.get(f"http://127.0.0.1:{stack.bridge_port}/ready").status_code == 200


def test_a_part_that_hangs_is_not_ready_until_it_goes_on(stack: Watched) -> None:
    worker = stack.parts()["worker"]["pid"]
    os.kill(worker, signal.SIGSTOP)
    try:
        until(lambda: stack.parts()["worker"]["state"] == "not ready")
        assert stack.lern("status").returncode == 1
    finally:
        os.kill(worker, signal.SIGCONT)
    until(lambda: stack.states() == {"ready"})


def test_a_worker_that_dies_is_started_again_and_has_its_name_again(stack: Watched) -> None:
    stack.merged()
    os.kill(stack.parts()["worker"]["pid"], signal.SIGKILL)
    until(lambda: stack.restarted("worker"))
    stack.merged()
    assert len(set(re.findall(r"lern-[0-9a-f]{4}-[0-9]+@", stack.log))) == 1


def test_a_redis_that_dies_is_started_again_with_what_it_knew(stack: Watched) -> None:
    with EmbeddedRedis(stack.directory) as server, closing(redis.Redis.from_url(server.url)) as client:
        client.set("kept", "by its file")
        os.kill(stack.parts()["redis"]["pid"], signal.SIGKILL)
        until(lambda: stack.restarted("redis"))
        assert client.get("kept") == b"by its file"
    stack.merged()


def test_a_watched_file_that_is_moved_away_is_followed(stack: Watched) -> None:
    stack.merged()
    stack.file.rename(stack.file.with_suffix(".1"))
    stack.merged()


def test_it_goes_down_and_leaves_nothing(stack: Watched) -> None:
    assert stack.lern("down").returncode == 0
    assert stack.lern("status").returncode == 1
    # Every line of its log says whose it is.
    said = [re.match(r"(\w+) +│ ", line) for line in stack.log.splitlines()]
    assert None not in said
    assert {found[1] for found in said if found} == (PARTS - {"redis"}) | {"lern"}
    # The processes that its processes had started included.
    assert stack.processes() == []
    assert stack.lern("down").returncode == 0


def test_in_the_foreground_ctrl_c_ends_it_in_the_reverse_order(stack: Watched) -> None:
    # Another worker of the tests may have had the ones before.
    stack.lern("down")
    with Terminal([*LERN, "up"], stack.environment) as terminal:
        terminal.shows("ready: http://")
        assert "no worker is running" not in stack.lern("merge", "p", "q").stderr
        terminal.press(CTRL_C)
        assert terminal.process.wait(PATIENCE) == 0
    said = STEERING.sub(b"", terminal.written).decode()
    order = ["flower ended", "beat ended", "worker ended", "redis ended", "all has ended"]
    assert sorted(order, key=said.index) == order
    assert stack.processes() == []


def test_a_stack_that_is_killed_ends_and_what_is_left_goes_down(stack: Watched) -> None:
    stack.lern("down")
    stack.up_but_not_in_time()
    until((stack.directory / "up.json").exists)
    until(lambda: stack.states() == {"ready"})
    beat = stack.parts()["beat"]["pid"]
    # One that does not hear that it is to end.
    os.kill(beat, signal.SIGSTOP)
    os.kill(stack.told()["pid"], signal.SIGKILL)
    until(lambda: stack.processes() == [beat])
    status = stack.lern("status", "--json")
    assert (status.returncode, [part["state"] for part in json.loads(status.stdout)]) == (1, ["left"])
    os.kill(beat, signal.SIGCONT)
    down = stack.lern("down")
    assert (down.returncode, "redis" in down.stderr) == (0, True)
    assert stack.processes() == []


@pytest.fixture
def make_stack(tmp_path: Path) -> Iterator[Callable[..., Stack]]:
    made: list[Stack] = []

    def make(**settings: str) -> Stack:
        made.append(Stack(tmp_path / "data", **settings))
        return made[-1]

    yield make
    for one in made:
        one.lern("down")


def test_events_of_kafka_become_runs(
    make_stack: Callable[..., Stack], kafka: Server, redis_server: RedisServer, tmp_path: Path
) -> None:
    with closing(surroundings(kafka.address, redis_server.url, tmp_path / "elsewhere")) as place:
        before, after = merges(1), merges(2)
        place.produce(before)
        stack = make_stack(ENV=place.settings.env, KAFKA_BOOTSTRAP=kafka.address)
        # Where to begin is asked as `lern bridge` asks it; here for what is written from now on.
        stack.up("--start", "latest")
        assert stack.parts().keys() == PARTS
        place.produce(after)
        with closing(stack.ledger()) as ledger:
            until(lambda: [run.state for run in ledger.runs()] == ["succeeded"] * 2)
            assert {run.mid for run in ledger.runs()} == {json.loads(value)["mid"] for value in after}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--start", "latest"), "LERN_KAFKA_BOOTSTRAP"),
        (("--start", "latest", "--watch", "events.jsonl"), "--start is for Kafka"),
        (("--topic", "dev.lms.user.account.merge"), "--topic is for --watch"),
    ],
)
def test_what_would_have_no_effect_is_refused(
    make_stack: Callable[..., Stack], arguments: tuple[str, ...], said: str
) -> None:
    done = make_stack().lern("up", *arguments)
    assert (done.returncode, said in done.stderr) == (2, True)


def test_a_part_that_cannot_work_ends_the_stack_with_its_error(make_stack: Callable[..., Stack]) -> None:
    stack = make_stack(FLOWER_READONLY_USERS="ravi")
    up = stack.lern("up", "--detach")
    assert up.returncode == 1
    assert "flower has ended with code 2" in up.stderr
    assert "nobody has a name" in stack.log
    assert "nobody has a name" in up.stderr
    assert stack.lern("status").returncode == 1


def _processes_of(directory: Path) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                environment = (entry / "environ").read_bytes()
            except OSError:
                continue
            if f"LERN_DATA_DIR={directory}".encode() in environment:
                found.append(int(entry.name))
    return found
