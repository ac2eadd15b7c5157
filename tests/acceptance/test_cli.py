"""The command line as people use it: real processes, the embedded default, a data directory for each test."""

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from lern.cli import sample
from tests.servers.redis import RedisServer

Json = dict[str, Any]

PATIENCE = 90.0
MERGE = "merge-user-courses-and-cert"


class Cli:
    """Calls `lern` in a directory of its own, in which nothing may be left running."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.data = directory / "data"
        self.started: list[subprocess.Popen[str]] = []

    def environment(self, **settings: str) -> dict[str, str]:
        plain = {k: v for k, v in os.environ.items() if not k.startswith("LERN_")}
        return {**plain, "LERN_DATA_DIR": str(self.data), "TMPDIR": str(self.directory), "TZ": "UTC", **settings}

    def start(self, *arguments: str, **settings: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "lern.cli", *arguments],
            env=self.environment(**settings),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.started.append(process)
        return process

    def __call__(
        self, *arguments: str, stdin: str | None = None, **settings: str
    ) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-m", "lern.cli", *arguments],
            env=self.environment(**settings),
            input=stdin or "",
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )

    def well(self, *arguments: str, stdin: str | None = None) -> str:
        done = self(*arguments, stdin=stdin)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def listed(self, *arguments: str) -> list[Json]:
        answer: list[Json] = json.loads(self.well(*arguments, "--json"))
        return answer

    def file(self, name: str, lines: Sequence[object]) -> str:
        path = self.directory / name
        path.write_text("".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines))
        return str(path)

    def rows(self, *arguments: str) -> list[Json]:
        return [json.loads(line) for line in self.well("rows", "dump", *arguments).splitlines()]

    def processes(self) -> list[str]:
        """Give the command lines of what still runs for this directory."""
        return [" ".join(found) for found in _running(str(self.directory))]


def _running(mark: str) -> Iterator[list[str]]:
    for process in Path("/proc").glob("[0-9]*"):
        try:
            traces = (process / "environ").read_bytes() + bytes((process / "cwd").readlink())
            command = (process / "cmdline").read_bytes()
        except OSError:
            continue
        # An ended process that its parent has not fetched has no command line any more.
        if command and mark.encode() in traces:
            yield command.decode(errors="replace").split("\0")


def ends_with_nothing(cli: Cli) -> None:
    """Hold that all of it ends; the system may take a moment to bury the dead."""
    deadline = time.monotonic() + PATIENCE
    while cli.processes() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert cli.processes() == []


@pytest.fixture
def cli(tmp_path: Path) -> Iterator[Cli]:
    cli = Cli(tmp_path)
    yield cli
    for process in cli.started:
        with process:
            process.terminate()
    ends_with_nothing(cli)


def event(source: str, target: str, mid: str, **more: object) -> Json:
    edata = {"action": MERGE, "fromAccountId": source, "toAccountId": target, **more}
    return {"eid": "BE_JOB_REQUEST", "ets": 1_645_422_883_853, "mid": mid, "edata": edata}


def seen(user: str, content: str, **columns: object) -> Json:
    return {
        "table": "user_content_consumption",
        "row": {"userid": user, "courseid": "c", "batchid": "b", "contentid": content, **columns},
    }


def no_traceback(done: "subprocess.CompletedProcess[str]") -> str:
    """Hold that an error is told in lines, and give them."""
    assert "Traceback" not in done.stderr + done.stdout
    return done.stderr


# --- the demo


def test_the_demo_shows_both_accounts_before_and_after_in_a_screen_and_a_half(cli: Cli) -> None:
    done = cli("demo", COLUMNS="100")
    assert done.returncode == 0, done.stderr
    assert re.search(r"old school, before.*state's portal, before", done.stdout)
    assert re.search(r"old school, after.*state's portal, after", done.stdout)
    assert re.search(r"Fractions +■■■■■ ✔ +quiz 8/10 in 3 tries", done.stdout), "the halves make a whole"
    assert "a certificate is asked for" in done.stdout
    assert "Fractions, autumn: created by Mr Rao → Ms Sen" in done.stdout
    assert "The water cycle, spring: mentored by Ms Das and Mr Rao → Ms Das and Ms Sen" in done.stdout
    for step in ("content", "enrolments", "aggregates", "assessments", "batch_enrolment_sync"):
        assert f"merge.{step}" in done.stdout
    lines = done.stdout.splitlines()
    assert len(lines) <= 36
    assert max(map(len, lines)) <= 100
    assert "\x1b" not in done.stdout, "no colours where no terminal reads"
    assert list(cli.directory.iterdir()) == [], "nothing stays"


def test_the_demo_touches_nothing_that_the_environment_names(cli: Cli) -> None:
    done = cli("demo", "--keep", str(cli.directory / "kept"), LERN_STORE_URL="cassandra://production/sunbird_courses")
    assert done.returncode == 0, done.stderr
    assert not cli.data.exists()
    kept = Cli(cli.directory)
    kept.data = cli.directory / "kept"
    assert [run["state"] for run in kept.listed("runs", "list")] == ["succeeded", "succeeded"]
    assert kept.rows("--user", sample.SOURCE) == []
    again = cli("demo", "--keep", str(kept.data))
    assert again.returncode == 2
    assert "there already" in no_traceback(again)


def test_the_demo_fits_a_narrow_terminal(cli: Cli) -> None:
    done = cli("demo", COLUMNS="60")
    assert done.returncode == 0, done.stderr
    assert max(map(len, done.stdout.splitlines())) <= 60


# --- process, and what can be looked at afterwards


def test_a_file_is_carried_out_looked_at_and_taken_back(cli: Cli) -> None:
    cli.well("rows", "load", "-", stdin=sample.ROWS.read_text())
    before = cli.rows()
    events = cli.file("events.jsonl", [sample.EVENTS.read_text().strip()])

    summary = cli.well("process", events)
    assert "1 event" in summary
    assert re.search(r"succeeded +1 run", summary)
    assert re.search(r"read 18 · copied \d+ · merged \d+ · deleted 18", summary)
    assert cli.rows("--user", sample.SOURCE) == []

    [run] = cli.listed("runs", "list", "--user", sample.TARGET, "--state", "succeeded", "--since", "1h")
    assert (run["workflow"], run["source"], run["target"]) == ("merge", sample.SOURCE, sample.TARGET)
    assert cli.listed("runs", "list", "--state", "failed") == []

    [detail] = cli.listed("runs", "show", run["id"])
    assert [step["state"] for step in detail["steps"]] == ["succeeded"] * 5
    assert detail["steps"][0]["result"]["read"] == 8
    assert json.loads(detail["event"])["edata"]["fromAccountId"] == sample.SOURCE
    page = cli.well("runs", "show", run["id"][:8])
    for step in detail["steps"]:
        assert step["name"] in page
    assert "read 8" in page

    again = cli("process", "-", stdin=sample.EVENTS.read_text())
    assert again.returncode == 0
    assert "1 of them seen before" in again.stdout

    refused = cli("runs", "retry", run["id"])
    assert refused.returncode == 1
    assert "succeeded" in no_traceback(refused)

    cli.well("runs", "undo", run["id"], "--wait")
    assert _sorted(cli.rows()) == _sorted(before)
    twice = cli("runs", "undo", run["id"])
    assert twice.returncode == 1
    assert "undone already" in no_traceback(twice)


def _sorted(lines: Sequence[Json]) -> list[str]:
    return sorted(json.dumps(line, sort_keys=True) for line in lines)


def test_what_cannot_be_a_run_is_a_dead_letter_and_the_rest_goes_on(cli: Cli) -> None:
    events = cli.file("events.jsonl", ["nonsense", event("x", "x", "m1"), event("x", "y", "m2")])
    done = cli("process", events)
    assert done.returncode == 1
    assert re.search(r"succeeded +1 run", done.stdout)
    assert re.search(r"dead letters +2 lines", done.stdout)
    assert "edata.toAccountId" in done.stdout

    letters = {letter["code"]: letter for letter in cli.listed("dead", "list")}
    assert letters.keys() == {"INVALID_JSON", "SAME_ACCOUNT"}
    assert letters["INVALID_JSON"]["value"] == "nonsense"
    # What the codes mean is in the documentation: so whoever looks at the list has to see them.
    assert all(code in cli.well("dead", "list") for code in letters)
    same = str(letters["SAME_ACCOUNT"]["id"])
    assert '"fromAccountId": "x"' in cli.well("dead", "show", same)

    unmended = cli("dead", "replay", same)
    assert unmended.returncode == 1
    assert re.search(r"refused again: edata.toAccountId.*--file", no_traceback(unmended))
    assert cli.listed("dead", "show", same)[0]["state"] == "open"

    run_id = cli.well("dead", "replay", same, "--file", cli.file("mended.json", [event("v", "w", "m1")])).strip()
    assert cli.listed("runs", "show", run_id)[0]["state"] == "succeeded"
    [letter] = cli.listed("dead", "show", same)
    assert (letter["state"], letter["run_id"]) == ("replayed", run_id)


def test_a_failed_run_says_why_and_is_retried_once_the_cause_is_mended(cli: Cli) -> None:
    cli.well("rows", "load", "-", stdin=json.dumps(seen("p", "x", status=2)))
    with closing(sqlite3.connect(cli.data / "learners.sqlite")) as store, store:
        store.execute("UPDATE user_content_consumption SET status = 'two'")
    done = cli("process", cli.file("events.jsonl", [event("p", "q", "m")]))
    assert done.returncode == 1
    assert re.search(r"failed +1 run", done.stdout)

    [run] = cli.listed("runs", "list", "--state", "failed")
    page = cli.well("runs", "show", run["id"])
    assert "column status" in page
    assert "lern runs retry" in page
    still = cli("runs", "retry", run["id"], "--wait")
    assert still.returncode == 1
    assert "column status" in no_traceback(still)

    with closing(sqlite3.connect(cli.data / "learners.sqlite")) as store, store:
        store.execute("UPDATE user_content_consumption SET status = 2")
    assert cli.well("runs", "retry", run["id"], "--wait").strip() == run["id"]
    [detail] = cli.listed("runs", "show", run["id"])
    assert (detail["state"], detail["generation"]) == ("succeeded", 3)
    assert [act["action"] for act in detail["audit"]] == ["retry", "retry"]
    assert [line["row"]["userid"] for line in cli.rows()] == ["q"]


def test_ctrl_c_leaves_nothing_behind(cli: Cli) -> None:
    endless = cli.directory / "events.fifo"
    os.mkfifo(endless)
    process = cli.start("process", str(endless))
    # Opening the other end waits for the bridge: from here on everything runs.
    with endless.open("w"):
        assert any("celery" in command for command in cli.processes())
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    assert "Traceback" not in errors
    ends_with_nothing(cli)


# --- worker, bridge, merge


def test_worker_bridge_and_merge_meet_in_one_data_directory(cli: Cli) -> None:
    worker = cli.start("worker", "--concurrency", "1", "--loglevel", "WARNING")
    try:
        merged = cli("merge", "p", "q", "--key", "once", "--wait")
        assert merged.returncode == 0, merged.stderr
        again = cli("merge", "p", "q", "--key", "once", "--wait")
        assert again.stdout == merged.stdout, "the same key is the same run"
        events = cli.file("events.jsonl", [event("r", "s", "m"), event("r", "s", "m")])
        assert cli.well("bridge", "--from", events) == "2 lines: 1 new run, 1 seen before\n"
        some = cli("bridge", "--from", cli.file("events.jsonl", ["nonsense", event("r", "r", "m")]))
        assert (some.returncode, some.stdout) == (1, "2 lines: 0 new runs, 2 dead letters (lern dead list)\n")
        assert len(cli.listed("runs", "list")) == 2
    finally:
        worker.send_signal(signal.SIGTERM)
        worker.communicate(timeout=PATIENCE)
    assert worker.returncode == 0
    ends_with_nothing(cli)


def test_with_a_broker_of_its_own_the_command_becomes_the_worker(cli: Cli, own_redis: RedisServer) -> None:
    settings = {"LERN_BROKER_URL": own_redis.url}
    worker = cli.start("worker", "--concurrency", "1", **settings)
    merged = cli("merge", "p", "q", "--wait", **settings)
    assert merged.returncode == 0, merged.stderr
    assert "celery" in Path(f"/proc/{worker.pid}/cmdline").read_text()
    worker.send_signal(signal.SIGTERM)
    worker.communicate(timeout=PATIENCE)
    assert worker.returncode == 0
    assert not (cli.data / "redis").exists()


def test_a_merge_without_a_worker_is_kept_for_the_next_one(cli: Cli) -> None:
    first = cli("merge", "p", "q")
    assert first.returncode == 0
    assert "no worker is running" in first.stderr
    second = cli("merge", "r", "s", "--wait")
    assert second.returncode == 0, second.stderr
    assert {run["id"] for run in cli.listed("runs", "list")} == {first.stdout.strip(), second.stdout.strip()}


def test_a_merge_that_was_refused_fails_and_says_why(cli: Cli) -> None:
    assert cli("merge", "p", "q", "--wait").returncode == 0
    refused = cli("merge", "q", "p", "--wait")
    assert refused.returncode == 1
    assert "circle" in no_traceback(refused)


# --- rows


def test_rows_are_loaded_only_if_all_of_them_can_be(cli: Cli) -> None:
    file = cli.file("rows.jsonl", [seen("u", "x"), seen("u", "y", status="two"), "{", seen("u", "z", statuss=2)])
    done = cli("rows", "load", file)
    assert done.returncode == 1
    told = no_traceback(done)
    assert "line 2, column status" in told
    assert "line 3" in told
    assert re.search(r"line 4, column statuss.*status", told)
    assert cli.rows() == []


def test_of_many_bad_rows_twenty_are_told(cli: Cli) -> None:
    done = cli("rows", "load", cli.file("rows.jsonl", ["{"] * 30))
    assert len(re.findall(r"line \d+:", done.stderr)) == 20
    assert "10 more" in done.stderr


def test_rows_come_out_as_they_went_in(cli: Cli) -> None:
    text = sample.ROWS.read_text()
    cli.well("rows", "load", "-", stdin=text)
    lines = [json.loads(line) for line in text.splitlines()]
    assert _sorted(cli.rows()) == _sorted([_with_sorted_members(line) for line in lines])
    copy = str(cli.directory / "copy.jsonl")
    cli.well("rows", "dump", "--output", copy)
    other = Cli(cli.directory)
    other.data = cli.directory / "other"
    other.well("rows", "load", copy)
    assert _sorted(other.rows()) == _sorted(cli.rows())


def _with_sorted_members(line: Json) -> Json:
    row = line["row"]
    return {**line, "row": {**row, "members": sorted(row["members"])}} if line["table"] == "relations" else line


def test_a_users_rows_are_found_in_every_table(cli: Cli) -> None:
    text = sample.ROWS.read_text()
    cli.well("rows", "load", "-", stdin=text)
    lines = [json.loads(line) for line in text.splitlines()]
    of_source = [line for line in lines if sample.SOURCE in {line["row"].get("userid"), line["row"].get("user_id")}]
    assert len({line["table"] for line in of_source}) == 4
    assert _sorted(cli.rows("--user", sample.SOURCE)) == _sorted(of_source)
    aggregates = cli.rows("--user", sample.SOURCE, "--table", "user_activity_agg")
    assert {line["table"] for line in aggregates} == {"user_activity_agg"}


@pytest.mark.parametrize("arguments", [[], ["--user", "u"]], ids=["everything", "of an account"])
def test_a_row_that_cannot_be_read_is_named_and_what_follows_is_dumped(cli: Cli, arguments: list[str]) -> None:
    rows = [seen("u", content, status=1) for content in "abc"]
    course = {"course_id": "c", "batch_id": "b", "content_id": "a"}
    rows += [
        {"table": "assessment_aggregator", "row": {"user_id": user, **course, "attempt_id": attempt}}
        for user in ("u", "other")
        for attempt in "xy"
    ]
    cli.well("rows", "load", cli.file("rows.jsonl", rows))
    _spoil(cli, "UPDATE user_content_consumption SET status = 'two' WHERE contentid = 'a'")
    _spoil(cli, """UPDATE assessment_aggregator SET question = '[{"scroe": 1}]' WHERE attempt_id = 'x'""")
    wanted = [row for row in rows if not arguments or "u" in row["row"].values()]

    copy = cli.directory / "copy.jsonl"
    done, to_file = cli("rows", "dump", *arguments), cli("rows", "dump", *arguments, "--output", str(copy))
    assert done.returncode == to_file.returncode == 1
    assert done.stdout == copy.read_text()
    dumped = [json.loads(line) for line in done.stdout.splitlines()]
    assert _sorted(dumped) == _sorted([row for row in wanted if row != rows[0] and row["row"].get("attempt_id") != "x"])

    told = no_traceback(done).splitlines()
    assert told[0].endswith("user_content_consumption ('u', 'c', 'b', 'a'), column status: 'two' is not of kind int")
    assert "assessment_aggregator ('u', 'c', 'b', 'a', 'x'), column question: a question has no field scroe" in str(
        told
    )
    left_out = len(wanted) - len(dumped)
    assert len(told) == left_out + 1
    assert told[-1].startswith(f"lern: {left_out} rows could not be read")


def _spoil(cli: Cli, statement: str) -> None:
    with closing(sqlite3.connect(cli.data / "learners.sqlite")) as database, database:
        database.execute(statement)


# --- migrate, doctor, and mistakes


def test_migrating_twice_is_migrating_once(cli: Cli) -> None:
    assert "created" in cli.well("migrate")
    assert "up to date" in cli.well("migrate")


def test_the_doctor_finds_the_embedded_default_well(cli: Cli) -> None:
    findings = cli.listed("doctor")
    assert {finding["level"] for finding in findings} <= {"ok", "warning"}
    assert {"ledger", "store", "broker", "clock", "disk space", "data directory"} <= {f["name"] for f in findings}


def test_the_doctor_says_what_to_do_about_a_server_that_is_away(cli: Cli) -> None:
    done = cli("doctor", LERN_BROKER_URL="redis://:secret@127.0.0.1:1/0")
    assert done.returncode == 1
    assert "LERN_BROKER_URL" in done.stdout
    assert "secret" not in done.stdout + done.stderr


def test_the_doctor_counts_a_server_that_is_away_once(cli: Cli) -> None:
    done = cli("doctor", "--json", LERN_RELATIONS_URL="redis://127.0.0.1:1/10")
    problems = [found["name"] for found in json.loads(done.stdout) if found["level"] == "problem"]
    assert problems == ["relations"]


@pytest.mark.parametrize(
    ("arguments", "settings", "code", "words"),
    [
        (["runs", "show", "nobody"], {}, 1, "no run nobody"),
        (["runs", "list", "--state", "happy"], {}, 2, "one of queued"),
        (["runs", "list", "--workflow", "transfer"], {}, 2, "one of merge, ownership"),
        (["runs", "list", "--since", "yesterday-ish"], {}, 2, "--since"),
        (["dead", "show", "7"], {}, 1, "no dead letter 7"),
        (["process", "missing.jsonl"], {}, 2, "is not there"),
        (["rows", "load", "missing.jsonl"], {}, 2, "is not there"),
        (["rows", "dump", "--table", "users"], {}, 2, "no table"),
        (["merge", "a", "a"], {}, 2, "TARGET"),
        (["merge", "a", " "], {}, 2, "TARGET"),
        (["merge", "a", "b", "--key", ""], {}, 2, "--key: blank"),
        (["runs", "list", "--limit", "9" * 21], {}, 2, "--limit"),
        (["dead", "show", "9" * 23], {}, 2, "ID"),
        (["merge", "a", "b"], {"LERN_DATA_DIR": __file__}, 2, "must be a directory"),
        (["runs", "list"], {"LERN_STROE_URL": "x"}, 2, "LERN_STORE_URL"),
        (["merge", "a", "b"], {"LERN_BROKER_URL": "redis://127.0.0.1:1/0"}, 1, "lern doctor"),
        (["runz"], {}, 2, "runs"),
    ],
)
def test_a_mistake_is_told_in_words(
    cli: Cli, arguments: list[str], settings: dict[str, str], code: int, words: str
) -> None:
    done = cli(*arguments, **settings)
    assert done.returncode == code
    assert words in no_traceback(done)


def test_damaged_files_are_named_with_what_to_do(cli: Cli) -> None:
    cli.data.mkdir()
    for name in ("ledger", "learners"):
        (cli.data / f"{name}.sqlite").write_bytes(b"no database" * 1000)
    done = cli("process", cli.file("events.jsonl", [event("p", "q", "m")]))
    assert done.returncode == 1
    assert re.search(r"ledger\.sqlite.*damaged.*put a copy of it back", no_traceback(done))
    seen_by_the_doctor = cli("doctor", "--json")
    assert seen_by_the_doctor.returncode == 1
    no_traceback(seen_by_the_doctor)
    problems = {found["name"]: found for found in json.loads(seen_by_the_doctor.stdout) if found["level"] == "problem"}
    assert problems.keys() == {"ledger", "store"}
    for problem in problems.values():
        assert "sqlite, the" in problem["detail"]
        assert "put a copy of it back" in problem["advice"]


@pytest.mark.parametrize("arguments", [("up",), ("up", "--detach"), ("worker",)])
def test_a_data_directory_that_cannot_be_written_to_is_named(cli: Cli, arguments: tuple[str, ...]) -> None:
    # What lies in the way is a file: from that not even root is exempt.
    directory = Path(cli.file("a-file", [])) / "data"
    done = cli(*arguments, LERN_DATA_DIR=str(directory))
    assert done.returncode == 2
    told = no_traceback(done)
    assert str(directory) in told
    assert "LERN_DATA_DIR" in told


# --- transfers


BATCHES = [
    {"courseid": "c1", "batchid": "b1", "name": "One", "createdby": "rao", "mentors": ["das"], "status": 1},
    {"courseid": "c2", "batchid": "b2", "name": "Two", "createdby": "das", "mentors": ["rao"], "status": 0},
    {"courseid": "c3", "batchid": "b3", "name": "Three", "createdby": "rao", "status": 2},
]


def test_a_transfer_is_looked_at_carried_out_and_checked(cli: Cli) -> None:
    cli.well("rows", "load", cli.file("rows.jsonl", [{"table": "course_batch", "row": row} for row in BATCHES]))
    before = cli.rows()
    planned = cli.well("transfer", "rao", "sen", "--org", "o", "--dry-run")
    assert re.search(r"b1 +c1 +One +1 +creator +das", planned)
    assert re.search(r"b2 +c2 +Two +0 +mentor +sen", planned)
    assert "b3" not in planned
    assert cli.rows() == before
    assert cli.listed("runs", "list") == []

    run_id = cli.well("transfer", "rao", "sen", "--org", "o", "--wait").strip()
    [run] = cli.listed("runs", "list")
    assert (run["id"], run["workflow"], run["state"]) == (run_id, "ownership", "succeeded")
    owned = {row["id"]: row for row in cli.listed("ownership", "check", "sen")}
    assert {name: row["database"] for name, row in owned.items()} == {"b1": ["creator"], "b2": ["mentor"]}
    assert all(row["agree"] for row in owned.values())
    assert [row["id"] for row in cli.listed("ownership", "check", "rao")] == ["b3"]

    assert f"lern runs undo {run_id[:8]}" in cli.well("runs", "show", run_id)
    cli.well("runs", "undo", run_id, "--wait")
    assert cli.rows() == before


@pytest.mark.parametrize(
    "arguments",
    [
        ("rao", "rao"),
        ("", "sen"),
        ("rao", "s" * 300),
        ("rao", "sen", "--org", ""),
        ("rao", "sen", "--key", " "),
    ],
)
def test_a_transfer_that_cannot_be_is_refused_at_once(cli: Cli, arguments: tuple[str, ...]) -> None:
    refused = cli("transfer", *arguments)
    assert refused.returncode == 2
    no_traceback(refused)
