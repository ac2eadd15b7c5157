"""Scores and counts of a course or unit that both accounts have: user_activity_agg."""

import json
import math

import pytest

from lern.rules.merge import keeps, merge, settle
from lern.rules.rule import same
from lern.store.tables import USER_ACTIVITY_AGG, Row

KEY = {"activity_type": "Course", "activity_id": "do_course", "user_id": "B", "context_id": "cb:01"}


def aggregate(**columns: object) -> Row:
    return {**KEY, **columns}


def detail(attempt: object, content: object = "do_quiz", score: int = 1) -> str:
    return json.dumps({"attempt_id": attempt, "content_id": content, "score": score, "type": "attempt_metrics"})


def merged(target: dict[str, float], source: dict[str, float]) -> dict[str, float]:
    row = merge(USER_ACTIVITY_AGG, aggregate(aggregates=target), aggregate(aggregates=source))
    aggregates: dict[str, float] = row["aggregates"]
    return aggregates


@pytest.mark.parametrize(("mine", "theirs", "stands"), [(5, 3, 5), (3, 5, 5), (math.nan, 3, 3), (3, math.nan, 3)])
@pytest.mark.parametrize("key", ["completedCount", "somethingUnknown"])
def test_a_count_is_the_higher(key: str, mine: float, theirs: float, stands: float) -> None:
    assert merged({key: mine}, {key: theirs}) == {key: stands}


def test_no_key_of_either_side_is_lost() -> None:
    assert merged(
        {"completedCount": 1.0, "score:do_1": 2.0, "max_score:do_1": 3.0, "attempts_count:do_1": 1.0},
        {"completedCount": 2.0, "score:do_2": 1.0, "max_score:do_2": 5.0, "attempts_count:do_2": 4.0},
    ) == {
        "completedCount": 2.0,
        "score:do_1": 2.0,
        "max_score:do_1": 3.0,
        "attempts_count:do_1": 1.0,
        "score:do_2": 1.0,
        "max_score:do_2": 5.0,
        "attempts_count:do_2": 4.0,
    }


NAN = math.nan


@pytest.mark.parametrize(
    ("mine", "theirs", "stands"),
    [
        # A score and its max_score are of one attempt: 5 of 10 is not turned into 5 of 3.
        ((5.0, 10.0), (3.0, 3.0), (5.0, 10.0)),
        ((3.0, 3.0), (5.0, 10.0), (5.0, 10.0)),
        ((5.0, 10.0), (5.0, 8.0), (5.0, 8.0)),
        ((5.0, 8.0), (5.0, 10.0), (5.0, 8.0)),
        ((5.0, 8.0), (5.0, 8.0), (5.0, 8.0)),
        ((NAN, 10.0), (1.0, 8.0), (1.0, 8.0)),
        ((1.0, 8.0), (NAN, 2.0), (1.0, 8.0)),
        ((None, 10.0), (0.0, 8.0), (0.0, 8.0)),
        ((-1.0, 10.0), (None, 8.0), (-1.0, 10.0)),
        ((5.0, NAN), (5.0, 9.0), (5.0, 9.0)),
        # What the better attempt lacks comes from the other.
        ((5.0, None), (3.0, 10.0), (5.0, 10.0)),
        ((5.0, NAN), (3.0, 10.0), (5.0, 10.0)),
        ((5.0, None), (None, 10.0), (5.0, 10.0)),
        ((NAN, None), (NAN, 10.0), (NAN, 10.0)),
        ((NAN, NAN), (None, NAN), (NAN, NAN)),
    ],
)
def test_score_and_max_score_are_of_the_better_attempt(
    mine: tuple[float | None, float | None],
    theirs: tuple[float | None, float | None],
    stands: tuple[float | None, float | None],
) -> None:
    def aggregates(attempt: tuple[float | None, float | None]) -> dict[str, float]:
        pairs = zip(("score:do_quiz", "max_score:do_quiz"), attempt, strict=True)
        return {key: value for key, value in pairs if value is not None}

    assert same(merged(aggregates(mine), aggregates(theirs)), aggregates(stands))


