"""Sample learners: small accounts that hold a little of everything that a merge has to bring together."""

import json
from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import Any, Final

from lern.store.tables import (
    ASSESSMENT_AGGREGATOR,
    CONTENT_CONSUMPTION,
    USER_ACTIVITY_AGG,
    USER_CONTENT_CONSUMPTION,
    USER_COURSES,
    USER_ENROLMENTS,
    Row,
    Table,
)

Placed = tuple[Table, Row]

# Milliseconds: a day in February 2022, and a day's length.
DAY: Final = 1_645_401_600_000
ONE_DAY: Final = 86_400_000


def text_time(day: int) -> str:
    """The text that Sunbird writes for a time on one of the days 1 to 28."""
    return f"2022-02-{day:02d} 05:54:43:853+0000"


def content(user: str, course: str, batch: str, name: str, **columns: Any) -> Placed:
    """What a learner has seen of a content."""
    key = {"userid": user, "courseid": course, "batchid": batch, "contentid": name}
    return USER_CONTENT_CONSUMPTION, {**key, **columns}


def enrolment(user: str, course: str, batch: str, **columns: Any) -> Placed:
    """An enrolment."""
    return USER_ENROLMENTS, {"userid": user, "courseid": course, "batchid": batch, **columns}


def aggregates(user: str, activity: str, batch: str, **columns: Any) -> Placed:
    """The aggregates of a course or unit."""
    key = {"activity_type": "Course", "activity_id": activity, "user_id": user, "context_id": f"cb:{batch}"}
    return USER_ACTIVITY_AGG, {**key, **columns}


def attempt(user: str, course: str, batch: str, name: str, number: str, **columns: Any) -> Placed:
    """An attempt at an assessment."""
    key = {"user_id": user, "course_id": course, "batch_id": batch, "content_id": name, "attempt_id": number}
    return ASSESSMENT_AGGREGATOR, {**key, **columns}


def details(name: str, number: str, score: float) -> str:
    """What `agg_details` says of one attempt."""
    return json.dumps({"content_id": name, "attempt_id": number, "score": score, "max_score": 10.0})


def legacy_content(user: str, course: str, batch: str, name: str, **columns: Any) -> Placed:
    """What the older table says of a content."""
    key = {"userid": user, "contentid": name, "batchid": batch, "courseid": course}
    return CONTENT_CONSUMPTION, {**key, **columns}


def legacy_enrolment(user: str, course: str, batch: str, **columns: Any) -> Placed:
    """What the older table says of an enrolment."""
    return USER_COURSES, {"batchid": batch, "userid": user, "courseid": course, **columns}


def two_accounts(source: str, target: str) -> list[Placed]:
    """Two accounts of one learner, with rows in every table.

    Together they have completed course-1, which neither has alone; course-2 only the source has begun, and
    of course-3 it has a row by which nobody ever enrolled.
    """
    return [*_source(source), *_target(target)]


RELATIONS: Final[dict[str, list[str]]] = {
    "course-1:course-1:leafnodes": ["c1", "c2", "c3", "c4"],
    "course-1:course-1:optionalnodes": ["c4"],
    "course-1:unit-1:leafnodes": ["c1", "c2"],
    "course-1:unit-2:leafnodes": ["c3", "c4"],
    "course-1:c1:ancestors": ["course-1", "unit-1"],
    "course-1:c2:ancestors": ["course-1", "unit-1"],
    "course-1:c3:ancestors": ["course-1", "unit-2"],
    "course-2:course-2:leafnodes": ["c1", "c9"],
    "course-2:c1:ancestors": ["course-2"],
}


