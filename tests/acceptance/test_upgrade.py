"""A new version goes on where an earlier one has died, and an old one works on beside a newer one's ledger."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Final

import pytest
import sqlalchemy as sa

from lern import undo
from lern.ledger.schema import HEAD, metadata
from lern.store.rows import RowLine, load_lines
from tasks.step import now_ms
from tests.acceptance.conftest import MakePlace
from tests.acceptance.leaving import SETTINGS, lines_of, read
from tests.acceptance.place import Place
from tests.accounts import RELATIONS, two_accounts
from tests.servers.redis import RedisServer

LEFT: Final = Path(__file__).parent / "left"
ENDED: Final = {"succeeded", "undone"}


@pytest.fixture(params=sorted(version.name for version in LEFT.iterdir()))
def version(request: pytest.FixtureRequest) -> str:
    """An earlier version, by the schema of its ledger."""
    return str(request.param)


@pytest.fixture
def left(version: str, tmp_path: Path, own_redis: RedisServer) -> Iterator[Place]:
    """What it has left, its ledger migrated."""
    directory = tmp_path / "data"
    directory.mkdir()
    with closing(sqlite3.connect(directory / "ledger.sqlite")) as connection:
        connection.executescript("\n".join(read(LEFT / version / "ledger.sql.gz")))
    with closing(Place.at(directory, own_redis.url, **SETTINGS)) as place:
        assert place.services.ledger.version() == version
        place.create()
        rows = [line for line in load_lines(read(LEFT / version / "rows.jsonl.gz")) if isinstance(line, RowLine)]
        place.load([(line.table, line.row) for line in rows], RELATIONS)
        yield place


def test_the_newest_version_has_left_something_to_its_successors() -> None:
    assert (LEFT / HEAD).is_dir(), f"python -m tests.acceptance.leaving {LEFT / HEAD}"


def test_what_an_earlier_version_has_journalled_is_carried_out_as_it_meant_it(left: Place, version: str) -> None:
    ledger = left.services.ledger
    unfinished = [run for run in ledger.runs(limit=1_000) if run.state not in ENDED]
    assert len(unfinished) >= 10
    for run in unfinished:
        assert left.carry_out(run.id).state == "succeeded", left.run(run.id)
    assert lines_of(left) == read(LEFT / version / "expected.jsonl.gz")
    assert ledger.undelivered() == []
    assert {run.state for run in ledger.runs(limit=1_000)} <= ENDED


def test_what_it_has_merged_can_be_taken_back(left: Place, make_place: MakePlace) -> None:
    ledger = left.services.ledger
    runs = ledger.runs(limit=1_000)
    [done] = [run for run in runs if run.source.startswith("from-merge") and run.state == "succeeded"]
    before = make_place()
    before.load(two_accounts(done.source, done.target))
    entered = undo.request(ledger, done.id, now_ms())
    assert left.carry_out(entered.run_id).state == "succeeded"
    assert [line for line in lines_of(left) if f'"{done.source}"' in line or f'"{done.target}"' in line] == (
        lines_of(before)
    )


def test_beside_a_ledger_that_a_later_version_has_added_to_this_one_works_on(make_place: MakePlace) -> None:
    """`lern migrate` of the next version runs while this one works; it may add columns, tables and indexes."""
    expected = make_place(**SETTINGS)
    expected.load(two_accounts("from", "to"), RELATIONS)
    expected.merge("from", "to")
    place = make_place(**SETTINGS)
    place.load(two_accounts("from", "to"), RELATIONS)
    run_id = place.enter("from", "to")
    place.step(run_id)
    with place.services.ledger._database.write() as connection:
        for table in metadata.sorted_tables:
            connection.execute(sa.text(f"ALTER TABLE {table.name} ADD COLUMN later TEXT"))
            connection.execute(sa.text(f"ALTER TABLE {table.name} ADD COLUMN later_count INTEGER NOT NULL DEFAULT 0"))
            connection.execute(sa.text(f"CREATE INDEX later_{table.name} ON {table.name} (later)"))
        connection.execute(sa.text("CREATE TABLE later (x TEXT)"))
    assert place.carry_out(run_id).state == "succeeded"
    assert place.tables() == expected.tables()
