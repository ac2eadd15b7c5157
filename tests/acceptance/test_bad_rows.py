"""Rows in the store that should not be there: merged by the rules, or the run fails and names the row, once."""

import json

import pytest

from lern.store.tables import TABLES, USER_ACTIVITY_AGG, USER_CONTENT_CONSUMPTION, USER_ENROLMENTS, Row
from tests.acceptance.conftest import MakePlace
from tests.acceptance.place import Place, Tables
from tests.acceptance.workers import Workers
from tests.accounts import RELATIONS, aggregates, content, enrolment, text_time, two_accounts

FAILED = "dev.learning.events.failed"


def merged(place: Place, source: Row, target: Row) -> Row:
    """What becomes of two rows about one content."""
    place.load([content("from", "course-1", "b", "c", **source), content("to", "course-1", "b", "c", **target)])
    place.merge("from", "to")
    [row] = place.rows(USER_CONTENT_CONSUMPTION)
    assert row["userid"] == "to"
    return {name: value for name, value in row.items() if name not in USER_CONTENT_CONSUMPTION.key}


GOOD = text_time(4)


@pytest.mark.parametrize(
    ("source", "target", "expected"),
    [
        ({"status": 1}, {}, {"status": 1}),
        ({}, {"status": 1}, {"status": 1}),
        ({}, {}, {}),
        ({"viewcount": 3}, {"viewcount": -2}, {"viewcount": 3}),
        ({"viewcount": -3}, {"viewcount": 2}, {"viewcount": 2}),
        ({"viewcount": -3}, {"viewcount": -2}, {"viewcount": 0}),
        ({"viewcount": 2**31 - 1}, {"viewcount": 5}, {"viewcount": 2**31 - 1}),
        ({"lastaccesstime": GOOD}, {"lastaccesstime": "yesterday"}, {"lastaccesstime": GOOD}),
        ({"lastaccesstime": "2022-02-30"}, {"lastaccesstime": GOOD}, {"lastaccesstime": GOOD}),
        ({"lastaccesstime": "soon"}, {"lastaccesstime": "yesterday"}, {"lastaccesstime": "yesterday"}),
        ({"status": -1, "progress": -5}, {"status": 0, "progress": -6}, {"status": 0, "progress": -5}),
        ({"datetime": -(2**50)}, {"datetime": -(2**51)}, {"datetime": -(2**50)}),
    ],
    ids=str,
)
def test_strange_values_follow_the_rules(place: Place, source: Row, target: Row, expected: Row) -> None:
    assert merged(place, source, target) == expected


def test_a_row_that_only_the_source_has_is_copied_with_all_that_is_strange_in_it(place: Place) -> None:
    place.load([content("from", "course-1", "b", "c", viewcount=-3, lastaccesstime="soon", datetime=2**52)])
    place.merge("from", "to")
    [row] = place.rows(USER_CONTENT_CONSUMPTION)
    assert (row["userid"], row["viewcount"], row["lastaccesstime"], row["datetime"]) == ("to", -3, "soon", 2**52)


def test_scores_that_are_no_numbers_lose(place: Place) -> None:
    nan = float("nan")
    place.load([content(user, "course-1", "b1", "c") for user in ("from", "to")])
    place.load([aggregates("from", "course-1", "b1", aggregates={"score:c": 4.0, "max_score:c": nan})])
    place.load([aggregates("to", "course-1", "b1", aggregates={"score:c": nan, "max_score:c": 10.0})])
    place.merge("from", "to")
    [row] = place.rows(USER_ACTIVITY_AGG, "to")
    assert row["aggregates"] == {"score:c": 4.0, "max_score:c": 10.0}


