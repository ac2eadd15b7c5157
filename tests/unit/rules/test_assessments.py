"""Attempts at an assessment: assessment_aggregator."""

import pytest

from lern.rules.merge import merge, settle
from lern.store.tables import ASSESSMENT_AGGREGATOR, Row

KEY = {"user_id": "B", "course_id": "do_course", "batch_id": "01", "content_id": "do_quiz", "attempt_id": "a1"}


def attempt(**columns: object) -> Row:
    return {**KEY, **columns}


MINE = attempt(total_score=1.0, total_max_score=9.0, grand_total="1.0/9.0", created_on=1, updated_on=8, question=[{}])
THEIRS = attempt(
    total_score=5.0, total_max_score=5.0, grand_total="5.0/5.0", created_on=2, updated_on=3, question=[{"id": "q"}]
)


@pytest.mark.parametrize(
    ("mine", "theirs", "stands"),
    [
        ({"last_attempted_on": 10}, {"last_attempted_on": 20}, THEIRS | {"last_attempted_on": 20}),
        ({"last_attempted_on": 20}, {"last_attempted_on": 10}, MINE | {"last_attempted_on": 20}),
        ({"last_attempted_on": 10}, {"last_attempted_on": 10}, MINE | {"last_attempted_on": 10}),
        ({}, {"last_attempted_on": -1}, THEIRS | {"last_attempted_on": -1}),
        ({"last_attempted_on": -1}, {}, MINE | {"last_attempted_on": -1}),
        ({}, {}, MINE),
    ],
)
def test_of_the_same_attempt_the_later_stands_whole(mine: Row, theirs: Row, stands: Row) -> None:
    assert merge(ASSESSMENT_AGGREGATOR, MINE | mine, THEIRS | theirs) == stands


def test_what_the_later_one_lacks_comes_from_the_other() -> None:
    row = merge(ASSESSMENT_AGGREGATOR, MINE | {"last_attempted_on": 1}, attempt(last_attempted_on=2, total_score=0.0))
    assert row == MINE | {"last_attempted_on": 2, "total_score": 0.0}


def test_an_attempt_that_only_the_source_has_is_copied() -> None:
    assert settle(ASSESSMENT_AGGREGATOR, None, THEIRS, None, {}) == THEIRS
