"""Rows as lines of JSON, and as the journal keeps them."""

import json
import math
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lern.store.rows import (
    BadInput,
    RelationLine,
    RowLine,
    decode,
    dump_line,
    dump_relation,
    encode,
    encode_time,
    load_lines,
    pack,
    unpack,
)
from lern.store.sql_codec import same
from lern.store.tables import (
    ASSESSMENT_AGGREGATOR,
    COURSE_BATCH,
    TABLES,
    USER_ACTIVITY_AGG,
    USER_CONTENT_CONSUMPTION,
    USER_ENROLMENTS,
    Row,
    Table,
)
from tests import strategies

CONTENT = {"userid": "u", "courseid": "c", "batchid": "b", "contentid": "d"}
ENROLMENT = {"userid": "u", "courseid": "c", "batchid": "b"}
AGGREGATE = {"activity_type": "Course", "activity_id": "c", "user_id": "u", "context_id": "cb:b"}
ATTEMPT = {"user_id": "u", "course_id": "c", "batch_id": "b", "content_id": "d", "attempt_id": "a"}
BATCH = {"courseid": "c", "batchid": "b"}

A_TABLE_AND_A_ROW = st.sampled_from(list(TABLES.values())).flatmap(
    lambda table: st.tuples(st.just(table), strategies.rows(table))
)


@given(A_TABLE_AND_A_ROW)
def test_a_row_comes_back_from_its_line(given_row: tuple[Table, Row]) -> None:
    table, row = given_row
    loaded = list(load_lines([dump_line(table, row)]))
    assert len(loaded) == 1
    assert isinstance(loaded[0], RowLine)
    assert loaded[0].table is table
    assert same(loaded[0].row, row)


@given(A_TABLE_AND_A_ROW)
def test_a_row_comes_back_from_the_journal(given_row: tuple[Table, Row]) -> None:
    table, row = given_row
    assert same(unpack(table, json.loads(json.dumps(pack(table, row)))), row)


@given(A_TABLE_AND_A_ROW)
def test_a_line_is_json_that_any_reader_takes(given_row: tuple[Table, Row]) -> None:
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    line = dump_line(*given_row)
    json.loads(line, parse_constant=refuse)
    assert "\n" not in line


@pytest.mark.parametrize(
    ("milliseconds", "text"),
    [
        (1645422883853, "2022-02-21T05:54:43.853Z"),
        (0, "1970-01-01T00:00:00.000Z"),
        (-1, "1969-12-31T23:59:59.999Z"),
        (-62135596800000, "0001-01-01T00:00:00.000Z"),
        (253402300799999, "9999-12-31T23:59:59.999Z"),
    ],
)
def test_times_are_iso_8601_in_utc_with_milliseconds(milliseconds: int, text: str) -> None:
    assert encode_time(milliseconds) == text
    assert decode(USER_CONTENT_CONSUMPTION, {**CONTENT, "datetime": text})["datetime"] == milliseconds


@pytest.mark.parametrize("milliseconds", [-62135596800001, 253402300800000, 2**63 - 1, -(2**63)])
def test_times_beyond_the_calendar_stay_numbers(milliseconds: int) -> None:
    encoded = encode(USER_CONTENT_CONSUMPTION, {**CONTENT, "datetime": milliseconds})
    assert encoded["datetime"] == milliseconds
    assert decode(USER_CONTENT_CONSUMPTION, encoded)["datetime"] == milliseconds


def test_a_time_may_name_another_zone() -> None:
    row = decode(USER_CONTENT_CONSUMPTION, {**CONTENT, "datetime": "2022-02-21T11:24:43.853+05:30"})
    assert row["datetime"] == 1645422883853


def test_numbers_that_json_lacks_are_text() -> None:
    aggregates = {"a": math.nan, "b": math.inf, "c": -math.inf, "d": 1.5}
    encoded = encode(USER_ACTIVITY_AGG, {**AGGREGATE, "aggregates": aggregates})
    assert encoded["aggregates"] == {"a": "NaN", "b": "Infinity", "c": "-Infinity", "d": 1.5}
    assert repr(decode(USER_ACTIVITY_AGG, encoded)["aggregates"]) == repr(aggregates)


