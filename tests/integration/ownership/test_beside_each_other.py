"""Transfers beside each other, beside merges and beside their own undo: the outcome is that of one after the other."""

import pytest

import tasks.undo  # noqa: F401 - the step that an undo consists of
from lern import undo
from lern.ledger import Run
from tasks.step import Aside, now_ms
from tests.batches import ORG, OTHER, SOURCE, TARGET, World, batch, document, key_of, transfer_event
from tests.integration.ownership.beside import beside
from tests.integration.ownership.conftest import MakeWorld
from tests.servers.server import Server
from tests.servers.sunbird import BLOCKED, sunbird, user

SEARCH = "ownership.search"
LEFT = "batches that a later transfer has moved, left where they are: Batch-00001"


class Broken(RuntimeError):
    """Nobody foresaw this."""


def fail() -> None:
    raise Broken


def taken_back(world: World, run: Run) -> Run:
    """Undo a run as far as that goes."""
    return world.place.carry_out(undo.request(world.services.ledger, run.id, now_ms()).run_id)


def test_a_transfer_and_its_reverse_between_its_steps_are_no_swap(make_world: MakeWorld) -> None:
    world = make_world()
    rows = [batch(1), batch(2, createdby=TARGET)]
    world.load(rows)
    there, back = world.enter(transfer_event(key="1")), world.enter(transfer_event(TARGET, SOURCE, key="2"))
    world.place.step(there)
    assert world.place.carry_out(back).state == "succeeded"
    run = world.place.carry_out(there)
    assert (run.state, run.warnings) == ("succeeded", (LEFT,))
    assert [world.row(row)["createdby"] for row in rows] == [SOURCE, SOURCE]


@pytest.mark.parametrize("failed", [True, False])
def test_what_a_later_transfer_gave_back_is_not_taken_again_by_a_retry(make_world: MakeWorld, failed: bool) -> None:
    world = make_world(MAX_ATTEMPTS="1")
    world.load([batch(1)])
    run_id = world.enter(transfer_event())
    world.place.step(run_id)
    if failed:
        beside(world, "store", "read", fail)
    assert world.place.carry_out(run_id).state == ("failed" if failed else "succeeded")
    world.succeed(source=TARGET, target=SOURCE, key="back")
    world.services.ledger.retry(run_id, now_ms(), "admin", SEARCH)
    run = world.place.carry_out(run_id)
    assert (run.state, run.warnings) == ("succeeded", (LEFT,))
    assert world.row(batch(1))["createdby"] == SOURCE


def test_an_undo_that_is_tried_again_leaves_what_a_later_transfer_has_moved(make_world: MakeWorld) -> None:
    world = make_world(MAX_ATTEMPTS="1")
    world.load([batch(1)])
    run = world.succeed()
    beside(world, "store", "read", fail)
    undoing = taken_back(world, run)
    assert undoing.state == "failed"
    world.succeed(key="again")
    world.services.ledger.retry(undoing.id, now_ms(), "admin")
    undoing = world.place.carry_out(undoing.id)
    assert (undoing.state, LEFT in undoing.warnings) == ("succeeded", True)
    assert world.row(batch(1))["createdby"] == TARGET


def unfinished(world: World) -> str:
    """Begin a transfer that leaves its first chunk in the middle; returns the run's id."""
    beside(world, "store", "compare_and_set", int, fail)
    run_id = world.enter(transfer_event())
    world.place.step(run_id)
    assert len(world.services.ledger.open_chunks([SOURCE])) == 1
    return run_id


def test_a_merge_neither_waits_for_an_unfinished_transfer_nor_carries_it_out(make_world: MakeWorld) -> None:
    world = make_world(OWNERSHIP_WRITE_SIZE="1")
    rows = [batch(1), batch(2)]
    world.load(rows)
    run_id = unfinished(world)
    world.place.merge("Learner", TARGET)
    assert {world.row(row)["createdby"] for row in rows} == {SOURCE, TARGET}
    assert world.place.carry_out(run_id).state == "succeeded"
    assert {world.row(row)["createdby"] for row in rows} == {TARGET}


def test_a_transfer_does_carry_out_another_that_is_unfinished(make_world: MakeWorld) -> None:
    world = make_world(OWNERSHIP_WRITE_SIZE="1")
    rows = [batch(1), batch(2)]
    world.load(rows)
    unfinished(world)
    world.succeed(source=TARGET, target="Third", key="2")
    assert {world.row(row)["createdby"] for row in rows} == {"Third"}


