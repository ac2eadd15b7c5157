"""What a learner has done with a content, in both accounts: user_content_consumption."""

import math

import pytest

from lern.rules.merge import merge, settle
from lern.store.tables import USER_CONTENT_CONSUMPTION, Row

KEY = {"userid": "B", "courseid": "do_course", "batchid": "01", "contentid": "do_video"}


def content(**columns: object) -> Row:
    return {**KEY, **columns}


def merged(target: Row, source: Row) -> Row:
    return merge(USER_CONTENT_CONSUMPTION, target, source)


@pytest.mark.parametrize("column", ["status", "progress", "completionpercentage"])
@pytest.mark.parametrize(("mine", "theirs"), [(1, 2), (2, 1), (-4, 0), (2, 2)])
def test_the_higher_stands(column: str, mine: int, theirs: int) -> None:
    assert merged(content(**{column: mine}), content(**{column: theirs})) == content(**{column: max(mine, theirs)})


def test_a_percentage_that_is_not_a_number_loses_on_either_side() -> None:
    assert merged(content(completionpercentage=math.nan), content(completionpercentage=3.5)) == content(
        completionpercentage=3.5
    )
    assert merged(content(completionpercentage=3.5), content(completionpercentage=math.nan)) == content(
        completionpercentage=3.5
    )


@pytest.mark.parametrize("column", ["datetime", "last_access_time", "last_completed_time", "last_updated_time"])
@pytest.mark.parametrize(("mine", "theirs"), [(1_645_422_883_853, 1_645_422_883_854), (5, -5), (7, 7)])
def test_the_later_time_stands(column: str, mine: int, theirs: int) -> None:
    assert merged(content(**{column: mine}), content(**{column: theirs})) == content(**{column: max(mine, theirs)})


@pytest.mark.parametrize("column", ["lastaccesstime", "lastcompletedtime", "lastupdatedtime"])
@pytest.mark.parametrize(
    ("mine", "theirs", "stands"),
    [
        ("2022-02-21 05:54:43:853+0000", "2022-02-21 05:54:43:854+0000", "2022-02-21 05:54:43:854+0000"),
        ("2022-02-21 05:54:43:853+0000", "2021-12-31 23:59:59:999+0000", "2022-02-21 05:54:43:853+0000"),
        # 10:00 in India is 04:30 UTC, so the text that looks later is the earlier time.
        ("2022-02-21 05:00:00:000+0000", "2022-02-21 10:00:00:000+0530", "2022-02-21 05:00:00:000+0000"),
        # The same moment, written in two zones, stays the target's.
        ("2022-02-21 04:30:00:000+0000", "2022-02-21 10:00:00:000+0530", "2022-02-21 04:30:00:000+0000"),
        ("yesterday", "2022-02-21 05:54:43:853+0000", "2022-02-21 05:54:43:853+0000"),
        ("2022-02-21 05:54:43:853+0000", "2099-02-30 00:00:00:000+0000", "2022-02-21 05:54:43:853+0000"),
        ("yesterday", "tomorrow", "yesterday"),
        ("", "2022-02-21 05:54:43:853+0000", "2022-02-21 05:54:43:853+0000"),
    ],
)
def test_the_later_text_time_stands_and_one_that_cannot_be_parsed_loses(
    column: str, mine: str, theirs: str, stands: str
) -> None:
    assert merged(content(**{column: mine}), content(**{column: theirs})) == content(**{column: stands})


FULL = content(
    status=2,
    progress=100,
    completionpercentage=100.0,
    progressdetails="{}",
    datetime=4,
    last_access_time=1,
    last_completed_time=2,
    last_updated_time=3,
    lastaccesstime="2022-02-21 05:54:43:853+0000",
    lastcompletedtime="not a time",
    lastupdatedtime="2022-02-21 05:54:43:853+0000",
    viewcount=3,
    completedcount=-1,
)


@pytest.mark.parametrize("column", USER_CONTENT_CONSUMPTION.values)
def test_a_column_that_one_account_lacks_is_the_others(column: str) -> None:
    only_that = content(**{column: FULL[column]})
    assert merged(content(), only_that) == only_that
    assert merged(only_that, content()) == only_that
    assert merged(content(), content()) == content()


@pytest.mark.parametrize(
    ("mine", "theirs", "stands"),
    [
        ({"status": 1, "progress": 90}, {"status": 2, "progress": 10}, "theirs"),
        ({"status": 1, "progress": 10}, {"status": 1, "progress": 20}, "theirs"),
        ({"status": 1, "progress": 20}, {"status": 1, "progress": 10, "last_access_time": 99}, "mine"),
        ({"last_access_time": 5}, {"last_access_time": 6}, "theirs"),
        ({"last_access_time": 5}, {"last_access_time": 5}, "mine"),
        ({}, {}, "mine"),
        ({}, {"status": 0}, "theirs"),
        ({"status": -1}, {}, "mine"),
        ({}, {"lastaccesstime": "2022-02-21 05:54:43:853+0000"}, "theirs"),
        ({}, {"lastaccesstime": "not a time"}, "mine"),
        ({"last_access_time": 0}, {"lastaccesstime": "2022-02-21 05:54:43:853+0000"}, "theirs"),
    ],
)
def test_progressdetails_are_of_the_row_that_got_further(
    mine: dict[str, object], theirs: dict[str, object], stands: str
) -> None:
    row = merged(content(progressdetails="mine", **mine), content(progressdetails="theirs", **theirs))
    assert row["progressdetails"] == stands


def test_progressdetails_are_the_others_when_the_row_that_got_further_has_none() -> None:
    behind = content(status=1, progressdetails="page 3")
    for nothing in ({}, {"progressdetails": ""}):
        ahead = content(status=2, **nothing)
        assert merged(behind, ahead)["progressdetails"] == "page 3"
        assert merged(ahead, behind)["progressdetails"] == "page 3"


@pytest.mark.parametrize("column", ["viewcount", "completedcount"])
@pytest.mark.parametrize(
    ("mine", "theirs", "stands"),
    [
        (3, 4, 7),
        (0, 4, 4),
        (3, None, 3),
        (None, 4, 4),
        (None, None, None),
        (None, 0, 0),
        # A negative count means nothing and counts as 0 where two rows meet.
        (-3, 4, 4),
        (3, -4, 3),
        (-3, -4, 0),
        (None, -4, 0),
        (-3, None, 0),
        # Beyond 32 bits nothing could be stored.
        (2**31 - 1, 1, 2**31 - 1),
        (2**31 - 2, 2**31 - 1, 2**31 - 1),
    ],
)
def test_counts_add_up(column: str, mine: int | None, theirs: int | None, stands: int | None) -> None:
    target, source = (content() if count is None else content(**{column: count}) for count in (mine, theirs))
    row = settle(USER_CONTENT_CONSUMPTION, target, source, target, {})
    assert row is not None
    assert row.get(column) == stands


def test_merging_alone_never_adds_counts_because_it_cannot_know_what_was_added() -> None:
    assert merged(content(viewcount=3), content(viewcount=4)) == content(viewcount=3)


def test_a_row_that_only_the_source_has_is_copied_as_it_is() -> None:
    assert settle(USER_CONTENT_CONSUMPTION, None, FULL, None, {}) == FULL


def test_what_comes_in_is_not_changed() -> None:
    target, source = content(status=1, viewcount=1), content(status=2, viewcount=1)
    settle(USER_CONTENT_CONSUMPTION, target, source, target, {})
    assert (target, source) == (content(status=1, viewcount=1), content(status=2, viewcount=1))