def test_the_fields_of_a_question_are_encoded_by_their_own_kinds() -> None:
    question = {"id": "q", "assess_ts": 0, "score": math.nan, "duration": Decimal("1.50")}
    encoded = encode(ASSESSMENT_AGGREGATOR, {**ATTEMPT, "question": [question]})
    assert encoded["question"] == [
        {"id": "q", "assess_ts": "1970-01-01T00:00:00.000Z", "score": "NaN", "duration": "1.50"}
    ]
    decoded = decode(ASSESSMENT_AGGREGATOR, encoded)["question"][0]
    assert repr(decoded["duration"]) == "Decimal('1.50')"


def test_nulls_and_empty_collections_are_absent() -> None:
    given_row: Row = {**ENROLMENT, "status": None, "contentstatus": {}, "certificates": []}
    assert decode(USER_ENROLMENTS, given_row) == ENROLMENT


def test_whole_numbers_are_taken_for_doubles() -> None:
    value = decode(USER_ACTIVITY_AGG, {**AGGREGATE, "aggregates": {"completedCount": 3}})["aggregates"][
        "completedCount"
    ]
    assert type(value) is float


@pytest.mark.parametrize(
    ("table", "key", "column", "value", "place", "expected"),
    [
        (USER_CONTENT_CONSUMPTION, CONTENT, "status", "2", "status", "a whole number of 32 bits was expected"),
        (USER_CONTENT_CONSUMPTION, CONTENT, "status", True, "status", "boolean true; a whole number of 32 bits"),
        (USER_CONTENT_CONSUMPTION, CONTENT, "status", 2.0, "status", "number 2.0; a whole number of 32 bits"),
        (USER_CONTENT_CONSUMPTION, CONTENT, "status", 2**31, "status", "2147483648 is out of range"),
        (USER_CONTENT_CONSUMPTION, CONTENT, "progressdetails", {"a": 1}, "progressdetails", "text was expected"),
        (USER_CONTENT_CONSUMPTION, CONTENT, "progressdetails", "a\0b", "progressdetails", "NUL"),
        (USER_CONTENT_CONSUMPTION, CONTENT, "progressdetails", "\udc00", "progressdetails", "surrogate"),
        (
            USER_CONTENT_CONSUMPTION,
            CONTENT,
            "completionpercentage",
            "50",
            "completionpercentage",
            "a number was expected",
        ),
        (
            USER_CONTENT_CONSUMPTION,
            CONTENT,
            "completionpercentage",
            True,
            "completionpercentage",
            "a number was expected",
        ),
        (USER_CONTENT_CONSUMPTION, CONTENT, "completionpercentage", 1e39, "completionpercentage", "out of range"),
        (
            USER_CONTENT_CONSUMPTION,
            CONTENT,
            "datetime",
            "2022-02-21",
            "datetime",
            "a time like 2022-02-21T05:54:43.853Z",
        ),
        (USER_CONTENT_CONSUMPTION, CONTENT, "datetime", "2022-02-21T05:54:43", "datetime", "a time like"),
        (USER_CONTENT_CONSUMPTION, CONTENT, "datetime", "2022-02-21T05:54:43.0001Z", "datetime", "finer than"),
        (USER_CONTENT_CONSUMPTION, CONTENT, "datetime", 1.5, "datetime", "a time like"),
        (USER_CONTENT_CONSUMPTION, CONTENT, "datetime", 2**63, "datetime", "out of range"),
        (USER_CONTENT_CONSUMPTION, CONTENT, "contentid", " ", "contentid", "blank"),
        (USER_CONTENT_CONSUMPTION, CONTENT, "contentid", None, "contentid", "missing"),
        (USER_CONTENT_CONSUMPTION, CONTENT, "contentid", 5, "contentid", "number 5; text was expected"),
        (USER_CONTENT_CONSUMPTION, CONTENT, "contenid", "x", "contenid", "no such column (is contentid meant?)"),
        (USER_ENROLMENTS, ENROLMENT, "active", 1, "active", "true or false was expected"),
        (USER_ENROLMENTS, ENROLMENT, "contentstatus", {"x": "1"}, "contentstatus[x]", "a whole number of 32 bits"),
        (USER_ENROLMENTS, ENROLMENT, "contentstatus", [], "contentstatus", "an object was expected"),
        (USER_ENROLMENTS, ENROLMENT, "certificates", [{"token": None}], "certificates[0][token]", "null; text"),
        (USER_ENROLMENTS, ENROLMENT, "certificates", {}, "certificates", "a list was expected"),
        (USER_ACTIVITY_AGG, AGGREGATE, "aggregates", {"x": 10**400}, "aggregates[x]", "too large"),
        (USER_ACTIVITY_AGG, AGGREGATE, "aggregates", {"x": "nan"}, "aggregates[x]", "a number was expected"),
        (USER_ACTIVITY_AGG, AGGREGATE, "agg_details", ["a", 1], "agg_details[1]", "text was expected"),
        (ASSESSMENT_AGGREGATOR, ATTEMPT, "question", [{"scroe": 1}], "question[0]", "is score meant?"),
        (ASSESSMENT_AGGREGATOR, ATTEMPT, "question", [{"duration": "x"}], "question[0].duration", "a decimal number"),
        (ASSESSMENT_AGGREGATOR, ATTEMPT, "question", [{"duration": "NaN"}], "question[0].duration", "a finite decimal"),
        (ASSESSMENT_AGGREGATOR, ATTEMPT, "question", [{"params": [1]}], "question[0].params[0]", "an object"),
        (COURSE_BATCH, BATCH, "cert_templates", {"t": {"url": 1}}, "cert_templates[t][url]", "text was expected"),
    ],
)
def test_what_is_wrong_is_named_with_its_column_and_what_was_expected(
    table: Table, key: Row, column: str, value: Any, place: str, expected: str
) -> None:
    with pytest.raises(BadInput) as caught:
        decode(table, {**key, column: value})
    assert caught.value.column == place
    assert expected in caught.value.problem