# More than a double holds.
HUGE = f"1{'0' * 400}"
# What is wrong: the statement that spoils one cell, the step that finds it, and what the error has to name.
SPOILT = {
    "a text among the source's numbers": (
        "UPDATE user_content_consumption SET viewcount = 'many' WHERE userid = 'from' AND contentid = 'c1'",
        "merge.content",
        ("user_content_consumption", "'from', 'course-1', 'b1', 'c1'", "viewcount"),
    ),
    "a text among the target's numbers": (
        "UPDATE user_content_consumption SET status = 'done' WHERE userid = 'to' AND contentid = 'c3'",
        "merge.content",
        ("user_content_consumption", "'to', 'course-1', 'b1', 'c3'", "status"),
    ),
    "a map that is not JSON": (
        """UPDATE user_enrolments SET contentstatus = '{"c1": ' WHERE userid = 'from' AND courseid = 'course-1'""",
        "merge.enrolments",
        ("user_enrolments", "'from', 'course-1', 'b1'", "contentstatus"),
    ),
    "a map with texts for numbers": (
        """UPDATE user_activity_agg SET aggregates = '{"score:c2": "best"}' WHERE user_id = 'to'""",
        "merge.aggregates",
        ("user_activity_agg", "'course-1', 'to', 'cb:b1'", "aggregates"),
    ),
    "a number beyond 32 bits": (
        "UPDATE user_content_consumption SET completedcount = 4294967296 WHERE userid = 'from' AND contentid = 'c2'",
        "merge.content",
        ("user_content_consumption", "'from', 'course-1', 'b1', 'c2'", "completedcount"),
    ),
    "a map with a number beyond 32 bits": (
        """UPDATE user_enrolments SET contentstatus = '{"c1": -4294967296}' WHERE userid = 'from' AND batchid = 'b2'""",
        "merge.enrolments",
        ("user_enrolments", "'from', 'course-2', 'b2'", "contentstatus"),
    ),
    "a text that is not UTF-8": (
        "UPDATE user_enrolments SET lastreadcontentid = CAST(x'ff41' AS TEXT) WHERE userid = 'to' AND batchid = 'b1'",
        "merge.enrolments",
        ("user_enrolments", "'to', 'course-1', 'b1'", "lastreadcontentid"),
    ),
    "a map with a number that no double holds": (
        """UPDATE user_activity_agg SET aggregates = '{"score:c2": HUGE}' WHERE user_id = 'from'""".replace(
            "HUGE", HUGE
        ),
        "merge.aggregates",
        ("user_activity_agg", "'course-1', 'from', 'cb:b1'", "aggregates"),
    ),
    "a map with a time beyond 64 bits": (
        """UPDATE user_activity_agg SET agg_last_updated = '{"c2": 9223372036854775808}' WHERE user_id = 'from'""",
        "merge.aggregates",
        ("user_activity_agg", "'course-1', 'from', 'cb:b1'", "agg_last_updated"),
    ),
    "half of a surrogate pair in a list": (
        r"""UPDATE user_activity_agg SET agg_details = '["\ud800"]' WHERE user_id = 'from'""",
        "merge.aggregates",
        ("user_activity_agg", "'course-1', 'from', 'cb:b1'", "agg_details"),
    ),
    "half of a surrogate pair in a map's key": (
        r"""UPDATE user_enrolments SET contentstatus = '{"\ud800": 1}' WHERE userid = 'from' AND batchid = 'b1'""",
        "merge.enrolments",
        ("user_enrolments", "'from', 'course-1', 'b1'", "contentstatus"),
    ),
    "a time beyond 64 bits in a question": (
        """UPDATE assessment_aggregator SET question = '[{"assess_ts": 9223372036854775808}]' WHERE user_id = 'from'""",
        "merge.assessments",
        ("assessment_aggregator", "'from', 'course-1', 'b1', 'c2', 'a1'", "question"),
    ),
    "a score that no double holds in a question": (
        """UPDATE assessment_aggregator SET question = '[{"score": HUGE}]' WHERE user_id = 'from'""".replace(
            "HUGE", HUGE
        ),
        "merge.assessments",
        ("assessment_aggregator", "'from', 'course-1', 'b1', 'c2', 'a1'", "question"),
    ),
    "a list that is a map": (
        """UPDATE assessment_aggregator SET question = '{"id": "q1"}' WHERE user_id = 'from' AND attempt_id = 'a1'""",
        "merge.assessments",
        ("assessment_aggregator", "'from', 'course-1', 'b1', 'c2', 'a1'", "question"),
    ),
}


@pytest.mark.parametrize("spoilt", SPOILT)
def test_a_row_that_cannot_be_read_fails_the_run_by_name_and_once_mended_the_run_goes_on(
    spoilt: str, place: Place, make_place: MakePlace
) -> None:
    statement, step, names = SPOILT[spoilt]
    reference = make_place()
    for one in (reference, place):
        one.load(two_accounts("from", "to"), RELATIONS)
    reference.merge("from", "to")
    sound = place.tables()
    place.sql(statement)

    run_id = place.enter("from", "to")
    run = place.carry_out(run_id)
    assert (run.state, run.step, run.reason) == ("failed", step, "BAD_ROW")
    for name in names:
        assert name in str(run.error)
    # Nobody is left locked, nothing is half done, and the others are told, with the event as it came.
    assert place.services.locks.tokens(["from", "to"]) == {}
    assert place.services.ledger.open_chunks(["from", "to"]) == []
    [told] = place.sent()[FAILED].values()
    event = json.loads(told)
    assert event["failInfo"] == {"errorCode": "BAD_ROW", "error": run.error}
    assert event["edata"]["fromAccountId"] == "from"
    # Nothing comes of itself, not even by the sweeper.
    assert place.services.ledger.due(2**62, 10) == []

    mend(place, statement, sound)
    place.services.ledger.retry(run_id, 1, "somebody")
    assert place.carry_out(run_id).state == "succeeded"
    assert place.tables() == reference.tables()


def mend(place: Place, statement: str, sound: Tables) -> None:
    """Give the spoilt column its values back."""
    _, table, _, column, *_ = statement.split()
    keys = TABLES[table].key
    columns = [name for (name,) in place.fetch(f"SELECT name FROM pragma_table_info('{table}')")]  # noqa: S608
    for row in sound[table]:
        cells = dict(zip(columns, row, strict=True))
        identity = " AND ".join(f"{name} = ?" for name in keys)
        place.sql(f"UPDATE {table} SET {column} = ? WHERE {identity}", cells[column], *(cells[name] for name in keys))  # noqa: S608


def test_a_bad_row_does_not_keep_a_worker_busy(workers: Workers) -> None:
    place = workers.place
    place.load(two_accounts("from", "to"))
    place.load([content("other", "course-1", "b1", "c1", viewcount=1)])
    place.sql("UPDATE user_content_consumption SET viewcount = 'many' WHERE userid = 'from'")
    workers.start()
    bad, good = place.enter("from", "to"), place.enter("other", "another")
    assert [run.state for run in workers.until_ended([bad, good])] == ["failed", "succeeded"]
    attempts = place.detail(bad).attempts
    assert [(attempt.step, attempt.outcome) for attempt in attempts] == [("merge.content", "failed")]


def test_an_enrolment_that_is_none_stays_and_is_reported(place: Place) -> None:
    place.load([enrolment("from", "course-1", "b1", contentstatus={"c1": 1})])
    run_id = place.merge("from", "to")
    assert [row["userid"] for row in place.rows(USER_ENROLMENTS)] == ["from"]
    assert any("not a real enrolment" in warning for warning in place.run(run_id).warnings)