@pytest.mark.parametrize(
    ("mine", "theirs", "attempts", "stands"),
    [
        (1.0, 1.0, (["a1"], ["a2"]), 2.0),
        (1.0, 1.0, (["a1"], ["a1"]), 1.0),
        (5.0, 1.0, (["a1"], ["a2"]), 5.0),
        (1.0, 5.0, (["a1"], ["a2"]), 5.0),
        (2.0, 2.0, (["a1", "a2"], ["a2", "a3"]), 3.0),
        (math.nan, math.nan, (["a1"], ["a2"]), 2.0),
    ],
)
def test_attempts_count_is_at_least_the_number_of_distinct_attempts(
    mine: float, theirs: float, attempts: tuple[list[str], list[str]], stands: float
) -> None:
    target, source = (
        aggregate(aggregates={"attempts_count:do_quiz": count}, agg_details=[detail(a) for a in ids])
        for count, ids in zip((mine, theirs), attempts, strict=True)
    )
    other = detail("a9", content="do_other")
    row = merge(USER_ACTIVITY_AGG, {**target, "agg_details": [*target["agg_details"], other, "{"]}, source)
    assert row["aggregates"] == {"attempts_count:do_quiz": stands}


def test_attempts_are_counted_even_if_one_side_has_no_aggregates() -> None:
    target = aggregate(aggregates={"attempts_count:do_quiz": 1.0}, agg_details=[detail("a1")])
    row = merge(USER_ACTIVITY_AGG, target, aggregate(agg_details=[detail("a2")]))
    assert row["aggregates"] == {"attempts_count:do_quiz": 2.0}


def test_a_copied_row_stays_as_it_is_even_if_its_count_does_not_fit_its_attempts() -> None:
    source = aggregate(
        aggregates={"attempts_count:do_quiz": 1.0, "time": math.nan}, agg_details=[detail("a1"), detail("a2")]
    )
    assert settle(USER_ACTIVITY_AGG, None, source, None, {}) == source
    assert settle(USER_ACTIVITY_AGG, {**source}, source, None, {}) == source


@pytest.mark.parametrize(
    ("mine", "theirs", "stands"),
    [
        ([detail("a1")], [detail("a2")], [detail("a1"), detail("a2")]),
        # The same attempt, told differently: the target's.
        ([detail("a1", score=1)], [detail("a1", score=2)], [detail("a1", score=1)]),
        # An attempt id may repeat in another content.
        ([detail("a1")], [detail("a1", content="do_2")], [detail("a1"), detail("a1", content="do_2")]),
        ([detail("a1"), detail("a1")], [detail("a2")], [detail("a1"), detail("a2")]),
        # What is no attempt is told apart by its text, and kept.
        (["{"], ["{", "[1]", '"a"', "7"], ["{", "[1]", '"a"', "7"]),
        ([detail(None)], [detail(None, score=2), detail(" "), detail(["a1"])], None),
        ([detail("a1", content=["x"])], [detail("a1", content=None)], [detail("a1", content=["x"])]),
        (["[" * 100_000], [detail("a1")], ["[" * 100_000, detail("a1")]),
        (["1" * 5_000], [detail("a1")], ["1" * 5_000, detail("a1")]),
    ],
)
def test_agg_details_are_united_by_attempt_the_targets_first(
    mine: list[str], theirs: list[str], stands: list[str] | None
) -> None:
    row = merge(USER_ACTIVITY_AGG, aggregate(agg_details=mine), aggregate(agg_details=theirs))
    assert row["agg_details"] == ([*mine, *theirs] if stands is None else stands)


def test_the_legacy_counts_are_the_higher_per_key() -> None:
    row = merge(USER_ACTIVITY_AGG, aggregate(agg={"a": 1, "b": 5}), aggregate(agg={"b": 4, "c": 0}))
    assert row == aggregate(agg={"a": 1, "b": 5, "c": 0})


def test_update_times_are_the_later_per_key() -> None:
    row = merge(
        USER_ACTIVITY_AGG,
        aggregate(agg_last_updated={"completedCount": 10, "score:do_1": 5}),
        aggregate(agg_last_updated={"completedCount": 20, "score:do_2": 1}),
    )
    assert row == aggregate(agg_last_updated={"completedCount": 20, "score:do_1": 5, "score:do_2": 1})


@pytest.mark.parametrize("column", USER_ACTIVITY_AGG.values)
def test_a_column_that_one_account_lacks_is_the_others(column: str) -> None:
    full = {
        "agg": {"a": 1},
        "aggregates": {"attempts_count:do_quiz": 1.0},
        "agg_details": [detail("a1"), detail("a1")],
        "agg_last_updated": {"completedCount": 5},
    }
    only_that = aggregate(**{column: full[column]})
    assert merge(USER_ACTIVITY_AGG, aggregate(), only_that) == only_that
    assert merge(USER_ACTIVITY_AGG, only_that, aggregate()) == only_that


def test_merged_the_source_may_go_and_without_a_target_it_may_not() -> None:
    source = aggregate(aggregates={"completedCount": 1.0})
    assert keeps(USER_ACTIVITY_AGG, source, source) is None
    assert keeps(USER_ACTIVITY_AGG, None, source) == "target has no such row"
