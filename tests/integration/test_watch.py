"""A watched file: every line that is added becomes a run, once, however the file is moved, cut and written anew."""

import itertools
import os
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lern import events
from lern.errors import Unreachable
from tests.acceptance.place import EVENT_TIME, Place
from tests.bridges import run_of
from tests.servers.redis import RedisServer
from workflows import watch as watching
from workflows.watch import Watch


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, redis_server: RedisServer) -> Iterator[Place]:
    made = Place.at(tmp_path_factory.mktemp("watch"), redis_server.url, queue="watched").create()
    with closing(made):
        yield made


NUMBERS = itertools.count()


def line() -> bytes:
    """An event that nobody has had before, as a line."""
    number = next(NUMBERS)
    return events.to_bytes(events.merge_request(f"s{number}", f"t{number}", EVENT_TIME, f"m{number}")) + b"\n"


class File:
    """A file that is watched, and what was written to it."""

    def __init__(self, place: Place, path: Path) -> None:
        self.place = place
        self.path = path
        self.written: list[bytes] = []
        self.before = place.services.ledger.counts()
        self.watch = Watch(place.services, path, None)

    def add(self, *lines: bytes) -> None:
        with self.path.open("ab") as file:
            file.writelines(lines)
        self.written += lines

    def restart(self) -> None:
        """Have another watch go on, as after a kill."""
        self.watch.close()
        self.watch = Watch(self.place.services, self.path, None)

    def look(self) -> int:
        """Look until there is nothing new; gives the number of lines."""
        return sum(iter(self.watch.look, 0))

    def moved(self, name: str) -> Path:
        return self.path.rename(self.path.with_name(name))

    def holds(self) -> None:
        """Hold that every line is a run, and nothing else is a run or a dead letter."""
        runs = [run_of(value.strip()) for value in self.written]
        assert [run for run in runs if self.place.services.ledger.peek(run) is None] == []
        entered = sum(self.place.services.ledger.counts().values()) - sum(self.before.values())
        assert entered == len(set(runs))


@pytest.fixture
def file(place: Place, tmp_path: Path) -> Iterator[File]:
    made = File(place, tmp_path / "events.jsonl")
    yield made
    made.watch.close()
    assert place.services.ledger.dead_letters() == []


def test_lines_that_are_added_become_runs_and_half_a_line_waits_for_its_end(file: File) -> None:
    assert file.look() == 0
    file.add(line(), line())
    assert file.look() == 2
    whole = line()
    file.add(whole[:40])
    assert file.look() == 0
    with file.path.open("ab") as rest:
        rest.write(whole[40:])
    file.written[-1:] = [whole]
    assert file.look() == 1
    file.holds()


def test_a_file_that_is_moved_away_is_read_to_its_end_before_its_successor(file: File) -> None:
    file.add(line())
    file.look()
    file.add(line())
    moved = file.moved("events.jsonl.1")
    # Whoever writes has it open for a while still.
    late = line()
    with moved.open("ab") as old:
        old.write(late)
    file.written.append(late)
    assert file.look() == 2
    file.add(line(), line())
    assert file.look() == 2
    file.moved("events.jsonl.2")
    file.add(line())
    assert file.look() == 1
    file.holds()


def test_a_last_line_without_its_end_counts_when_another_file_has_come(file: File) -> None:
    file.add(line(), line().rstrip(b"\n"))
    assert file.look() == 1
    file.moved("events.jsonl.1")
    assert file.look() == 0
    file.add(line())
    assert file.look() == 2
    file.holds()


def test_a_file_that_is_deleted_is_read_to_its_end(file: File) -> None:
    file.add(line())
    file.look()
    file.add(line())
    file.path.unlink()
    file.add(line())
    assert file.look() == 2
    file.holds()


def test_what_was_moved_away_while_nobody_watched_is_found_where_it_lies(file: File) -> None:
    file.add(line())
    file.look()
    file.add(line())
    file.moved("of-yesterday")
    file.add(line())
    file.restart()
    assert file.look() == 2
    file.restart()
    assert file.look() == 0
    file.holds()