def test_an_unfinished_transfer_is_taken_back_without_being_carried_out(make_world: MakeWorld) -> None:
    world = make_world(OWNERSHIP_WRITE_SIZE="1", MAX_ATTEMPTS="1")
    rows = [batch(1), batch(2)]
    world.load(rows)
    run = world.place.run(unfinished(world))
    assert run.state == "failed"
    beside(world, "store", "compare_and_set", fail)
    assert taken_back(world, run).state == "succeeded"
    assert world.rows() == {key_of(row): row for row in rows}
    assert world.services.ledger.open_chunks([SOURCE]) == []


def test_a_transfer_under_way_is_seen_through_though_the_target_is_blocked_meanwhile(
    make_world: MakeWorld, elasticsearch: Server
) -> None:
    replies = {SOURCE: BLOCKED, TARGET: user(TARGET, rootOrgId=ORG)}
    with sunbird(lambda path, _: replies[path.rpartition("/")[2]]) as service:
        world = make_world(USERORG_URL=service.url, SEARCH_URL=elasticsearch.address, OWNERSHIP_WRITE_SIZE="1")
        rows = [batch(number) for number in range(4)]
        world.load(rows)
        beside(world, "store", "compare_and_set", int, fail)
        run_id = world.enter(transfer_event())
        assert isinstance(world.place.step(run_id), Aside)
        replies[TARGET] = BLOCKED
        assert world.place.carry_out(run_id).state == "succeeded"
    assert {world.row(row)["createdby"] for row in rows} == {TARGET}
    world.agree(rows)


# --- an undo beside a live lms-service


@pytest.fixture
def searched(make_world: MakeWorld, elasticsearch: Server) -> World:
    """An empty world with Elasticsearch."""
    return make_world(SEARCH_URL=elasticsearch.address)


def test_an_undo_mends_a_document_that_is_put_back_from_a_stale_read(searched: World) -> None:
    world = searched
    world.load([batch(1)])
    run = world.succeed()
    stale = document(world.row(batch(1)))
    beside(world, "search", "update", lambda: world.search.insert([stale]), after=True)
    assert taken_back(world, run).state == "succeeded"
    assert world.document(batch(1)).fields["createdBy"] == SOURCE


def test_an_undo_mends_a_batch_that_is_put_back_from_a_stale_read(searched: World) -> None:
    world = searched
    row = batch(1, mentors=[SOURCE])
    world.load([row])
    run = world.succeed()
    stale = world.row(row)
    beside(world, "search", "read", lambda: world.load([stale]))
    undoing = taken_back(world, run)
    assert undoing.state == "succeeded"
    assert world.result(undoing, "merge.undo") == {"restored": 1, "kept": 0, "documents": 1, "mended": 2}
    assert world.row(row) == row
    world.agree([row])


def test_an_undo_lists_the_batches_without_a_document(searched: World) -> None:
    world = searched
    world.load([batch(1), batch(2)])
    run = world.succeed()
    world.search.remove(["Batch-00001"])
    assert taken_back(world, run).warnings == ("batches without a document: Batch-00001",)
    assert world.row(batch(1))["createdby"] == SOURCE


def test_a_batch_whose_document_alone_is_the_sources_goes_nowhere(searched: World) -> None:
    """Neither an ended batch that its document still calls ongoing, nor one that has been another's for long."""
    world = searched
    ended, others = batch(1, status=2), batch(2, createdby=OTHER)
    world.load([ended, others], documents=False)
    world.search.insert([document(ended, status=1), document({**others, "createdby": SOURCE})])
    run = world.succeed()
    assert world.rows() == {key_of(row): row for row in (ended, others)}
    assert world.result(run, "ownership.batches")["batches"] == 1
    world.agree([ended, others])


def test_a_batch_without_a_status_stays_and_is_listed(make_world: MakeWorld) -> None:
    world = make_world()
    rows = [batch(1, status=None), batch(2, status=None, createdby=OTHER)]
    world.load(rows)
    assert world.succeed().warnings == ("batches without a status, left as they are: Batch-00001",)
    assert world.rows() == {key_of(row): row for row in rows}
