from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lern.rules.ownership import batch_named_by, document_time, follows, heirs, roles, transferred, wanted
from lern.store.tables import Row

KOLKATA = ZoneInfo("Asia/Kolkata")
USERS = st.sampled_from(["from", "to", "From", "x", "y"])
MENTORS = st.lists(USERS, max_size=5)


@st.composite
def batches(draw: st.DrawFn) -> Row:
    row: Row = {"courseid": "c", "batchid": "b", "name": "from", "status": draw(st.integers(0, 2))}
    columns = {"createdby": draw(st.none() | USERS), "mentors": draw(MENTORS) or None}
    times = {"updated_date": draw(st.none() | st.integers(0, 2_000))}
    return row | {column: value for column, value in (columns | times).items() if value is not None}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (["from"], ["to"]),
        (["from", "from"], ["to"]),
        (["to", "from"], ["to"]),
        (["from", "to"], ["to"]),
        (["x", "from", "y"], ["x", "to", "y"]),
        (["From", "x"], ["From", "x"]),
        (["x", "x"], ["x", "x"]),
        ([], []),
    ],
)
def test_the_target_takes_the_sources_place_among_the_mentors(before: list[str], after: list[str]) -> None:
    assert heirs(before, "from", "to") == after


def test_nothing_but_creator_mentors_and_time_is_touched() -> None:
    row = {"courseid": "from", "batchid": "from", "name": "from", "description": "by from", "createdby": "from"}
    assert transferred(row, "from", "to", 5) == {**row, "createdby": "to", "updated_date": 5}


def test_a_batch_that_was_changed_later_keeps_its_time() -> None:
    assert transferred({"createdby": "from", "updated_date": 9}, "from", "to", 5)["updated_date"] == 9


def test_ids_that_differ_only_in_case_are_different_people() -> None:
    row: Row = {"createdby": "From", "mentors": ["FROM"]}
    assert roles(row, "from") == ()
    assert transferred(row, "from", "to", 5) is row


@given(batches())
def test_a_second_transfer_changes_nothing(row: Row) -> None:
    once = transferred(row, "from", "to", 1_000)
    assert transferred(once, "from", "to", 1_000) == once


@given(batches())
def test_nobody_but_the_source_loses_a_batch_and_nobody_but_the_target_gets_one(row: Row) -> None:
    after = transferred(row, "from", "to", 1_000)
    assert roles(after, "from") == ()
    for user in ("From", "x", "y"):
        assert roles(after, user) == roles(row, user)
    assert set(roles(after, "to")) == {*roles(row, "to"), *roles(row, "from")}


@given(batches())
def test_a_document_that_has_followed_needs_nothing_more(row: Row) -> None:
    document: dict[str, Any] = {"createdBy": "from", "mentors": ["from"], "name": "from"}
    document |= follows(document, row, KOLKATA)
    assert follows(document, row, KOLKATA) == {}
    assert document["name"] == "from"


@pytest.mark.parametrize("mentors", [None, []])
def test_a_document_without_mentors_agrees_with_a_batch_without(mentors: object) -> None:
    assert follows({"createdBy": "x", "mentors": mentors}, {"createdby": "x"}, KOLKATA) == {}


def test_a_single_mentor_may_stand_without_a_list() -> None:
    assert follows({"createdBy": "x", "mentors": "y"}, {"createdby": "x", "mentors": ["y"]}, KOLKATA) == {}


def test_times_are_written_as_sunbird_writes_them() -> None:
    assert document_time(1_645_422_843_853, KOLKATA) == "2022-02-21 11:24:03:853+0530"
    assert document_time(10**18, KOLKATA) is None


@pytest.mark.parametrize(
    ("asset", "batch"),
    [
        ({"objectType": "CourseBatch", "identifier": "b1"}, "b1"),
        ({"objectType": "course-batch", "identifier": "b1"}, "b1"),
        ({"objectType": "Batch", "identifier": "b1"}, "b1"),
        ({"objectType": "QuestionSet", "identifier": "do_1"}, None),
        ({"objectType": "CourseBatch", "identifier": " "}, None),
        ({"objectType": None}, None),
        ({}, None),
    ],
)
def test_only_an_asset_that_is_a_batch_names_one(asset: dict[str, Any], batch: str | None) -> None:
    assert batch_named_by(asset) == batch


def test_which_batches_are_wanted() -> None:
    row = {"batchid": "b1", "createdby": "from", "status": 1}
    assert wanted(row, "from", (0, 1), None)
    assert wanted(row, "from", (0, 1), "b1")
    assert not wanted(row, "from", (0, 1), "b2")
    assert not wanted({**row, "status": 2}, "from", (0, 1), None)
    assert not wanted({**row, "createdby": "x"}, "from", (0, 1), None)