def test_what_was_moved_away_and_is_deleted_while_it_is_looked_for_stops_no_watch(
    file: File, monkeypatch: pytest.MonkeyPatch
) -> None:
    file.add(line())
    file.look()
    moved = file.moved("events.jsonl.1")
    file.add(line())
    file.restart()
    listed = os.scandir

    def deleted_once_listed(directory: Path) -> list[os.DirEntry[str]]:
        entries = list(listed(directory))
        moved.unlink()
        return entries

    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(os, "scandir", deleted_once_listed)
        assert file.look() == 1
    file.holds()


def test_a_file_that_is_cut_and_then_moved_away_is_found_where_it_lies(file: File) -> None:
    file.add(line())
    file.look()
    with file.path.open("r+b") as cut:
        cut.truncate()
    assert file.look() == 0
    file.add(line())
    file.moved("events.jsonl.1")
    file.add(line())
    file.restart()
    assert file.look() == 2
    file.holds()


@pytest.mark.parametrize("lines", [1, 2, 3, 7])
@pytest.mark.parametrize("watched", [True, False], ids=["watched", "unwatched"])
def test_a_file_that_is_cut_and_written_anew_is_read_from_its_first_line(
    file: File, lines: int, *, watched: bool
) -> None:
    file.add(line(), line(), line())
    file.look()
    with file.path.open("r+b") as cut:
        cut.truncate()
    if watched:
        assert file.look() == 0
    else:
        file.restart()
    file.add(*(line() for _ in range(lines)))
    assert file.look() == lines
    file.holds()


def test_who_was_killed_before_the_place_was_saved_takes_no_line_in_twice(
    file: File, monkeypatch: pytest.MonkeyPatch
) -> None:
    file.add(line(), line())

    def killed(*_: object) -> None:
        raise SystemExit

    with monkeypatch.context() as until:
        until.setattr(Watch, "_save", killed)
        with pytest.raises(SystemExit):
            file.look()
    file.restart()
    assert file.look() == 2
    file.holds()


def test_a_broker_that_is_away_is_waited_for(own_redis: RedisServer, tmp_path: Path) -> None:
    with closing(Place.at(tmp_path / "data", own_redis.url).create()) as here:
        file = File(here, tmp_path / "events.jsonl")
        file.add(line(), line())
        own_redis.kill()
        with pytest.raises(Unreachable):
            file.look()
        own_redis.start()
        assert file.look() == 2
        file.holds()
        assert here.services.broker.llen(here.settings.queue) == 2
        file.watch.close()


def test_a_line_longer_than_what_is_read_at_once_is_one_line(file: File, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "AT_ONCE", 7)
    file.add(line(), line())
    assert file.look() == 2
    file.holds()


ACTS = st.lists(st.sampled_from(["add", "add", "add many", "look", "move", "delete", "cut", "restart"]), max_size=14)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(acts=ACTS)
def test_whatever_happens_to_the_file_nothing_is_lost_and_nothing_doubled(place: Place, acts: list[str]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        file = File(place, Path(directory) / "events.jsonl")
        names = (f"events.jsonl.{number}" for number in itertools.count(1))
        for act in acts:
            match act:
                case "add":
                    file.add(line())
                case "add many":
                    file.add(*(line() for _ in range(5)))
                case "look":
                    file.watch.look()
                case "move" if file.path.exists():
                    # Of what came and was moved away again between two looks nobody can know.
                    file.look()
                    file.add(line())
                    file.moved(next(names))
                case "delete" if file.path.exists():
                    file.look()
                    file.path.unlink()
                case "cut" if file.path.exists():
                    file.look()
                    with file.path.open("r+b") as cut:
                        cut.truncate()
                case "restart":
                    file.restart()
        file.look()
        file.watch.close()
        file.holds()
