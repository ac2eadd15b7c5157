"""Progress recomputed after a merge from what stands in user_content_consumption."""

from collections.abc import Mapping

import pytest

from lern.rules.progress import Progress, Relations, course_progress, settle_aggregate, settle_enrolment
from lern.store.tables import Row

EVENT_TIME = 1_700_000_000_000
COURSE = Relations(frozenset({"do_1", "do_2", "do_3", "do_extra"}), frozenset({"do_extra"}))
UNITS = {
    "unit_1": Relations(frozenset({"do_1", "do_extra"}), frozenset({"do_extra"})),
    "unit_2": Relations(frozenset({"do_2", "do_3"}), frozenset()),
}
ENROLMENT_KEY = {"userid": "B", "courseid": "do_course", "batchid": "01"}
AGG_KEY = ("Course", "do_course", "B", "cb:01")
AGG_COLUMNS = {"activity_type": "Course", "activity_id": "do_course", "user_id": "B", "context_id": "cb:01"}


def content(contentid: str, **columns: object) -> Row:
    return {"userid": "B", "courseid": "do_course", "batchid": "01", "contentid": contentid, **columns}


def done(*contents: str) -> list[Row]:
    return [content(contentid, status=2) for contentid in contents]


def progress_of(*contents: Row, course: Relations = COURSE) -> Progress:
    return course_progress(contents, course, UNITS, EVENT_TIME)


class TestCourseProgress:
    def test_two_halves_of_a_course_make_a_whole(self) -> None:
        progress = progress_of(*done("do_1", "do_2", "do_3"))
        assert (progress.completed_count, progress.complete) == (3, True)
        assert progress.unit_counts == {"unit_1": 1, "unit_2": 2}

    def test_optional_and_foreign_contents_do_not_count(self) -> None:
        progress = progress_of(*done("do_1", "do_extra", "do_elsewhere"))
        assert (progress.completed_count, progress.complete, progress.completed_on) == (1, False, None)
        assert progress.unit_counts == {"unit_1": 1, "unit_2": 0}
        assert progress.content_status == {"do_1": 2, "do_extra": 2, "do_elsewhere": 2}

    def test_a_status_above_two_is_done_and_one_below_is_not(self) -> None:
        progress = progress_of(
            content("do_1", status=3), content("do_2", status=1), content("do_3", status=0), content("do_4", status=-1)
        )
        assert progress.completed_count == 1
        assert progress.content_status == {"do_1": 3, "do_2": 1, "do_3": 0, "do_4": -1}

    def test_a_content_without_a_status_was_begun(self) -> None:
        assert progress_of(content("do_1", viewcount=1)).content_status == {"do_1": 1}

    @pytest.mark.parametrize("course", [Relations(frozenset(), frozenset()), Relations(frozenset("a"), frozenset("a"))])
    def test_a_course_that_requires_nothing_is_never_complete(self, course: Relations) -> None:
        progress = progress_of(*done("a"), course=course)
        assert (progress.completed_count, progress.complete, progress.completed_on) == (0, False, None)

    def test_nothing_consumed(self) -> None:
        assert progress_of() == Progress(0, {"unit_1": 0, "unit_2": 0}, {}, complete=False, completed_on=None)

    @pytest.mark.parametrize(
        ("times", "completed_on"),
        [
            (({"last_completed_time": 5}, {"last_completed_time": 9}, {"last_completed_time": 7}), 9),
            (
                ({"last_completed_time": 5}, {"lastcompletedtime": "2022-02-21 05:54:43:853+0000"}, {}),
                1_645_422_883_853,
            ),
            (({"last_completed_time": 5, "lastcompletedtime": "2022-02-21 05:54:43:853+0000"}, {}, {}), 5),
            (({"lastcompletedtime": "never"}, {}, {}), EVENT_TIME),
            (({}, {}, {}), EVENT_TIME),
        ],
    )
    def test_completed_when_the_last_counted_content_was(
        self, times: tuple[Mapping[str, object], ...], completed_on: int
    ) -> None:
        rows = [content(f"do_{number}", status=2, **columns) for number, columns in enumerate(times, 1)]
        optional = content("do_extra", status=2, last_completed_time=EVENT_TIME * 2)
        assert progress_of(*rows, optional).completed_on == completed_on


def enrolment(**columns: object) -> Row:
    return {**ENROLMENT_KEY, "active": True, **columns}


COMPLETE = Progress(3, {}, {"do_1": 2, "do_2": 2, "do_3": 2}, complete=True, completed_on=77)
HALF = Progress(1, {}, {"do_1": 2, "do_2": 1}, complete=False, completed_on=None)
NOT_BEGUN = Progress(0, {}, {"do_1": 0}, complete=False, completed_on=None)


