"""The tables of the first merge design: content_consumption and user_courses."""

import pytest

from lern.rules.merge import EnrolmentPolicy, keeps, merge, settle
from lern.store.tables import CONTENT_CONSUMPTION, USER_COURSES, Row

CONTENT_KEY = {"userid": "B", "contentid": "do_video", "batchid": "01", "courseid": "do_course"}
COURSE_KEY = {"batchid": "01", "userid": "B"}


def content(**columns: object) -> Row:
    return {**CONTENT_KEY, **columns}


@pytest.mark.parametrize(
    ("column", "mine", "theirs", "stands"),
    [
        ("status", 1, 2, 2),
        ("progress", 50, 20, 50),
        ("datetime", 1, 2, 2),
        (
            "lastaccesstime",
            "2022-02-21 05:54:43:853+0000",
            "2022-02-21 05:54:43:854+0000",
            "2022-02-21 05:54:43:854+0000",
        ),
        ("lastcompletedtime", "never", "2022-02-21 05:54:43:853+0000", "2022-02-21 05:54:43:853+0000"),
        ("lastupdatedtime", "2022-02-21 05:54:43:853+0000", "never", "2022-02-21 05:54:43:853+0000"),
        ("contentversion", "1", "2", "1"),
        ("viewcount", 2, 3, 5),
        ("completedcount", 0, 3, 3),
    ],
)
def test_columns_follow_their_namesakes(column: str, mine: object, theirs: object, stands: object) -> None:
    target, source = content(**{column: mine}), content(**{column: theirs})
    assert settle(CONTENT_CONSUMPTION, target, source, target, {}) == content(**{column: stands})
    assert settle(CONTENT_CONSUMPTION, content(), source, content(), {}) == source


@pytest.mark.parametrize(
    ("mine", "theirs", "stands"),
    [
        ({"status": 1}, {"status": 2}, "theirs"),
        ({"status": 2, "progress": 5}, {"status": 2, "progress": 4}, "mine"),
        ({"status": 2}, {"status": 2, "lastaccesstime": "2022-02-21 05:54:43:853+0000"}, "theirs"),
        ({"status": 2}, {"status": 2}, "mine"),
    ],
)
def test_grade_result_and_score_are_of_the_row_that_got_further(mine: Row, theirs: Row, stands: str) -> None:
    results = ("grade", "result", "score")
    row = merge(
        CONTENT_CONSUMPTION,
        content(**dict.fromkeys(results, "mine"), **mine),
        content(**dict.fromkeys(results, "theirs"), **theirs),
    )
    assert [row[column] for column in results] == [stands] * 3


def test_a_score_that_the_further_row_lacks_is_the_others() -> None:
    row = merge(CONTENT_CONSUMPTION, content(status=1, score="7", grade="B"), content(status=2, grade="A"))
    assert row == content(status=2, score="7", grade="A")


@pytest.mark.parametrize("policy", list(EnrolmentPolicy))
class TestUserCourses:
    def test_a_target_that_exists_stays_as_it_is_and_the_source_goes(self, policy: EnrolmentPolicy) -> None:
        target = {**COURSE_KEY, "status": 0}
        source = {**COURSE_KEY, "status": 2, "completedon": 5, "certificates": [{"token": "T"}], "addedby": "x"}
        settled = settle(USER_COURSES, target, source, target, {}, policy)
        assert settled == target
        assert keeps(USER_COURSES, settled, source, policy) is None

    def test_a_row_that_only_the_source_has_is_copied_whole_with_its_course(self, policy: EnrolmentPolicy) -> None:
        source = {**COURSE_KEY, "courseid": "do_course", "status": 2, "delta": "{}", "grade": "A"}
        assert settle(USER_COURSES, None, source, None, {}, policy) == source
        assert keeps(USER_COURSES, None, source, policy) == "target has no such row"