def _source(user: str) -> Iterator[Placed]:
    yield content(user, "course-1", "b1", "c1", status=2, progress=100, viewcount=3, completedcount=1, **_done(3))
    yield content(user, "course-1", "b1", "c2", status=2, progress=100, viewcount=1, completedcount=1, **_done(5))
    yield content(user, "course-1", "b1", "c3", status=1, progress=40, viewcount=4, progressdetails='{"page":4}')
    yield content(user, "course-2", "b2", "c1", status=1, progress=10, viewcount=2, lastaccesstime=text_time(4))
    yield enrolment(
        user,
        "course-1",
        "b1",
        active=True,
        enrolled_date=DAY,
        status=1,
        progress=2,
        contentstatus={"c1": 2, "c2": 2, "c3": 1},
        issued_certificates=[{"name": "first", "token": "t1"}, {"name": "second", "identifier": "i2"}],
        lastreadcontentid="c3",
        lastreadcontentstatus=1,
        lastcontentaccesstime=DAY + 3 * ONE_DAY,
    )
    yield enrolment(user, "course-2", "b2", active=True, enrolled_date=DAY, status=1, contentstatus={"c1": 1})
    yield enrolment(user, "course-3", "b3", contentstatus={"c1": 1})
    scores = {"completedCount": 2.0, "score:c2": 7.0, "max_score:c2": 10.0, "attempts_count:c2": 2.0}
    both = [details("c2", "a1", 5.0), details("c2", "a2", 7.0)]
    yield aggregates(user, "course-1", "b1", aggregates=scores, agg_details=both, agg_last_updated={"score:c2": DAY})
    yield aggregates(user, "unit-1", "b1", aggregates={"completedCount": 2.0}, agg={"completedCount": 2})
    yield aggregates(user, "course-2", "b2", aggregates={"completedCount": 0.0})
    yield attempt(user, "course-1", "b1", "c2", "a1", total_score=5.0, last_attempted_on=DAY, **_questions("q1"))
    yield attempt(user, "course-1", "b1", "c2", "a2", total_score=7.0, last_attempted_on=DAY + 9, **_questions("q2"))
    yield legacy_content(user, "course-1", "b1", "c1", status=2, viewcount=3, grade="A", lastaccesstime=text_time(3))
    yield legacy_content(user, "course-1", "b1", "c2", status=1, viewcount=1)
    yield legacy_enrolment(user, "course-1", "b1", active=True, status=1, delta="{}")
    yield legacy_enrolment(user, "course-2", "b2", active=True, status=1, contentstatus={"c1": 1})


def _target(user: str) -> Iterator[Placed]:
    yield content(user, "course-1", "b1", "c1", status=1, progress=60, viewcount=2, lastaccesstime="yesterday")
    yield content(user, "course-1", "b1", "c3", status=2, progress=100, viewcount=1, completedcount=1, **_done(8))
    yield content(user, "course-4", "b4", "c1", status=2, viewcount=9)
    yield enrolment(
        user,
        "course-1",
        "b1",
        active=True,
        enrolled_date=DAY + ONE_DAY,
        status=1,
        progress=1,
        contentstatus={"c1": 1, "c3": 2},
        certificates=[{"name": "own", "identifier": "i9"}],
        lastreadcontentid="c1",
        lastcontentaccesstime=DAY,
    )
    yield enrolment(user, "course-4", "b4", active=True, enrolled_date=DAY, status=1)
    scores = {"completedCount": 1.0, "score:c2": 6.0, "max_score:c2": 10.0, "attempts_count:c2": 1.0}
    yield aggregates(user, "course-1", "b1", aggregates=scores, agg_details=[details("c2", "a3", 6.0)])
    yield attempt(user, "course-1", "b1", "c2", "a3", total_score=6.0, last_attempted_on=DAY + 5)
    yield attempt(user, "course-1", "b1", "c2", "a1", total_score=4.0, last_attempted_on=DAY - 5, **_questions("q0"))
    yield legacy_content(user, "course-1", "b1", "c1", status=1, viewcount=4, grade="B", lastaccesstime=text_time(9))
    yield legacy_enrolment(user, "course-1", "b1", active=False, status=0)


def _done(day: int) -> dict[str, Any]:
    time = DAY + day * ONE_DAY
    return {"last_completed_time": time, "last_access_time": time + 5, "lastcompletedtime": text_time(day)}


def _questions(name: str) -> dict[str, Any]:
    known = {"id": name, "score": 1.0, "max_score": 2.0, "assess_ts": DAY, "duration": Decimal("12.50")}
    return {"question": [{**known, "resvalues": [{"1": "yes"}]}], "grand_total": "7.0/10.0"}


def account(user: str, courses: Sequence[str], contents: int = 2, **columns: Any) -> list[Placed]:
    """An account with contents, enrolment, aggregates and an attempt in each course, in batches of the same name.

    Accounts with a course in common have everything in it in common but the attempts, and no two values tie, so
    that it makes no difference in what order such accounts are merged.
    """
    mark = sum(user.encode()) % 97
    rows: list[Placed] = []
    for course in courses:
        rows += [
            content(
                user, course, course, f"c{number}", status=1, viewcount=1 + mark, last_access_time=DAY + mark, **columns
            )
            for number in range(contents)
        ]
        rows.append(enrolment(user, course, course, active=True, enrolled_date=DAY + mark, status=1))
        rows.append(aggregates(user, course, course, aggregates={"completedCount": 0.0, f"score:{user}": float(mark)}))
        rows.append(attempt(user, course, course, "c0", f"attempt-{user}", total_score=float(mark)))
    return rows
