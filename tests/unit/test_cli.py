"""What the command line says and how it is read; the commands themselves are in tests/acceptance/test_cli.py."""

import json
import re
import subprocess
import sys
from datetime import UTC, datetime

import pytest
import typer

import workflows
from lern import late, phrases, undo, verification
from lern.cli import console, dead, runs
from lern.cli.commands import COMMANDS, loaded
from lern.cli.options import moment_of
from lern.cli.problems import FAILED, WRONG, WrongUse, told
from lern.errors import Unreachable
from lern.ledger import Step
from lern.store.sql import SqlStore

NOON = datetime(2024, 5, 1, 12, tzinfo=UTC)


def test_help_imports_no_driver() -> None:
    code = "import sys; from lern.cli import app; app(['--help'], standalone_mode=False); print(*sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    loaded_modules = set(out.splitlines()[-1].split())
    assert not {"celery", "redis", "sqlalchemy", "pydantic", "structlog", "kombu"} & loaded_modules
    assert {f"lern.cli.{name}" for name in COMMANDS} & loaded_modules == set()
    for name in COMMANDS:
        assert f" {name} " in out


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_of_the_table_is_there(name: str) -> None:
    command = loaded(name)
    assert command.name == name
    assert command.help
    assert not {param.name for param in command.params} & {"install_completion", "show_completion"}
    for one in (command, *getattr(command, "commands", {}).values()):
        assert "\n" not in one.help.replace("\n\n", "")


def test_runs_can_be_listed_by_every_workflow() -> None:
    own = {undo.WORKFLOW, late.WORKFLOW, verification.WORKFLOW}
    assert set(runs.WORKFLOWS) == own | workflows.WORKFLOWS.keys()


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("30m", datetime(2024, 5, 1, 11, 30, tzinfo=UTC)),
        ("2h", datetime(2024, 5, 1, 10, tzinfo=UTC)),
        ("7d", datetime(2024, 4, 24, 12, tzinfo=UTC)),
        ("2024-04-01T06:00:00+02:00", datetime(2024, 4, 1, 4, tzinfo=UTC)),
        ("2024-04-01T06:00:00Z", datetime(2024, 4, 1, 6, tzinfo=UTC)),
    ],
)
def test_times_are_read_as_people_write_them(value: str, expected: datetime) -> None:
    assert moment_of(value, "--since", NOON) == expected.timestamp() * 1000


@pytest.mark.parametrize("value", ["", "soon", "-2h", "2024-13-01", "7 years"])
def test_a_time_that_is_none_is_refused_with_examples(value: str) -> None:
    with pytest.raises(WrongUse, match=r"--since .*2h, 7d, 2024-05-01"):
        moment_of(value, "--since", NOON)


@pytest.mark.parametrize(
    ("ms", "words"),
    [
        (None, ""),
        (7, "7 ms"),
        (1_540, "1.5 s"),
        (61_000, "1 min 01 s"),
        (3_660_000, "1 h 01 min"),
        (97_200_000, "1 d 3 h"),
    ],
)
def test_durations_are_readable(ms: int | None, words: str) -> None:
    assert phrases.span(ms) == words


def test_a_time_beyond_every_calendar_is_shown_as_it_is() -> None:
    assert console.moment(2**62) == f"{2**62} ms"


def test_an_event_cannot_steer_the_terminal() -> None:
    assert console.text("a\x1b[2Jb[bold]").plain == r"a\x1b[2Jb[bold]"


@pytest.mark.parametrize("character", ["\x1b", "\x9b", "\u202e", "\ud800", "\U000e0041"])
def test_an_event_in_json_cannot_steer_the_terminal_either(character: str) -> None:
    """Nor stop it from being shown: half of a surrogate pair is no text that a terminal takes."""
    event = {"fromAccountId": f"Äsha{character}"}
    shown = dead.pretty(json.dumps(event).encode())
    assert shown.replace("\n", "").isprintable()
    assert "Äsha" in shown
    assert json.loads(shown) == event


def test_an_event_that_is_nested_too_deep_to_be_read_is_shown_as_it_is() -> None:
    assert dead.pretty(b"[" * 100_000) == "[" * 100_000


def test_json_is_one_array_with_bytes_as_text(capsys: pytest.CaptureFixture[str]) -> None:
    console.print_json([{"id": 1, "value": b'{"a":1}', "key": b"\xff"}])
    assert json.loads(capsys.readouterr().out) == [{"id": 1, "value": '{"a":1}', "key": {"base64": "/w=="}}]


def test_row_counts_leave_out_what_is_none() -> None:
    assert phrases.counts({"read": 1_200, "copied": 0, "deleted": 1, "warnings": ["w"]}) == "read 1,200 · deleted 1"
    assert phrases.counts({"read": 0}) == "nothing to do"
    assert phrases.counts(None) == ""


def test_tries_count_every_execution_of_a_step() -> None:
    step = Step("merge.content", 0, "succeeded", 2, 1, None, 1, 2, None, None, None, {})
    assert step.tries == 4


def test_a_database_that_is_away_is_told_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit) as ended, told():
        SqlStore("postgresql://127.0.0.1:1/lern").check()
    assert ended.value.exit_code == FAILED
    told_lines = capsys.readouterr().err.splitlines()
    assert len(told_lines) == 1
    assert re.search(r"\w[.?] `lern doctor`", told_lines[0])


@pytest.mark.parametrize(
    ("problem", "end"), [("gone", "gone. `lern"), ("gone.", "gone. `lern"), ("is it running?", "running? `lern")]
)
def test_a_sentence_ends_once(capsys: pytest.CaptureFixture[str], problem: str, end: str) -> None:
    with pytest.raises(typer.Exit), told():
        raise Unreachable("ledger", problem)
    assert end in capsys.readouterr().err


def test_what_is_typed_and_is_no_text_is_told_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """As Python hands on what the shell gives it and is not UTF-8."""
    typed = b"a\xffb".decode("utf-8", "surrogateescape")
    with pytest.raises(typer.Exit) as ended, told():
        typed.encode()
    assert ended.value.exit_code == WRONG
    assert capsys.readouterr().err == "lern: '\\udcff' is no text: UTF-8 was expected\n"
