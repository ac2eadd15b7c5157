"""Sample accounts for the bench: pairs of accounts in three sizes, the target with half of the source's contents.

Every value follows from the size, the pair and the row's place, so that the rows after a merge can be
checked by their sums (`SUMS`).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from lern.store.tables import (
    ASSESSMENT_AGGREGATOR,
    USER_ACTIVITY_AGG,
    USER_CONTENT_CONSUMPTION,
    USER_ENROLMENTS,
    Row,
    Table,
)

_START: Final = 1_700_000_000_000
_DAY: Final = 86_400_000


@dataclass(frozen=True)
class Size:
    """How big a pair is: courses, contents of each, and in how many courses both accounts are enrolled."""

    name: str
    courses: int
    contents: int
    shared: int

    @property
    def rows(self) -> int:
        """How many content rows the source has."""
        return self.courses * self.contents

    def source(self, pair: int) -> str:
        """Name a pair's source."""
        return f"{self.name}-from-{pair:06d}"

    def target(self, pair: int) -> str:
        """Name a pair's target."""
        return f"{self.name}-to-{pair:06d}"


SIZES: Final = {size.name: size for size in (Size("a", 3, 20, 1), Size("b", 10, 100, 3), Size("c", 20, 500, 6))}


@dataclass(frozen=True)
class Sums:
    """What one pair's target rows add up to after the merge, without relations."""

    contents: int
    views: int
    completions: int
    progress: int
    status: int
    enrolments: int
    completed: int
    aggregate_keys: int


SUMS: Final = {
    "a": Sums(60, 270, 100, 5500, 110, 3, 17, 15),
    "b": Sums(1000, 4500, 1665, 91669, 1833, 10, 123, 49),
    "c": Sums(10000, 45000, 16665, 916669, 18333, 20, 443, 98),
}


def rows(size: Size, pair: int, *, attempts: int = 0) -> Iterator[tuple[Table, Row]]:
    """Give the rows of both accounts of a pair; `attempts`: as many assessment attempts of the source's."""
    source, target = size.source(pair), size.target(pair)
    for course in range(size.courses):
        for content in range(size.contents):
            yield USER_CONTENT_CONSUMPTION, _content(size, source, course, content, theirs=False)
            if content % 2 == 0:
                yield USER_CONTENT_CONSUMPTION, _content(size, target, course, content, theirs=True)
        for user, theirs in ((source, False), (target, True)):
            if course < size.shared or not theirs:
                yield USER_ENROLMENTS, _enrolment(size, user, course, theirs=theirs)
                yield USER_ACTIVITY_AGG, _aggregates(user, course, theirs=theirs)
    for number in range(attempts):
        yield ASSESSMENT_AGGREGATOR, _attempt(source, number % size.courses, number)


def _course(number: int) -> str:
    return f"do_1130999983788{number:07d}"


def _batch(number: int) -> str:
    return f"01310002452{number:08d}"


def _content_id(course: int, number: int) -> str:
    return f"do_2134795598{course:04d}{number:05d}"


def _text(time: int) -> str:
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=time)
    return f"{moment:%Y-%m-%d %H:%M:%S}:{time % 1000:03d}+0000"


def _content(size: Size, user: str, course: int, content: int, *, theirs: bool) -> Row:
    place = course * size.contents + content
    done = bool((place + 1) % 3 if theirs else place % 3)
    time = _START + place * 1000
    if theirs:
        time += _DAY if (place // 2) % 2 == 0 else -_DAY
    completions = (1 + (place + theirs) % 2) if done else 0
    row: Row = {
        "userid": user,
        "courseid": _course(course),
        "batchid": _batch(course),
        "contentid": _content_id(course, content),
        "completedcount": completions,
        "datetime": time,
        "last_access_time": time + 500,
        "last_updated_time": time + 500,
        "lastaccesstime": _text(time + 500),
        "lastupdatedtime": _text(time + 500),
        "progress": 100 if done else (place * (11 if theirs else 7)) % 100,
        "status": 2 if done else 1,
        "viewcount": 1 + (place + 2 * theirs) % 5,
    }
    if done:
        row |= {"last_completed_time": time + 400, "lastcompletedtime": _text(time + 400)}
    return row


def _enrolment(size: Size, user: str, course: int, *, theirs: bool) -> Row:
    status = {
        _content_id(course, content): int(_content(size, user, course, content, theirs=theirs)["status"])
        for content in range(0, size.contents, 2 if theirs else 1)
    }
    done = sum(value == 2 for value in status.values())
    time = _START + course * 60_000
    row: Row = {
        "userid": user,
        "courseid": _course(course),
        "batchid": _batch(course),
        "active": True,
        "addedby": user,
        "completionpercentage": 100 * done // size.contents,
        "contentstatus": status,
        "datetime": time,
        "enrolleddate": _text(time),
        "lastreadcontentid": _content_id(course, size.contents - 2),
        "lastreadcontentstatus": 2,
        "progress": done,
        "status": 1,
    }
    if course % 2 == 0:
        certificate = {
            "identifier": f"cert-{user}-{course}",
            "lastIssuedOn": "2023-11-15",
            "name": "100PercentCompletionCertificate",
            "token": f"P4L3Y{course}",
        }
        row |= {"completedon": time + 5000, "issued_certificates": [certificate], "status": 2}
    return row


def _aggregates(user: str, course: int, *, theirs: bool) -> Row:
    done = 5 + course if theirs else 3 + 2 * course
    content, score = _content_id(course, int(theirs)), 8 if theirs else 6
    keys = ("completedCount", f"score:{content}", f"max_score:{content}", f"attempts_count:{content}")
    return {
        "activity_type": "Course",
        "activity_id": _course(course),
        "user_id": user,
        "context_id": f"cb:{_batch(course)}",
        "agg": {"completedCount": done},
        "agg_details": [
            f'{{"max_score":10.0,"score":{score}.0,"type":"attempt_metrics","attempt_id":"att-{user}-{course}-{number}",'
            f'"content_id":"{content}","attempted_on":{_START + number}}}'
            for number in (0, 1)
        ],
        "agg_last_updated": dict.fromkeys(keys, _START + course),
        "aggregates": dict(zip(keys, (float(done), float(score), 10.0, 2.0), strict=True)),
    }


def _attempt(user: str, course: int, number: int) -> Row:
    return {
        "user_id": user,
        "course_id": _course(course),
        "batch_id": _batch(course),
        "content_id": _content_id(course, 0),
        "attempt_id": f"attempt-{number:06d}",
        "created_on": _START + number,
        "last_attempted_on": _START + number,
        "updated_on": _START + number,
        "total_score": float(number % 10),
        "total_max_score": 10.0,
        "grand_total": f"{number % 10}.0/10.0",
        "question": [
            {
                "id": f"do_question_{part}",
                "assess_ts": _START + number,
                "max_score": 1.0,
                "score": 1.0,
                "type": "mcq",
                "title": "What is it?",
                "resvalues": [{"1": "a"}],
                "params": [{"1": "a"}, {"2": "b"}],
                "description": "",
            }
            for part in range(5)
        ],
    }
