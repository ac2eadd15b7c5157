"""The embedded stack, as it is started, watched and ended."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from lern import events
from lern.ledger import Ledger
from lern.urls import sqlite_url
from tests.acceptance.site import ROOT

PATIENCE = 90.0


class Stack:
    """`lern up` of one data directory."""

    def __init__(self, directory: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self.directory = directory
        self.environment = {**os.environ, "LERN_DATA_DIR": str(directory), "LERN_FLOWER_PORT": str(self.port)}

    def lern(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "lern.cli", *arguments]
        return subprocess.run(
            command, cwd=ROOT, env=self.environment, capture_output=True, text=True, timeout=120, check=False
        )

    def parts(self) -> dict[str, Any]:
        return {part["id"]: part for part in json.loads(self.lern("status", "--json").stdout)}

    def ledger(self) -> Ledger:
        return Ledger(sqlite_url(self.directory / "ledger.sqlite"))


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    made = Stack(tmp_path / "data")
    yield made
    made.lern("down")


def test_everything_comes_up_does_its_work_mends_itself_and_goes_down(stack: Stack, tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    assert stack.lern("status").returncode == 1
    up = stack.lern("up", "--detach", "--watch", str(file))
    assert up.returncode == 0, up.stderr
    assert httpx.get(f"http://127.0.0.1:{stack.port}/runs").status_code == 200
    assert stack.lern("status").returncode == 0
    again = stack.lern("up")
    assert (again.returncode, "runs already" in again.stderr) == (1, True)

    with file.open("ab") as lines:
        lines.write(events.to_bytes(events.merge_request("a", "b", 1, "first")) + b"\n")
    ledger = stack.ledger()
    until(lambda: [run.state for run in ledger.runs()] == ["succeeded"])

    before = stack.parts()
    os.kill(before["worker"]["pid"], signal.SIGKILL)
    until(lambda: stack.parts()["worker"]["restarts"] == 1 and stack.parts()["worker"]["state"] == "ready")
    with file.open("ab") as lines:
        lines.write(events.to_bytes(events.merge_request("c", "d", 1, "second")) + b"\n")
    until(lambda: [run.state for run in ledger.runs()] == ["succeeded"] * 2)
    ledger.close()

    assert stack.lern("down").returncode == 0
    assert stack.lern("status").returncode == 1
    # Nothing of it is left, the processes that its processes had started included.
    assert [number for number in _processes_of(stack.directory) if number != os.getpid()] == []
    assert stack.lern("down").returncode == 0


def test_a_part_that_cannot_work_ends_the_stack_with_its_error(stack: Stack) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", stack.port))
        taken.listen()
        up = stack.lern("up", "--detach")
    assert up.returncode == 1
    assert "flower has ended 5 times in a row" in up.stderr
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
