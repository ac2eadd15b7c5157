"""Killed with SIGKILL at call 1, 2, 3 … of a piece of work, and carried on by others: it ends as if nothing had been.

All points, none left out. What counts as a call says `tests.acceptance.calls`; what happens after the death
says `tests.acceptance.dying`, where the work is done.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from lern.undo import request
from tasks.step import now_ms
from tests.acceptance.dying import Plan
from tests.acceptance.place import Place, message
from tests.accounts import RELATIONS, account, content, two_accounts
from tests.servers.redis import RedisServer
from workflows.intake import judge

ROOT = Path(__file__).parents[2]
SHARDS = min(os.cpu_count() or 1, 4)

End = dict[str, Any]


@dataclass
class Ends:
    """How everything stood after the undisturbed work, and after each death."""

    undisturbed: End
    calls: list[str]
    after: dict[int, End]

    def unlike(self, expected: End) -> dict[str, list[str]]:
        """What ended otherwise than expected: the difference, and the calls at which the process had died."""
        found: dict[str, list[str]] = {}
        for point, end in sorted(self.after.items()):
            for difference in _differences(expected, end):
                found.setdefault(difference, []).append(f"{point}: {self.calls[point - 1]}")
        return found


def all_of(calls: Sequence[str]) -> Sequence[int]:
    """The points at which there is a call."""
    return range(1, len(calls) + 1)


@dataclass
class Killing:
    """A prepared data directory, and a Redis for each of the programs that work on copies of it."""

    path: Path
    servers: Sequence[RedisServer]
    program: str = "tests.acceptance.dying"
    redis_forgets: bool = True
    # At which of the calls to die.
    points: Callable[[Sequence[str]], Sequence[int]] = all_of

    def prepare(self, **settings: str) -> Place:
        """Make the data directory; the test fills it and closes it."""
        return Place.at(self.path / "template", self.servers[0].url, **settings).create()

    def everywhere(self, place: Place, work: Sequence[str], runs: Sequence[str], *between: Sequence[str]) -> Ends:
        """Do some work undisturbed, then die at each of its calls."""
        place.close()
        for server in self.servers:
            at = Place.at(self.path / "template", server.url)
            at.load([], RELATIONS)
            at.close()
        calls = self._all([[]], place, work, runs, between)[0]["calls"]
        points = self.points(calls)
        told = self._all([points[shard::SHARDS] for shard in range(SHARDS)], place, work, runs, between)
        ends = {end.pop("point"): end for end in told}
        undisturbed = ends.pop(0)
        assert undisturbed.pop("calls") == calls, "the work does not make the same calls every time"
        assert list(points) == sorted(ends)
        return Ends(undisturbed, calls, ends)

    def _all(
        self,
        shards: Sequence[Sequence[int]],
        place: Place,
        work: Sequence[str],
        runs: Sequence[str],
        between: Sequence[Sequence[str]],
    ) -> list[dict[str, Any]]:
        """Let programs go through their points, all at once."""
        with ExitStack() as ends:
            programs = []
            for number, (points, server) in enumerate(zip(shards, self.servers, strict=False)):
                environ = {**place.settings.environ(), "LERN_BROKER_URL": server.url}
                plan = Plan(
                    str(self.path / "template"),
                    str(self.path),
                    work,
                    environ,
                    runs,
                    between,
                    list(points),
                    redis_forgets=self.redis_forgets,
                )
                program = subprocess.Popen(
                    [sys.executable, "-m", self.program, plan.write(self.path / f"plan-{number}.json")],
                    cwd=ROOT,
                    stdout=ends.enter_context((self.path / f"told-{number}").open("w+")),
                    stderr=ends.enter_context((self.path / f"said-{number}").open("w+")),
                )
                ends.callback(program.wait)
                ends.callback(program.kill)
                programs.append(program)
            for number, program in enumerate(programs):
                assert program.wait() == 0, (self.path / f"said-{number}").read_text()[-4000:]
        told = [self.path / f"told-{number}" for number in range(len(programs))]
        return [json.loads(line) for file in told for line in file.read_text().splitlines()]


@pytest.fixture
def killing(quick_path: Path) -> Iterator[Killing]:
    with ExitStack() as ends:
        servers = []
        for number in range(SHARDS):
            (home := quick_path / f"redis-{number}").mkdir()
            server = RedisServer(home)
            ends.callback(server.kill)
            server.start()
            server.vouch()
            servers.append(server)
        yield Killing(quick_path, servers)


def run_of(place: Place, source: str, target: str, mid: str) -> str:
    """The id that the run of an event gets."""
    return judge(message(source, target, mid), place.settings).id  # type: ignore[union-attr]  # a good event


@pytest.mark.parametrize(
    ("redis", "settings"),
    [
        ("forgets", {"merge_tables": "current,legacy"}),
        ("remembers", {"merge_enrolments": "ignore"}),
    ],
)
def test_a_merge_ends_as_if_undisturbed(killing: Killing, redis: str, settings: dict[str, str]) -> None:
    place = killing.prepare(chunk_rows="2", **settings)
    place.load(two_accounts("from", "to"))
    run = run_of(place, "from", "to", "m")
    killing.redis_forgets = redis == "forgets"
    ends = killing.everywhere(place, ["merge", "from", "to", "m"], [run])

    assert ends.undisturbed["runs"][run]["state"] == "succeeded"
    assert set(ends.undisturbed["left_over"].values()) == {0}
    assert {topic: len(events) for topic, events in ends.undisturbed["sent"].items()} == {
        "dev.coursebatch.job.request": 2,
        "dev.issue.certificate.request": 1,
        "dev.telemetry.raw": 1,
    }
    assert ends.unlike(ends.undisturbed) == {}


def test_an_undo_ends_with_the_rows_of_before(killing: Killing) -> None:
    """But for what came meanwhile: a late row at the source, and views at the target. Each is counted once."""
    place = killing.prepare(merge_tables="current,legacy", chunk_rows="2")
    place.load(two_accounts("from", "to"), RELATIONS)
    merge = place.merge("from", "to")
    place.load([content("from", "course-1", "b1", "c2", status=1, viewcount=5)])
    viewed = "UPDATE user_content_consumption SET viewcount = viewcount + ? WHERE userid = ? AND contentid = ?"
    place.sql(viewed, 2, "to", "c3")
    undo = request(place.services.ledger, merge, now_ms()).run_id
    ends = killing.everywhere(place, ["undo", merge], [merge, undo])

    expected = Place.at(killing.path / "expected", killing.servers[0].url).create()
    expected.load(two_accounts("from", "to"))
    expected.sql(viewed, 5, "from", "c2")
    expected.sql(viewed, 2, "to", "c3")
    before = expected.tables()
    expected.close()
    assert ends.undisturbed["tables"] == json.loads(json.dumps(before))
    assert ends.undisturbed["runs"][merge]["state"] == "undone"
    assert ends.undisturbed["runs"][undo]["state"] == "succeeded"
    assert ends.undisturbed["merged_into"] == {"from": "from", "to": "to"}
    assert ends.unlike(ends.undisturbed) == {}


def test_another_merge_into_the_same_account_comes_before_the_killed_one_is_tried_again(killing: Killing) -> None:
    """Nothing may be planned over the chunk that the dead has left unfinished.

    Rows would be lost, or, where the source's rows stay, be counted twice.
    """
    place = killing.prepare(merge_source_rows="keep", chunk_rows="2")
    for user in ("first", "second", "to"):
        place.load(account(user, ["course-1", user]))
    first, second = run_of(place, "first", "to", "m1"), run_of(place, "second", "to", "m2")
    ends = killing.everywhere(place, ["merge", "first", "to", "m1"], [first, second], ["merge", "second", "to", "m2"])

    place.merge("first", "to", "m1")
    place.merge("second", "to", "m2")
    expected = _without_order({"tables": place.tables()})
    found = Ends(ends.undisturbed, ends.calls, {point: _without_order(end) for point, end in ends.after.items()})
    assert found.unlike(expected) == {}
    assert {run["state"] for end in ends.after.values() for run in end["runs"].values()} == {"succeeded"}
    assert {number for end in ends.after.values() for number in end["left_over"].values()} == {0}


def _without_order(end: End) -> End:
    """Take maps as what they are: in what order their entries came in makes no difference."""
    rows = {name: [[_parsed(cell) for cell in row] for row in rows] for name, rows in end["tables"].items()}
    return {"tables": rows}


def _parsed(cell: object) -> object:
    return json.loads(cell) if isinstance(cell, str) and cell.startswith("{") else cell


def _differences(expected: Any, found: Any, path: str = "") -> Iterator[str]:
    """Name everything in which the found value differs from what was expected of it."""
    if isinstance(expected, dict) and isinstance(found, dict):
        for key in expected.keys() | (found.keys() if path else expected.keys()):
            yield from _differences(expected.get(key), found.get(key), f"{path}/{key}")
    elif isinstance(expected, list) and isinstance(found, list) and len(expected) == len(found):
        for place, (one, other) in enumerate(zip(expected, found, strict=True)):
            yield from _differences(one, other, f"{path}/{place}")
    elif expected != found:
        yield f"{path}: {found!r} instead of {expected!r}"
