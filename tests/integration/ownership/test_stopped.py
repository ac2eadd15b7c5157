"""A worker that is to stop gives a transfer back at once, wherever it is; another does the rest."""

from collections.abc import Iterator
from typing import Any

import pytest

from lern.ownership import Follower
from lern.stopping import STOP
from lern.store import sql
from tasks.step import Aside
from tests.batches import OTHER, TARGET, World, batch, transfer_event
from tests.integration.ownership.conftest import MakeWorld


@pytest.fixture
def world(make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """Ten batches of the source's and ten of somebody else's, gone through two at a time."""
    monkeypatch.setattr(sql, "_PAGE", 2)
    made = make_world(CHUNK_ROWS="2")
    made.load([batch(number, createdby=OTHER) for number in range(10)])
    made.load([batch(number) for number in range(10, 20)])
    yield made
    STOP.clear()


def gives_back(world: World, run_id: str) -> None:
    outcome = world.place.step(run_id)
    assert isinstance(outcome, Aside)
    run = world.place.run(run_id)
    assert (run.state, run.reason, run.attempts) == ("waiting", "STOPPING", 0)
    STOP.clear()


def the_rest_is_done(world: World, run_id: str) -> None:
    assert world.place.carry_out(run_id).state == "succeeded"
    assert sum(row["createdby"] == TARGET for row in world.rows().values()) == 10


def test_while_it_looks_for_batches(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    store: Any = world.services.store
    parts, read = store.parts, []

    def one_after_the_other(*arguments: Any) -> Iterator[Any]:
        for part in parts(*arguments):
            STOP.set()
            read.append(part)
            yield part

    monkeypatch.setattr(store, "parts", one_after_the_other)
    run_id = world.enter(transfer_event())
    gives_back(world, run_id)
    assert len(read) == 1
    monkeypatch.setattr(store, "parts", parts)
    the_rest_is_done(world, run_id)


@pytest.mark.parametrize("chunks", [1, 7])
def test_while_the_documents_follow_and_while_all_is_read_once_more(
    world: World, monkeypatch: pytest.MonkeyPatch, chunks: int
) -> None:
    follow, followed = Follower.follow, []

    def counted(self: Follower, *arguments: Any) -> Any:
        followed.append(arguments)
        if len(followed) == chunks:
            STOP.set()
        return follow(self, *arguments)

    run_id = world.enter(transfer_event())
    world.place.step(run_id)
    monkeypatch.setattr(Follower, "follow", counted)
    gives_back(world, run_id)
    assert len(followed) == chunks
    the_rest_is_done(world, run_id)