def test_a_missing_key_column_is_named() -> None:
    with pytest.raises(BadInput, match="column batchid: missing"):
        decode(USER_ENROLMENTS, {"userid": "u", "courseid": "c"})


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("{", "line 2: not JSON"),
        ("[]", 'line 2: an object {"table": ..., "row": {...}} was expected'),
        ('{"table": "user_enrolments"}', "line 2: an object"),
        ('{"table": "user_enrolments", "row": []}', "line 2: list [] as row"),
        ('{"table": "user_enrolment", "row": {}}', "(is user_enrolments meant?)"),
        ('{"table": ["user_enrolments"], "row": {}}', "line 2: no table is called ['user_enrolments']"),
        ('{"table": "user_enrolments", "row": {"userid": "u", "userid": "v"}}', "'userid' stands twice"),
        ('{"table": "user_activity_agg", "row": {"aggregates": {"x": NaN}}}', "NaN is not JSON"),
        ('{"table": "user_enrolments", "row": {"userid": "u", "courseid": "c"}}', "line 2, column batchid: missing"),
        ('{"table": "relations", "row": {"members": []}}', "line 2, column key"),
        ('{"table": "relations", "row": {"key": " ", "members": []}}', "line 2, column key: blank"),
        ('{"table": "relations", "row": {"key": "k", "members": ["a", 1]}}', "line 2, column members[1]"),
        ('{"table": "relations", "row": {"key": "k", "members": "a"}}', "line 2, column members"),
        ('{"table": "relations", "row": {"key": "k", "member": []}}', "line 2, column member"),
        (b"\xff", "line 2: byte 0 is not UTF-8"),
        ("[" * 100_000, "line 2: nested too deep"),
    ],
)
def test_a_broken_line_is_named_by_its_number(line: str | bytes, problem: str) -> None:
    good = dump_line(USER_ENROLMENTS, ENROLMENT)
    loaded = load_lines([good, line, good])
    next(loaded)
    with pytest.raises(BadInput) as caught:
        next(loaded)
    assert problem in str(caught.value)
    assert caught.value.line == 2


def test_empty_lines_are_skipped_and_counted() -> None:
    loaded = load_lines(["\n", dump_line(USER_ENROLMENTS, ENROLMENT), b"", "{"])
    assert next(loaded) == RowLine(USER_ENROLMENTS, ENROLMENT)
    with pytest.raises(BadInput, match="line 4"):
        next(loaded)


def test_relations_are_lines_as_well() -> None:
    line = dump_relation("do_1:do_1:leafnodes", {"do_3", "do_2"})
    assert json.loads(line)["row"]["members"] == ["do_2", "do_3"]
    assert list(load_lines([line])) == [RelationLine("do_1:do_1:leafnodes", frozenset({"do_2", "do_3"}))]


@pytest.mark.parametrize("change", [pack, unpack])
def test_packing_leaves_the_row_alone(change: Callable[[Table, Row], Row]) -> None:
    row = {**ATTEMPT, "question": [{"duration": Decimal(1) if change is pack else "1"}]}
    before = repr(row)
    change(ASSESSMENT_AGGREGATOR, row)
    assert repr(row) == before
