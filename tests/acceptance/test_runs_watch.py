"""`lern runs watch` on a terminal: what a reader sees while runs come, go on and end."""

import subprocess
import sys

import pytest

from lern.cli.children import ROOT, environ
from tests.acceptance.place import Place
from tests.terminal import CTRL_C, Terminal
from tests.workers import until

COMMAND = [sys.executable, "-m", "lern.cli", "runs", "watch", "--every", "0.2"]


def test_runs_are_followed_until_ctrl_c_and_the_terminal_is_given_back(place: Place) -> None:
    first = place.enter("asha-school", "asha-state", "first")
    with Terminal(COMMAND, environ(place.settings)) as terminal:
        terminal.shows("queued 1", first[:8], "asha-school → asha-state")
        second = place.enter("ravi-school", "ravi-state", "second")
        terminal.shows("queued 2", second[:8])
        place.carry_out(first)
        terminal.shows("queued 1", "succeeded 1")
        place.services.ledger.begin(second, place.run(second).steps[0], 1, "token", 1, 5)
        terminal.shows("running 1", "succeeded 1")
        place.services.ledger.fail(second, place.run(second).steps[0], 1, "token", 2, "BAD_ROW", "a \x1b[2Jrow", None)
        # What people have put into rows does not steer the reader's terminal.
        terminal.shows("failed 1", r"a \x1b[2Jrow")
        terminal.press(CTRL_C)
        assert terminal.process.wait(60) == 130
        until(lambda: b"\x1b[?1049l" in terminal.written and b"\x1b[?25h" in terminal.written)


def test_where_no_terminal_reads_pages_follow_each_other_and_it_ends_when_all_is_done(place: Place) -> None:
    run_id = place.enter("source", "target")
    command = [*COMMAND, "--until-idle"]
    with subprocess.Popen(command, cwd=ROOT, env=environ(place.settings), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline().strip() == "queued 1"
        place.carry_out(run_id)
        rest = process.stdout.read()
    assert process.returncode == 0
    assert "succeeded 1" in rest
    assert "\x1b" not in rest


@pytest.mark.parametrize("every", ["0", "-1", "soon"])
def test_a_pace_that_cannot_be_is_refused(place: Place, every: str) -> None:
    command = [*COMMAND, "--every", every]
    done = subprocess.run(command, cwd=ROOT, env=environ(place.settings), capture_output=True, text=True, check=False)
    assert done.returncode == 2
