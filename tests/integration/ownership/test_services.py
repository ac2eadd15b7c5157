"""Transfers with Sunbird's services beside them: lms-service knows of batches, the user and org service of users."""

from pathlib import Path

import pytest

from lern import lms
from lern.client import Lern
from tasks.step import Aside
from tests.batches import ORG, OTHER, SOURCE, TARGET, batch, document, transfer_event
from tests.integration.ownership.conftest import MakeWorld
from tests.servers.sunbird import BLOCKED, HTML, Reply, batch_search, sunbird, user
from tests.workers import Process

AWAY = (503, "text/html", b"")
BROKEN = (200, "application/json", b"[1]")


def test_what_only_lms_service_knows_of_is_listed(make_world: MakeWorld) -> None:
    """Its documents cannot be written, and a batch that stands nowhere is not made, though both questions find it."""
    rows = [batch(1), batch(2, createdby=OTHER, mentors=[SOURCE]), batch(3, createdby=OTHER)]
    lagging = document({**rows[2], "createdby": SOURCE})
    with sunbird(
        batch_search([document(rows[0]), document(rows[1]), lagging, document(batch(4, mentors=[SOURCE]))])
    ) as service:
        world = make_world(LMS_URL=service.url)
        world.load(rows)
        run = world.succeed()
    assert [world.row(row)["createdby"] for row in rows] == [TARGET, OTHER, OTHER]
    assert world.row(rows[1])["mentors"] == [TARGET]
    assert len(world.rows()) == 3
    assert world.result(run, "ownership.batches")["documents_without_batch"] == 1
    assert run.warnings == (
        "documents without a batch, left as they are: Batch-00004",
        "documents were left as they are: LERN_SEARCH_URL does not say where they can be written",
    )
    assert {path for path, _ in service.asked} == {"/v1/course/batch/search"}
    assert [body["request"]["filters"] for _, body in service.asked] == [
        {"createdBy": SOURCE, "status": [0, 1]},
        {"mentors": [SOURCE], "status": [0, 1]},
    ]


def test_that_lms_service_shows_no_more_is_said_and_the_database_has_the_rest(
    make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lms, "MOST", 1_000)
    rows = [batch(number) for number in range(1_200)]
    with sunbird(batch_search([document(row) for row in rows])) as service:
        world = make_world(LMS_URL=service.url)
        world.load(rows)
        run = world.succeed()
    assert "lms-service finds no more than 10,000 batches; the others were found in the database" in run.warnings
    assert {row["createdby"] for row in world.rows().values()} == {TARGET}


@pytest.mark.parametrize(
    ("reply", "reason", "attempts"), [(AWAY, "UNREACHABLE", 0), (HTML, "UNREACHABLE", 0), (BROKEN, "TRANSIENT", 1)]
)
def test_while_lms_service_does_not_answer_nothing_changes_hands(
    make_world: MakeWorld, reply: Reply, reason: str, attempts: int
) -> None:
    with sunbird(lambda _path, _body: reply) as service:
        world = make_world(LMS_URL=service.url)
        world.load([batch(1)])
        run_id = world.enter(transfer_event())
        assert isinstance(world.place.step(run_id), Aside)
        waiting = world.place.run(run_id)
        assert (waiting.state, waiting.reason, waiting.attempts) == ("waiting", reason, attempts)
        assert world.row(batch(1)) == batch(1)
        service.replies = batch_search([document(batch(1))])
        assert world.place.carry_out(run_id).state == "succeeded"
    assert world.row(batch(1))["createdby"] == TARGET


@pytest.mark.parametrize(
    ("reply", "reason", "attempts"), [(AWAY, "UNREACHABLE", 0), (HTML, "UNREACHABLE", 0), (BROKEN, "TRANSIENT", 1)]
)
def test_while_the_user_service_does_not_answer_nothing_changes_hands(
    make_world: MakeWorld, reply: Reply, reason: str, attempts: int
) -> None:
    with sunbird(lambda _path, _body: reply) as service:
        world = make_world(USERORG_URL=service.url)
        world.load([batch(1)])
        run_id = world.enter(transfer_event())
        assert isinstance(world.place.step(run_id), Aside)
        waiting = world.place.run(run_id)
        assert (waiting.state, waiting.reason, waiting.attempts) == ("waiting", reason, attempts)
        assert world.row(batch(1)) == batch(1)
        service.replies = lambda path, _: user(TARGET, rootOrgId=ORG) if path.endswith(TARGET) else BLOCKED
        assert world.place.carry_out(run_id).state == "succeeded"
    assert world.row(batch(1))["createdby"] == TARGET


def test_another_service_asks_for_a_transfer_and_waits_for_its_end(make_world: MakeWorld, tmp_path: Path) -> None:
    """Asked again with the same key it is the same run."""
    world = make_world()
    rows = [batch(1), batch(2, createdby=OTHER, mentors=[SOURCE])]
    world.load(rows)
    lern = Lern(settings=world.place.settings)
    run, again = (
        lern.transfer_ownership(SOURCE, TARGET, organisation_id=ORG, idempotency_key="ticket-1") for _ in range(2)
    )
    assert run.id == again.id
    with Process("worker", world.place.settings, tmp_path / "worker.log"):
        assert run.wait(timeout=60).state == "succeeded"
    assert world.row(rows[0])["createdby"] == TARGET
    assert world.row(rows[1])["mentors"] == [TARGET]
    assert [one.id for one in world.services.ledger.runs()] == [run.id]
    # The event of a repeat bears no time of its own: what is written is the time at which it was taken in.
    assert world.row(rows[0])["updated_date"] == world.place.run(run.id).event_time