class TestSettleEnrolment:
    def test_a_course_now_complete_is_completed_at_its_last_content(self) -> None:
        before = enrolment(status=1, progress=2, contentstatus={"do_1": 2, "do_9": 1}, datetime=5)
        assert settle_enrolment(before, COMPLETE, EVENT_TIME) == enrolment(
            status=2,
            progress=3,
            completedon=77,
            contentstatus={"do_1": 2, "do_2": 2, "do_3": 2, "do_9": 1},
            datetime=EVENT_TIME,
        )

    def test_one_that_may_not_be_completed_yet_is_counted_all_the_same(self) -> None:
        before = enrolment(progress=2, contentstatus={"do_1": 2})
        assert settle_enrolment(before, COMPLETE, EVENT_TIME, may_complete=False) == enrolment(
            status=1, progress=3, contentstatus=dict(COMPLETE.content_status), datetime=EVENT_TIME
        )
        completed = enrolment(status=2, progress=3, completedon=5, contentstatus=dict(COMPLETE.content_status))
        assert settle_enrolment(completed, COMPLETE, EVENT_TIME, may_complete=False) == completed

    def test_progress_that_was_too_high_is_recomputed_while_not_completed(self) -> None:
        settled = settle_enrolment(enrolment(status=1, progress=9, contentstatus={"do_2": 2}), HALF, EVENT_TIME)
        assert settled == enrolment(status=1, progress=1, contentstatus={"do_1": 2, "do_2": 2}, datetime=EVENT_TIME)

    @pytest.mark.parametrize(
        ("status", "progress", "stands"), [(0, HALF, 1), (0, NOT_BEGUN, 0), (1, NOT_BEGUN, 1), (None, NOT_BEGUN, 0)]
    )
    def test_an_enrolment_is_begun_when_a_content_is(self, status: int | None, progress: Progress, stands: int) -> None:
        before = enrolment() if status is None else enrolment(status=status)
        assert settle_enrolment(before, progress, EVENT_TIME)["status"] == stands

    def test_a_completed_enrolment_is_never_lowered(self) -> None:
        before = enrolment(status=2, progress=9, completedon=5, contentstatus={"do_1": 2, "do_2": 2}, datetime=4)
        assert settle_enrolment(before, HALF, EVENT_TIME) == before

    def test_a_completed_enrolment_may_rise_but_keeps_its_completion(self) -> None:
        before = enrolment(status=2, progress=1, completedon=5, contentstatus={"do_2": 1})
        assert settle_enrolment(before, COMPLETE, EVENT_TIME) == enrolment(
            status=2, progress=3, completedon=5, contentstatus=dict(COMPLETE.content_status), datetime=EVENT_TIME
        )

    def test_datetime_never_goes_back(self) -> None:
        assert settle_enrolment(enrolment(datetime=EVENT_TIME + 1), HALF, EVENT_TIME)["datetime"] == EVENT_TIME + 1

    def test_a_ghost_stays_as_it_is(self) -> None:
        ghost = {**ENROLMENT_KEY, "status": 1}
        assert settle_enrolment(ghost, COMPLETE, EVENT_TIME) == ghost

    @pytest.mark.parametrize("progress", [COMPLETE, HALF, NOT_BEGUN])
    @pytest.mark.parametrize("columns", [{}, {"status": 1}, {"status": 2}, {"status": 0, "progress": 9}])
    def test_again_changes_nothing(self, progress: Progress, columns: dict[str, object]) -> None:
        once = settle_enrolment(enrolment(**columns), progress, EVENT_TIME)
        assert settle_enrolment(once, progress, EVENT_TIME + 5) == once


class TestSettleAggregate:
    def test_the_count_is_set_and_other_aggregates_stay(self) -> None:
        before = {
            **AGG_COLUMNS,
            "aggregates": {"completedCount": 1.0, "score:do_1": 2.0},
            "agg_last_updated": {"completedCount": 1, "score:do_1": 2},
            "agg_details": ["{}"],
        }
        assert settle_aggregate(before, AGG_KEY, 3, EVENT_TIME, floor=False) == {
            **before,
            "aggregates": {"completedCount": 3.0, "score:do_1": 2.0},
            "agg_last_updated": {"completedCount": EVENT_TIME, "score:do_1": 2},
        }

    def test_a_missing_row_is_made(self) -> None:
        made = settle_aggregate(None, AGG_KEY, 1, EVENT_TIME, floor=False)
        assert made == {
            **AGG_COLUMNS,
            "aggregates": {"completedCount": 1.0},
            "agg_last_updated": {"completedCount": EVENT_TIME},
        }

    def test_no_row_is_made_to_say_nothing(self) -> None:
        assert settle_aggregate(None, AGG_KEY, 0, EVENT_TIME, floor=False) is None

    def test_a_count_that_is_right_already_is_not_touched(self) -> None:
        row = {**AGG_COLUMNS, "aggregates": {"completedCount": 3.0}}
        assert settle_aggregate(row, AGG_KEY, 3, EVENT_TIME, floor=False) == row

    @pytest.mark.parametrize(("floor", "stands"), [(True, 5.0), (False, 3.0)])
    def test_only_a_completed_enrolments_count_may_not_go_down(self, floor: bool, stands: float) -> None:
        row = {**AGG_COLUMNS, "aggregates": {"completedCount": 5.0}}
        settled = settle_aggregate(row, AGG_KEY, 3, EVENT_TIME, floor=floor)
        assert settled is not None
        assert settled["aggregates"] == {"completedCount": stands}

    def test_a_count_that_is_not_a_number_is_mended(self) -> None:
        row = {**AGG_COLUMNS, "aggregates": {"completedCount": float("nan")}}
        settled = settle_aggregate(row, AGG_KEY, 3, EVENT_TIME, floor=True)
        assert settled is not None
        assert settled["aggregates"] == {"completedCount": 3.0}

    def test_the_time_of_the_count_never_goes_back(self) -> None:
        row = {**AGG_COLUMNS, "agg_last_updated": {"completedCount": EVENT_TIME + 1}}
        settled = settle_aggregate(row, AGG_KEY, 3, EVENT_TIME, floor=False)
        assert settled is not None
        assert settled["agg_last_updated"] == {"completedCount": EVENT_TIME + 1}
