"""`lern flower`, as it is typed: with everything embedded, and for others to reach."""

import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpx
import pytest
import redis

from lern.cli.children import ROOT, Child, environ
from lern.cli.flower import command
from lern.cli.parts import answers
from lern.embedded import EmbeddedRedis
from lern.redis_server import free_port
from lern.settings import Settings
from tests.servers.redis import RedisServer
from tests.workers import PATIENCE, Process, until

TOKEN = "a-token-for-scripts-of-this-test"
# Says how many tasks Flower remembers of 6,000 that it heard of, and whether the last is among them.
HEARD = """
import sys
from lern.flower.__main__ import application
from lern.settings import Settings

state = application(Settings.load(), sys.argv[1:]).events.state
for number in range(6_000):
    event = {"type": "task-received", "hostname": "worker", "uuid": str(number), "name": "merge.content"}
    state.event({**event, "timestamp": number, "local_received": number, "clock": number})
print(len(state.tasks), "5999" in state.tasks)
"""


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    given = {"DATA_DIR": str(tmp_path / "data"), "FLOWER_PORT": str(free_port()), "FLOWER_API_TOKEN": TOKEN}
    return Settings.load({f"LERN_{name}": value for name, value in given.items()})


@pytest.fixture
def flower(settings: Settings, tmp_path: Path) -> Iterator[Process]:
    more = {"FLOWER_BASIC_AUTH": "asha:secret"}
    with Process("flower", settings, tmp_path / "flower.log", more, "--address", "0.0.0.0", "--max-tasks=7") as process:  # noqa: S104
        yield process.ready("Flower is there")


def test_it_asks_who_is_there_lets_scripts_in_by_their_token_and_ends_with_its_redis(
    flower: Process, settings: Settings
) -> None:
    url = f"http://127.0.0.1:{settings.flower_port}"
    until(lambda: _answers(url))
    assert httpx.get(f"{url}/runs").status_code == 401
    assert httpx.get(f"{url}/runs", auth=("asha", "secret")).status_code == 200
    runs = f"{url}/api/lern/runs"
    assert httpx.get(runs).status_code == 401
    assert httpx.get(runs, headers={"Authorization": f"Bearer {TOKEN}x"}).status_code == 401
    answer = httpx.get(runs, headers={"Authorization": f"Bearer {TOKEN}"})
    assert (answer.status_code, answer.json()) == (200, [])
    assert flower.stop() == 0
    assert _processes_in(settings.data_dir) == []


def test_flower_is_not_taken_for_a_worker(flower: Process, settings: Settings, tmp_path: Path) -> None:
    # Flower waits for the workers' answers as they wait for messages.
    with EmbeddedRedis(settings.data_dir) as server, closing(redis.Redis.from_url(server.url)) as broker:
        until(lambda: "brpop" in {client["cmd"] for client in broker.client_list()})
        with Process("merge", settings, tmp_path / "merge.log", None, "p", "q") as merge:
            assert merge.wait(PATIENCE) == 0
            assert "no worker is running here" in merge.text
    assert flower.stop() == 0


def test_a_ledger_that_is_away_does_not_keep_flower_from_its_work(
    settings: Settings, redis_server: RedisServer, tmp_path: Path
) -> None:
    away = settings.model_copy(
        update={"broker_url": redis_server.url, "ledger_url": f"postgresql+psycopg://127.0.0.1:{free_port()}/lern"}
    )
    url = f"http://127.0.0.1:{settings.flower_port}"
    with (tmp_path / "flower.log").open("wb") as output, Child(command(), environ(away), output) as flower:
        until(lambda: answers(f"{url}/lern/process", flower.pid) or flower.exit_code is not None)
        runs = httpx.get(f"{url}/api/lern/runs", headers={"Authorization": f"Bearer {TOKEN}"}, timeout=30)
        assert (runs.status_code, "ledger" in runs.text) == (503, True)


def test_a_port_that_somebody_has_is_said_with_what_to_do(settings: Settings, tmp_path: Path) -> None:
    with socket.socket() as somebody:
        somebody.bind(("127.0.0.1", settings.flower_port))
        somebody.listen()
        with Process("flower", settings, tmp_path / "flower.log") as flower:
            assert flower.wait(PATIENCE) == 1
            assert f":{settings.flower_port} cannot be listened on" in flower.text
            assert "LERN_FLOWER_PORT" in flower.text


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--address", "0.0.0.0"), "FLOWER_BASIC_AUTH"),  # noqa: S104 - that it is refused is tested
        (("--basic_auht=asha:secret",), "no option of Flower's"),
        # Where the command was typed, there is this file and not that.
        (("--conf=open.py",), "FLOWER_BASIC_AUTH"),
        (("--conf=nowhere.py",), "nowhere.py"),
    ],
)
def test_what_would_be_open_or_without_effect_does_not_start(
    settings: Settings, tmp_path: Path, arguments: tuple[str, ...], said: str
) -> None:
    (tmp_path / "open.py").write_text("address = '0.0.0.0'\n")
    words = [sys.executable, "-m", "lern.cli", "flower", *arguments]
    done = subprocess.run(
        words, cwd=tmp_path, env=environ(settings), capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 2
    assert said in done.stderr
    assert _processes_in(settings.data_dir) == []


@pytest.mark.parametrize(
    ("variables", "options", "kept"),
    [
        ({}, (), 5_000),
        ({"FLOWER_MAX_TASKS": "7"}, (), 7),
        ({"FLOWER_MAX_TASKS": "7"}, ("--conf={}",), 8),
        ({"FLOWER_MAX_TASKS": "7"}, ("--conf={}", "--max_tasks=9"), 9),
    ],
    ids=["by itself", "variable", "file", "option"],
)
def test_flower_keeps_the_newest_tasks_as_many_as_it_is_told(
    settings: Settings, tmp_path: Path, variables: dict[str, str], options: tuple[str, ...], kept: int
) -> None:
    file = tmp_path / "flowerconfig.py"
    file.write_text("max_tasks = 8\n")
    words = [sys.executable, "-c", HEARD, *(option.format(file) for option in options)]
    # Nothing is asked of this Redis: Flower is made, and not started.
    told = {**environ(settings.model_copy(update={"broker_url": "redis://127.0.0.1:1/0"})), **variables}
    done = subprocess.run(words, cwd=ROOT, env=told, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == [str(kept), "True"]


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/healthcheck").is_success
    except httpx.TransportError:
        return False


def _processes_in(directory: Path) -> list[str]:
    """The processes that work in a data directory, or a directory of it."""
    return [
        process.name
        for process in Path("/proc").glob("[0-9]*")
        if str(directory) in _of(process, "cmdline") + _of(process, "environ") and _of(process, "cmdline")
    ]


def _of(process: Path, name: str) -> str:
    try:
        return (process / name).read_text(errors="replace")
    except OSError:
        return ""
