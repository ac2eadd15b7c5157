"""A part's processes are known by the lock that they hold, and ended by it whatever became of who started them."""

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from lern.cli import part_lock
from lern.cli.part_lock import PartLock
from lern.cli.running_stack import RunningStack
from lern.errors import Refused
from tests.workers import until

# One that does not end when it is asked to, with a child that does not either.
STUBBORN = ("/bin/sh", "-c", 'trap "" TERM; sleep 600 & wait')


@pytest.fixture
def lock(tmp_path: Path) -> PartLock:
    return PartLock(tmp_path / "parts" / "worker.lock")


@pytest.fixture
def stubborn(lock: PartLock) -> Iterator["subprocess.Popen[bytes]"]:
    with lock.taken() as held:
        words = part_lock.command(STUBBORN, held)
        process = subprocess.Popen(words, start_new_session=True, pass_fds=[held])
    with process:
        until(lambda: Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text())
        yield process
        if lock.held:
            os.killpg(process.pid, signal.SIGKILL)


def test_who_does_not_end_is_killed_with_all_that_it_has_started(
    lock: PartLock, stubborn: "subprocess.Popen[bytes]"
) -> None:
    assert (lock.held, lock.group) == (True, stubborn.pid)
    lock.end(((signal.SIGTERM, 0.1), (signal.SIGKILL, 10.0)))
    assert not lock.held
    assert stubborn.wait() == -signal.SIGKILL


def test_children_without_their_parent_are_killed_at_once(lock: PartLock, stubborn: "subprocess.Popen[bytes]") -> None:
    stubborn.kill()
    stubborn.wait()
    assert lock.held
    lock.end(((signal.SIGTERM, 10.0),))
    assert not lock.held


def test_a_part_is_not_started_beside_what_is_left_of_it(
    lock: PartLock, stubborn: "subprocess.Popen[bytes]", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(part_lock, "PATIENCE", 0.0)
    with pytest.raises(Refused, match=f"worker runs already, in the process group {stubborn.pid}"), lock.taken():
        pass


def test_the_number_of_an_earlier_process_is_nobodys(lock: PartLock) -> None:
    with lock.taken() as held:
        os.pwrite(held, b"1", 0)
    with lock.taken():
        assert (lock.held, lock.group) == (True, None)
        with pytest.raises(Refused, match="cannot be ended"):
            lock.end(((signal.SIGKILL, 0.0),))


def test_a_stack_begins_when_what_another_has_left_is_ended(tmp_path: Path) -> None:
    stack = RunningStack(tmp_path)
    with stack.part("worker").taken() as held:
        words = part_lock.command(("/bin/sleep", "600"), held)
        process = subprocess.Popen(words, start_new_session=True, pass_fds=[held])
    with process:
        until(lambda: stack.part("worker").group == process.pid)
        assert [part.name for part in stack.left] == ["worker"]
        with stack.owned() as ended:
            assert (ended, process.wait()) == (["worker"], -signal.SIGTERM)
    assert stack.left == []
