"""How far a learner is in a course, recomputed from what stands in user_content_consumption.

The merge raises what it can, but the higher of two counts is not the count of two halves together: after a
merge an enrolment is true only once it has been counted again. Every time written here comes from the event.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from lern.rules.enrolments import COMPLETED, ghost
from lern.rules.times import instant
from lern.store.tables import USER_ACTIVITY_AGG, Key, Row

_BEGUN: Final = 1
_COUNT: Final = "completedCount"


@dataclass(frozen=True)
class Relations:
    """The contents of one collection (a course or a unit of it), from Redis: leaf nodes and the optional ones."""

    leafnodes: frozenset[str]
    optional: frozenset[str]

    @property
    def required(self) -> frozenset[str]:
        """The contents that have to be done."""
        return self.leafnodes - self.optional


@dataclass(frozen=True)
class Progress:
    """How far a learner is in a course.

    `completed_count`: required contents of the course that are done. `unit_counts`: the same per unit.
    `content_status`: the status of every content that was touched. `completed_on`: milliseconds since 1970
    UTC, None unless `complete`.
    """

    completed_count: int
    unit_counts: Mapping[str, int]
    content_status: Mapping[str, int]
    complete: bool
    completed_on: int | None


def course_progress(
    contents: Iterable[Row], course: Relations, units: Mapping[str, Relations], event_time: int
) -> Progress:
    """Count what a learner has done of a course.

    `contents`: the user_content_consumption rows of one user, course and batch. `units`: relations by unit.
    `event_time` (ms) dates a completion whose contents tell no time. A course of which nothing is required
    is never complete.
    """
    content_status: dict[str, int] = {}
    done_at: dict[str, int | None] = {}
    for row in contents:
        content, status = row["contentid"], _status(row)
        content_status[content] = status
        if status >= COMPLETED:
            done_at[content] = _completed_at(row)
    counted = course.required & done_at.keys()
    complete = bool(course.required) and counted == course.required
    times = [time for content in counted if (time := done_at[content]) is not None]
    return Progress(
        completed_count=len(counted),
        unit_counts={unit: len(relations.required & done_at.keys()) for unit, relations in units.items()},
        content_status=content_status,
        complete=complete,
        completed_on=max(times, default=event_time) if complete else None,
    )


def settle_enrolment(enrolment: Row, progress: Progress, event_time: int, *, may_complete: bool = True) -> Row:
    """Give the enrolment as its progress says it should be. Doing it again changes nothing.

    `may_complete`: otherwise one that is not completed yet stays so, all else is as its progress says. A completed
    enrolment is never lowered. One that is not is recomputed, so its progress may go down to
    what is really done. A ghost stays as it is. `datetime` moves (never back) only if something else does.
    """
    if ghost(enrolment):
        return enrolment.copy()
    known = enrolment.get("contentstatus", {})
    content_status = {
        **known,
        **{content: max(known.get(content, status), status) for content, status in progress.content_status.items()},
    }
    settled = {**enrolment, **_standing(enrolment, progress, may_complete=may_complete)}
    if content_status:
        settled["contentstatus"] = content_status
    if settled != enrolment:
        settled["datetime"] = max(enrolment.get("datetime", event_time), event_time)
    return settled


def settle_aggregate(row: Row | None, key: Key, count: int, event_time: int, *, floor: bool) -> Row | None:
    """Give the user_activity_agg row of a course or unit with its completedCount as counted.

    `key`: the row's primary key, in the table's order. `floor`: the count must not go down, because the
    enrolment is completed. Every other aggregate stays. Doing it again changes nothing. Returns None when no
    row stands and none is needed, since nothing is counted.
    """
    standing: Row = dict(zip(USER_ACTIVITY_AGG.key, key, strict=True)) if row is None else row
    aggregates: Mapping[str, float] = standing.get("aggregates", {})
    updated: Mapping[str, int] = standing.get("agg_last_updated", {})
    known = aggregates.get(_COUNT, 0.0)
    if count == known or (floor and known > count):
        return row
    return {
        **standing,
        "aggregates": {**aggregates, _COUNT: float(count)},
        "agg_last_updated": {**updated, _COUNT: max(updated.get(_COUNT, event_time), event_time)},
    }


def _standing(enrolment: Row, progress: Progress, *, may_complete: bool) -> Row:
    """Give the columns that say how far the learner is."""
    status, count = enrolment.get("status", 0), enrolment.get("progress", 0)
    if status >= COMPLETED:
        return {"progress": max(count, progress.completed_count)}
    if progress.complete and may_complete:
        completed_on = enrolment.get("completedon", progress.completed_on)
        return {"status": COMPLETED, "progress": progress.completed_count, "completedon": completed_on}
    begun = any(content >= _BEGUN for content in progress.content_status.values())
    return {"status": max(status, _BEGUN) if begun else status, "progress": progress.completed_count}


def _status(row: Row) -> int:
    """Give a content's status. A row without one was made by a count of views: the content was begun."""
    status: int = row.get("status", _BEGUN)
    return status


def _completed_at(row: Row) -> int | None:
    time: int | None = row.get("last_completed_time")
    return instant(row.get("lastcompletedtime")) if time is None else time
