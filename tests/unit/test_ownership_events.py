"""Ownership-transfer events: those that userorg-service sends, the documents' flat ones, and broken ones."""

from typing import Any

import pytest

from lern import events
from lern.events import BadEvent
from lern.settings import Settings
from workflows import OWNERSHIP, workflow_for

TOPIC = "dev.user.ownership.transfer"


def event(**edata: Any) -> dict[str, Any]:
    profiles = {"fromUserProfile": {"userId": "a", "roles": None}, "toUserProfile": {"userId": "b", "roles": ["X"]}}
    data = {"action": "ownership-transfer", "organisationId": "o", **profiles, "assetInformation": {}, "iteration": 1}
    context = {"pdata": {}, "cdata": {"id": "request-1", "type": "Request"}}
    return {"eid": "BE_JOB_REQUEST", "ets": 5, "mid": "m1", "context": context, "edata": {**data, **edata}}


def test_an_event_as_userorg_service_sends_it() -> None:
    wanted = events.ownership(event())
    assert (wanted.source, wanted.target, wanted.organisation, wanted.batch, wanted.time) == ("a", "b", "o", None, 5)


@pytest.mark.parametrize(
    "flat", [{"edata": {"fromUserId": "a", "toUserId": "b"}}, {"fromUserId": "a", "toUserId": "b"}]
)
def test_the_flat_shape_is_accepted(flat: dict[str, Any]) -> None:
    assert workflow_for(flat, TOPIC, Settings()) is OWNERSHIP
    wanted = events.ownership(flat)
    assert (wanted.source, wanted.target, wanted.organisation) == ("a", "b", None)


def test_events_of_one_request_are_one_run() -> None:
    """userorg-service sends one for each object that the user has, and each of them means all batches."""
    first = events.ownership(event(assetInformation={"objectType": "QuestionSet", "identifier": "do_1"}))
    second = events.ownership({**event(assetInformation={"objectType": "Content", "identifier": "do_2"}), "mid": "m2"})
    assert first.mid == second.mid
    other = event()
    other["context"]["cdata"]["id"] = "request-2"
    assert events.ownership(other).mid != first.mid


def test_an_event_that_names_a_batch_is_a_run_of_its_own() -> None:
    named = events.ownership(event(assetInformation={"objectType": "CourseBatch", "identifier": "b1"}))
    assert named.batch == "b1"
    assert named.mid != events.ownership(event()).mid


@pytest.mark.parametrize("cdata", [None, [], {}, "x", [{"type": "Request", "id": " "}], {"type": "Course", "id": "c"}])
def test_without_a_request_the_message_id_tells_events_apart(cdata: object) -> None:
    strange = event()
    strange["context"]["cdata"] = cdata
    assert events.ownership(strange).mid == "m1"
    assert events.ownership({**strange, "context": cdata}).mid == "m1"


@pytest.mark.parametrize(
    ("edata", "code", "field"),
    [
        ({"fromUserProfile": None}, "MISSING_FIELD", "edata.fromUserProfile"),
        ({"toUserProfile": {}}, "MISSING_FIELD", "edata.toUserProfile.userId"),
        ({"toUserProfile": "b"}, "WRONG_TYPE", "edata.toUserProfile"),
        ({"fromUserProfile": {"userId": 5}}, "WRONG_TYPE", "edata.fromUserProfile.userId"),
        ({"fromUserProfile": {"userId": " "}}, "BLANK_FIELD", "edata.fromUserProfile.userId"),
        ({"toUserProfile": {"userId": "a"}}, "SAME_ACCOUNT", "edata.toUserProfile.userId"),
        ({"organisationId": 7}, "WRONG_TYPE", "edata.organisationId"),
        ({"action": "transfer-all"}, "UNKNOWN_ACTION", "edata.action"),
        (
            {"assetInformation": {"objectType": "Batch", "identifier": "x" * 300}},
            "TOO_LONG",
            "edata.assetInformation.identifier",
        ),
    ],
)
def test_what_is_broken_is_named(edata: dict[str, Any], code: str, field: str) -> None:
    with pytest.raises(BadEvent) as caught:
        _read(event(**edata))
    assert (caught.value.code, caught.value.field) == (code, field)


def _read(broken: dict[str, Any]) -> None:
    workflow_for(broken, TOPIC, Settings())
    events.ownership(broken)


def test_what_the_python_api_sends_is_such_an_event() -> None:
    made = events.parse(events.to_bytes(events.ownership_request("a", "b", "o", 5, "key")))
    wanted = events.ownership(made)
    assert workflow_for(made, None, Settings()) is OWNERSHIP
    assert (wanted.source, wanted.target, wanted.organisation, wanted.time) == ("a", "b", "o", 5)
