"""A transfer that nobody disturbs: what changes hands, what does not, and what is said of it."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from prometheus_client import REGISTRY

import tasks.undo  # noqa: F401 - the step that an undo consists of
from lern import undo
from lern.search.elasticsearch import ElasticsearchSearch
from lern.store.tables import COURSE_BATCH
from tasks.step import now_ms
from tests.acceptance.place import EVENT_TIME
from tests.batches import ORG, OTHER, SOURCE, TARGET, UPDATED, World, batch, document, key_of, transfer_event
from tests.integration.ownership.conftest import MakeWorld
from tests.servers.sunbird import BLOCKED, UNKNOWN, Reply, sunbird, user
from workflows.intake import Message, take_in


def test_created_and_mentored_batches_change_hands_and_no_others(world: World) -> None:
    created, mentored = batch(1), batch(2, createdby=OTHER, mentors=["a", SOURCE, "b"])
    both, others = batch(3, mentors=[SOURCE, TARGET]), batch(4, createdby=OTHER)
    ended, same_but_case = batch(6, status=2), batch(8, createdby=SOURCE.lower(), mentors=[SOURCE.upper()])
    rows = [created, mentored, both, others, ended, same_but_case]
    world.load(rows)
    run = world.succeed()
    assert world.row(created) == {**created, "createdby": TARGET, "updated_date": EVENT_TIME}
    assert world.row(mentored) == {**mentored, "mentors": ["a", TARGET, "b"], "updated_date": EVENT_TIME}
    assert world.row(both) == {**both, "createdby": TARGET, "mentors": [TARGET], "updated_date": EVENT_TIME}
    assert [world.row(row) for row in (others, ended, same_but_case)] == [others, ended, same_but_case]
    assert world.document(created).fields["updatedDate"] == UPDATED
    world.agree(rows)
    counts = world.result(run, "ownership.batches")
    assert counts == {"batches": 3, "created": 2, "mentored": 2, "documents_without_batch": 0}


def test_thousands_of_batches_all_change_hands(world: World) -> None:
    """1,000 created and 1,000 mentored, 200 of them both: the old job moves the first thirty of each."""
    created = [batch(number, mentors=[OTHER, SOURCE] if number < 200 else [OTHER]) for number in range(1_000)]
    mentored = [batch(number, createdby=OTHER, mentors=["x", SOURCE, SOURCE]) for number in range(1_000, 1_800)]
    world.load([*created, *mentored])
    run = world.succeed()
    standing = world.rows()
    assert all(standing[key_of(row)]["createdby"] == TARGET for row in created)
    assert all(standing[key_of(row)]["mentors"] == [OTHER, TARGET] for row in created[:200])
    assert all(standing[key_of(row)]["mentors"] == ["x", TARGET] for row in mentored)
    assert [one.id for one in world.search.owned_by(SOURCE)] == []
    world.agree([*created, *mentored])
    counts = world.result(run, "ownership.batches")
    assert (counts["batches"], counts["created"], counts["mentored"]) == (1_800, 1_000, 1_000)


def test_batches_that_change_hands_are_counted_for_the_metrics(server_world: World) -> None:
    def counted() -> dict[str, float]:
        return {
            outcome: REGISTRY.get_sample_value("lern_rows_total", {"table": "course_batch", "outcome": outcome}) or 0.0
            for outcome in ("read", "transferred", "restored")
        }

    world = server_world
    lags = batch(3, createdby=OTHER)
    world.load([batch(1, mentors=[SOURCE]), batch(2), lags])
    world.search.insert([document({**lags, "createdby": SOURCE})])
    before = counted()
    run = world.succeed()
    after = counted()
    assert {name: after[name] - before[name] for name in after} == {"read": 3, "transferred": 2, "restored": 0}
    entered = undo.request(world.services.ledger, run.id, now_ms())
    assert world.place.carry_out(entered.run_id).state == "succeeded"
    assert counted()["restored"] - before["restored"] == 2


def test_a_second_transfer_finds_nothing_to_do(world: World) -> None:
    world.load([batch(1), batch(2, mentors=[SOURCE])])
    world.succeed()
    before = world.rows()
    run = world.succeed(key="again", source=SOURCE)
    assert world.rows() == before
    assert world.result(run, "ownership.batches")["batches"] == 0


def test_later_events_of_one_request_are_the_same_run(world: World) -> None:
    world.load([batch(1)])
    events = [json.loads(transfer_event(key=f"m{number}")) for number in range(3)]
    for event in events:
        event["context"]["cdata"] = {"id": "request-1", "type": "Request"}
    runs = {world.enter(json.dumps(event).encode()) for event in events}
    assert len(runs) == 1


def test_an_event_that_names_a_batch_transfers_that_one_alone(world: World) -> None:
    one, other = batch(1), batch(2)
    world.load([one, other])
    asset = {"objectType": "CourseBatch", "identifier": one["batchid"]}
    run = world.place.carry_out(world.enter(transfer_event(assetInformation=asset)))
    assert run.state == "succeeded"
    assert world.row(one)["createdby"] == TARGET
    assert world.row(other) == other
    world.agree([one, other])


def test_nothing_is_replaced_as_text(server_world: World) -> None:
    world = server_world
    row = batch(1, name=f"{SOURCE}'s", mentors=[f"{SOURCE}-2", SOURCE])
    world.load([row])
    search = world.search
    assert isinstance(search, ElasticsearchSearch)
    before = search._client.get(index="course-batch", id=row["batchid"])["_source"]
    world.succeed()
    after = search._client.get(index="course-batch", id=row["batchid"])["_source"]
    changed = {"createdBy": TARGET, "mentors": [f"{SOURCE}-2", TARGET], "updatedDate": UPDATED}
    assert after == {**before, **changed}


def test_batches_without_a_document_and_documents_without_a_batch_are_listed(server_world: World) -> None:
    world = server_world
    lost, alone = batch(1), batch(2)
    world.load([lost], documents=False)
    world.search.insert([document(alone)])
    run = world.succeed()
    assert world.row(lost)["createdby"] == TARGET
    assert world.document(alone).fields["createdBy"] == SOURCE
    assert world.rows().keys() == {key_of(lost)}
    assert run.warnings == (
        "documents without a batch, left as they are: Batch-00002",
        "batches without a document: Batch-00001",
    )
    assert world.result(run, "ownership.search")["batches_without_document"] == 1


def test_a_document_that_lags_behind_its_batch_follows_it(server_world: World) -> None:
    world = server_world
    row = batch(1, createdby=OTHER)
    world.load([row], documents=False)
    world.search.insert([document({**row, "createdby": SOURCE})])
    world.succeed()
    assert world.row(row) == row
    assert world.document(row).fields["createdBy"] == OTHER


def test_a_document_of_another_course_is_not_the_batchs(server_world: World) -> None:
    world = server_world
    row = batch(1)
    world.load([row], documents=False)
    world.search.insert([document({**row, "courseid": "another"})])
    run = world.succeed()
    assert world.document(row).fields["createdBy"] == SOURCE
    assert "batches without a document: Batch-00001" in run.warnings


def test_what_is_taken_back_is_as_it_was_in_both_stores(world: World) -> None:
    rows = [batch(1), batch(2, mentors=[SOURCE, TARGET, SOURCE]), batch(3, createdby=OTHER, mentors=[SOURCE])]
    rows.append(batch(4, mentors=None, updated_date=None))
    world.load(rows)
    run = world.succeed()
    entered = undo.request(world.services.ledger, run.id, now_ms())
    assert world.place.carry_out(entered.run_id).state == "succeeded"
    assert world.rows() == {key_of(row): row for row in rows}
    world.agree(rows)
    assert world.place.run(run.id).state == "undone"


def test_a_transfer_is_taken_back_though_a_later_merge_stands(world: World) -> None:
    """A merge touches no course batch, whichever of the two accounts it is about."""
    rows = [batch(1), batch(2, createdby=OTHER, mentors=[SOURCE])]
    world.load(rows)
    run = world.succeed()
    merges = [world.place.merge(TARGET, "Final", "m1"), world.place.merge(SOURCE, "Another", "m2")]
    entered = undo.request(world.services.ledger, run.id, now_ms())
    assert world.place.carry_out(entered.run_id).state == "succeeded"
    assert world.rows() == {key_of(row): row for row in rows}
    world.agree(rows)
    assert world.place.run(run.id).state == "undone"
    assert [world.place.run(merge).state for merge in merges] == ["succeeded", "succeeded"]


def test_a_merge_is_taken_back_though_a_later_transfer_stands(world: World) -> None:
    world.load([batch(1)])
    merge = world.place.merge("Old", SOURCE)
    world.succeed()
    entered = undo.request(world.services.ledger, merge, now_ms())
    assert world.place.carry_out(entered.run_id).state == "succeeded"
    assert world.row(batch(1))["createdby"] == TARGET


def test_what_somebody_changed_since_is_not_taken_back(world: World) -> None:
    edited, gone = batch(1, mentors=[SOURCE]), batch(2)
    world.load([edited, gone])
    run = world.succeed()
    world.services.store.insert(COURSE_BATCH, [{**world.row(edited), "mentors": [TARGET, "new"], "name": "new"}])
    with world.services.store.unit(lambda: None) as unit:
        unit.remove(COURSE_BATCH, [world.row(gone)])
    entered = undo.request(world.services.ledger, run.id, now_ms())
    undone = world.place.carry_out(entered.run_id)
    assert undone.state == "succeeded"
    now = world.rows()
    assert now.keys() == {key_of(edited)}
    assert now[key_of(edited)]["createdby"] == SOURCE
    assert now[key_of(edited)]["mentors"] == [TARGET, "new"]
    assert now[key_of(edited)]["name"] == "new"
    assert sum("was changed since and stays" in warning for warning in undone.warnings) == 2
    world.agree([edited])


def test_batches_go_to_where_the_target_was_merged(world: World) -> None:
    world.load([batch(1)])
    world.place.merge(TARGET, "Final")
    world.succeed()
    assert world.row(batch(1))["createdby"] == "Final"


def test_batches_of_an_account_that_the_target_was_merged_into_are_its_already(world: World) -> None:
    world.load([batch(1)])
    world.place.merge(TARGET, SOURCE)
    run = world.transfer()
    assert (run.state, run.reason) == ("failed", "REFUSED")
    assert world.row(batch(1)) == batch(1)


ALLOWED = {SOURCE: BLOCKED, TARGET: user(TARGET, rootOrgId=ORG)}


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({TARGET: UNKNOWN}, f"user {TARGET} is not known"),
        ({TARGET: BLOCKED}, f"the target {TARGET} is deleted or blocked"),
        ({TARGET: user(TARGET, rootOrgId="x")}, f"the target {TARGET} does not belong to organisation {ORG}"),
        ({SOURCE: UNKNOWN}, f"user {SOURCE} is not known"),
    ],
)
def test_a_refusal_is_a_failed_run_with_the_reason(
    make_world: MakeWorld, changed: dict[str, Reply], reason: str
) -> None:
    replies = {**ALLOWED, **changed}
    with sunbird(lambda path, _: replies[path.rpartition("/")[2]]) as service:
        world = make_world(USERORG_URL=service.url)
        world.load([batch(1)])
        run = world.transfer()
        assert run.state == "failed"
        assert reason in (run.error or "")
        assert world.row(batch(1)) == batch(1)
        assert len(world.place.sent()["dev.learning.events.failed"]) == 1
        replies.update(ALLOWED)
        world.services.ledger.retry(run.id, now_ms(), "admin")
        assert world.place.carry_out(run.id).state == "succeeded"
    assert world.row(batch(1))["createdby"] == TARGET


def test_that_no_organisation_was_checked_is_said(make_world: MakeWorld) -> None:
    with sunbird(lambda path, _: ALLOWED[path.rpartition("/")[2]]) as service:
        world = make_world(USERORG_URL=service.url)
        run = world.place.carry_out(world.enter(transfer_event(organisationId=None)))
    assert run.state == "succeeded"
    assert run.warnings == ("the organisation was not checked: the event names none",)


@pytest.mark.parametrize("wrap", [lambda flat: flat, lambda flat: {"edata": flat}])
def test_the_flat_event_of_the_documentation_is_a_transfer(
    world: World, wrap: Callable[[dict[str, str]], dict[str, Any]]
) -> None:
    world.load([batch(1)])
    value = json.dumps(wrap({"fromUserId": SOURCE, "toUserId": TARGET})).encode()
    taken = take_in(world.services, [Message("dev.user.ownership.transfer", 0, 0, None, value)])
    run = world.place.carry_out(taken.entered[0].run_id)
    assert (run.workflow, run.state) == ("ownership", "succeeded")
    assert world.row(batch(1))["createdby"] == TARGET


@pytest.mark.parametrize(
    ("edata", "field"),
    [
        ({"fromUserProfile": None}, "edata.fromUserProfile"),
        ({"toUserProfile": {"roles": None}}, "edata.toUserProfile.userId"),
    ],
)
def test_an_event_without_a_profile_is_a_dead_letter_that_names_it(
    make_world: MakeWorld, edata: dict[str, Any], field: str
) -> None:
    world = make_world()
    value = transfer_event(**edata)
    taken = take_in(world.services, [Message("dev.user.ownership.transfer", 0, 0, None, value)])
    assert [(letter.code, letter.field) for letter in taken.letters] == [("MISSING_FIELD", field)]
