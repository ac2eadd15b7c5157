"""What an event must be to become a run, and what the events that we send look like."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lern import events
from lern.events import BadEvent

GOOD = {
    "eid": "BE_JOB_REQUEST",
    "ets": 1648720639981,
    "mid": "LP.1648720639981.d6b1d8c8",
    "edata": {"action": "merge-user-courses-and-cert", "fromAccountId": "asha-old", "toAccountId": "asha"},
}


def event(**edata: object) -> bytes:
    return json.dumps({**GOOD, "edata": {**GOOD["edata"], **edata}}).encode()  # type: ignore[dict-item]


def refused(value: bytes | None) -> BadEvent:
    with pytest.raises(BadEvent) as caught:
        events.merge(events.parse(value))
    return caught.value


def test_a_merge_event_gives_its_accounts_message_id_and_time() -> None:
    assert events.merge(events.parse(event())) == events.Merge(
        "asha-old", "asha", "LP.1648720639981.d6b1d8c8", 1648720639981
    )


@pytest.mark.parametrize(
    ("value", "code", "field"),
    [
        (None, "EMPTY", ""),
        (b"", "INVALID_JSON", ""),
        (b"{", "INVALID_JSON", ""),
        (b"\xff\xfe{}", "NOT_UTF8", ""),
        ('{"edata": {}}'.encode("utf-16"), "NOT_UTF8", ""),
        (b"[]", "WRONG_TYPE", ""),
        (b"null", "WRONG_TYPE", ""),
        (b"{}", "MISSING_FIELD", "edata"),
        (b'{"edata": null}', "MISSING_FIELD", "edata"),
        (b'{"edata": "text"}', "WRONG_TYPE", "edata"),
        (b'{"ets": NaN}', "INVALID_JSON", ""),
        (b'{"edata": {}, "edata": {}}', "DUPLICATE_KEY", "edata"),
        (b'{"edata": {"a": {"b": 1, "b": 2}}}', "DUPLICATE_KEY", "b"),
        (event(fromAccountId=None), "MISSING_FIELD", "edata.fromAccountId"),
        (event(toAccountId=None), "MISSING_FIELD", "edata.toAccountId"),
        (event(fromAccountId=7), "WRONG_TYPE", "edata.fromAccountId"),
        (event(toAccountId=["asha"]), "WRONG_TYPE", "edata.toAccountId"),
        (event(toAccountId=" \t"), "BLANK_FIELD", "edata.toAccountId"),
        (event(toAccountId=""), "BLANK_FIELD", "edata.toAccountId"),
        (event(toAccountId="asha\x00"), "BAD_CHARACTER", "edata.toAccountId"),
        (event(toAccountId="asha\n"), "BAD_CHARACTER", "edata.toAccountId"),
        (event(toAccountId="\ud800"), "BAD_CHARACTER", "edata.toAccountId"),
        (event(toAccountId="a" * 257), "TOO_LONG", "edata.toAccountId"),
        (event(toAccountId="asha-old"), "SAME_ACCOUNT", "edata.toAccountId"),
        (b" " * (events.MAX_BYTES + 1), "TOO_LARGE", ""),
        (b'{"a":' * 40 + b"1" + b"}" * 40, "TOO_DEEP", ""),
        (b"[" * 100_000, "TOO_DEEP", ""),
    ],
)
def test_what_can_never_be_a_merge_names_the_field_and_what_was_expected(
    value: bytes | None, code: str, field: str
) -> None:
    error = refused(value)
    assert (error.code, error.field) == (code, field)
    assert error.reason


@pytest.mark.parametrize(
    ("ets", "time"),
    [
        (1648720639981, 1648720639981),
        ("1648720639981", 1648720639981),
        (1648720639981.0, 1648720639981),
        (None, None),
        ("soon", None),
        (True, None),
        (-5, None),
        (0, None),
        (10**30, None),
        (10**400, None),
        ({}, None),
    ],
)
def test_a_strange_time_is_no_reason_to_refuse_a_merge(ets: object, time: int | None) -> None:
    assert events.merge(events.parse(json.dumps({**GOOD, "ets": ets}).encode())).time == time


def test_more_than_the_workflow_needs_is_not_looked_at() -> None:
    assert events.merge(events.parse(event(iteration=1.0, anything={"nested": [1, None]}))).source == "asha-old"


@given(st.binary(max_size=200) | st.text().map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_no_bytes_do_anything_but_parse_or_be_refused(value: bytes) -> None:
    try:
        assert isinstance(events.parse(value), dict)
    except BadEvent as error:
        assert error.code  # noqa: PT017 - both outcomes are fine, a third is not


def test_the_same_message_is_the_same_run_and_another_message_another() -> None:
    users = ("asha-old", "asha")
    first = events.run_id("merge", b"{}", "mid-1", users)
    assert first == events.run_id("merge", b'{"other": 1}', "mid-1", users)
    assert first != events.run_id("merge", b"{}", "mid-2", users)


def test_message_ids_repeat_in_the_wild_so_the_users_count_too() -> None:
    assert events.run_id("merge", b"{}", "mid", ("a", "b")) != events.run_id("merge", b"{}", "mid", ("c", "b"))
    assert events.run_id("merge", b"{}", "mid", ("ab", "c")) != events.run_id("merge", b"{}", "mid", ("a", "bc"))


def test_without_a_message_id_the_bytes_tell_events_apart() -> None:
    assert events.run_id("merge", b"1", None, ("a", "b")) == events.run_id("merge", b"1", None, ("a", "b"))
    assert events.run_id("merge", b"1", None, ("a", "b")) != events.run_id("merge", b"2", None, ("a", "b"))


def test_a_requested_merge_is_an_event_that_we_accept() -> None:
    request = events.merge_request("asha-old", "asha", 1648720639981, "key")
    assert events.merge(events.parse(events.to_bytes(request))).target == "asha"
    assert request == events.merge_request("asha-old", "asha", 1648720639981, "key")


def test_the_sync_event_is_what_the_existing_job_sends() -> None:
    sent = events.enrolment_sync("dev.coursebatch.job.request", "run", 1648720639981, "asha", "do_1", "b1")
    value = json.loads(sent.value)
    assert sent.key is None
    assert value["mid"] == sent.mid
    assert value["object"] == {"id": "b1_asha", "type": "CourseBatchEnrolment"}
    assert value["edata"] == {
        "action": "batch-enrolment-sync",
        "iteration": 1,
        "batchId": "b1",
        "userId": "asha",
        "courseId": "do_1",
        "reset": ["completionPercentage", "status", "progress"],
    }


def test_an_event_of_the_same_run_about_the_same_enrolment_has_the_same_bytes() -> None:
    arguments = ("topic", "run", 1648720639981, "asha", "do_1", "b1")
    for make in (events.enrolment_sync, events.issue_certificate, events.enrolment_completed):
        assert make(*arguments) == make(*arguments)
    mids = {make(*arguments).mid for make in (events.enrolment_sync, events.issue_certificate)}
    assert len(mids) == 2


def test_an_event_with_half_a_character_goes_out_as_text_that_everybody_reads() -> None:
    """Half of a pair of surrogates can be escaped in JSON, and has no bytes in UTF-8."""
    came = event().replace(b'"mid": "', b'"mid": "\\ud800\xc3\xa4')
    sent = events.failed("dev.learning.events.failed", "run", 1, came, "BAD_ROW", "broken")
    assert json.loads(sent.value.decode("utf-8"))["mid"] == events.parse(came)["mid"]
    assert events.parse(came)["mid"].startswith("\ud800ä")
    assert events.to_bytes({"name": "ä"}) == b'{"name":"\xc3\xa4"}'


def test_a_failed_run_is_announced_with_its_event_and_the_reason() -> None:
    sent = events.failed("dev.learning.events.failed", "run", 2, event(), "BAD_ROW", "table x, column y: broken")
    value = json.loads(sent.value)
    assert value["edata"] == GOOD["edata"]
    assert value["failInfo"] == {"errorCode": "BAD_ROW", "error": "table x, column y: broken"}
