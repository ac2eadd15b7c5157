"""One learner's account as a person would describe it: the courses, how far, and what came of them."""

from collections.abc import Mapping
from dataclasses import dataclass

from lern.relations import Relations
from lern.store.base import Store
from lern.store.tables import (
    ASSESSMENT_AGGREGATOR,
    COURSE_BATCH,
    USER_ACTIVITY_AGG,
    USER_CONTENT_CONSUMPTION,
    USER_ENROLMENTS,
)

COMPLETED = 2


@dataclass(frozen=True)
class Course:
    """One enrolment. `best` and `out_of` are the scores of the best attempt, None without any."""

    name: str
    done: int
    lessons: int
    completed: bool
    certificate: bool
    attempts: int
    best: float | None
    out_of: float | None


def courses_of(store: Store, relations: Relations, user: str) -> list[Course]:
    """Read an account's courses, in the order of their names."""
    found = [_course(store, relations, row) for row in store.rows(USER_ENROLMENTS, (user,))]
    return sorted(found, key=lambda course: course.name)


def _course(store: Store, relations: Relations, enrolment: Mapping[str, object]) -> Course:
    user, course, batch = (str(enrolment[column]) for column in USER_ENROLMENTS.key)
    lessons = relations.leafnodes(course, course)
    contents = store.rows(USER_CONTENT_CONSUMPTION, (user, course, batch))
    best, out_of = _best(store, user, course, batch)
    return Course(
        name=_name(store, course, batch),
        done=sum(row["contentid"] in lessons and row.get("status") == COMPLETED for row in contents),
        lessons=len(lessons),
        completed=enrolment.get("status") == COMPLETED,
        certificate="issued_certificates" in enrolment,
        attempts=len(store.rows(ASSESSMENT_AGGREGATOR, (user, course, batch))),
        best=best,
        out_of=out_of,
    )


def _name(store: Store, course: str, batch: str) -> str:
    row = store.read(COURSE_BATCH, [(course, batch)]).get((course, batch), {})
    return str(row.get("name", course))


def _best(store: Store, user: str, course: str, batch: str) -> tuple[float | None, float | None]:
    """Give the score of a course's quiz and its maximum, as the aggregates have them."""
    for row in store.rows(USER_ACTIVITY_AGG, ("Course", course, user)):
        aggregates: Mapping[str, float] = row.get("aggregates", {})
        for key, score in aggregates.items():
            if row["context_id"] == f"cb:{batch}" and key.startswith("score:"):
                return score, aggregates.get(f"max_{key}")
    return None, None
