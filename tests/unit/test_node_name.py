"""What workers are called: no two the same, and a successor as the one before it."""

import os
import subprocess
import sys
from pathlib import Path

from lern.cli.children import celery_worker
from lern.cli.node_name import node_name
from lern.settings import Settings


def test_no_two_workers_have_one_name_and_a_successor_has_its_predecessor_s(tmp_path: Path) -> None:
    with node_name(tmp_path) as first:
        with node_name(tmp_path) as second:
            assert first.text != second.text
        with node_name(tmp_path) as successor:
            assert successor.text == second.text
        with node_name(tmp_path / "elsewhere") as other:
            assert other.text not in {first.text, second.text}


def test_a_name_is_held_by_the_processes_that_inherit_it_until_the_last_has_ended(tmp_path: Path) -> None:
    with node_name(tmp_path) as mine:
        command = [sys.executable, "-c", "input()"]
        child = subprocess.Popen(command, stdin=subprocess.PIPE, pass_fds=(mine.descriptor,))
    with child, node_name(tmp_path) as meanwhile:
        assert meanwhile.text != mine.text
        child.kill()
        child.wait()
        with node_name(tmp_path) as after:
            assert after.text == mine.text


def test_a_worker_that_may_not_write_its_data_directory_has_a_name_as_well(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with node_name(tmp_path / "file" / "data") as name:
        assert f"-{os.getpid()}@" in name.text


def test_celery_is_given_the_name(tmp_path: Path) -> None:
    with node_name(tmp_path) as name:
        command = celery_worker(Settings.load({}), name)
        assert command[command.index("--hostname") + 1] == name.text
        assert name.text.endswith("@%h")
