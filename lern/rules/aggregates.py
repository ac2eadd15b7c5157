"""A learner's scores and counts in a course or unit: user_activity_agg.

The keys of `aggregates` are `completedCount` and, for each assessed content, `score:<content>` and
`max_score:<content>`, which belong to one attempt, and `attempts_count:<content>`.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from math import isnan
from typing import Final

from lern.rules.rule import Rules, higher, later, per_key, same, united_by
from lern.store.tables import Row

_SCORE: Final = "score:"
_MAX_SCORE: Final = "max_score:"
_ATTEMPTS: Final = "attempts_count:"
_COLUMNS: Final = ("aggregates", "agg_details")

Attempt = tuple[float | None, float | None]
Aggregates = Mapping[str, float]

_higher_per_key: Final = per_key(higher)


def identity_of_attempt(detail: str) -> tuple[str | None, str]:
    """Tell attempts apart: by content and attempt id, else (None, the text) where the JSON has no attempt id."""
    try:
        attempt = json.loads(detail)
    except (ValueError, RecursionError):
        return None, detail
    if not isinstance(attempt, dict):
        return None, detail
    attempt_id, content_id = attempt.get("attempt_id"), attempt.get("content_id")
    if not isinstance(attempt_id, str) or not attempt_id.strip():
        return None, detail
    return content_id if isinstance(content_id, str) else "", attempt_id


def better(mine: Attempt, theirs: Attempt) -> Attempt:
    """Give the better of two attempts (score, max_score): higher score, then lower max_score, then the target's.

    NaN and None lose. What the better one lacks comes from the other.
    """
    best, other = (theirs, mine) if _rank(theirs) > _rank(mine) else (mine, theirs)
    return _first_number(best[0], other[0]), _first_number(best[1], other[1])


def _rank(attempt: Attempt) -> tuple[bool, float, bool, float]:
    score, max_score = _number(attempt[0]), _number(attempt[1])
    return score is not None, score or 0.0, max_score is not None, -(max_score or 0.0)


def _number(value: float | None) -> float | None:
    return None if value is None or isnan(value) else value


def _first_number(first: float | None, second: float | None) -> float | None:
    """Give the first that is a number; if neither is, whichever is there at all, so that its key is not lost."""
    for value in (first, second):
        if _number(value) is not None:
            return value
    return second if first is None else first


def _aggregates(target: Row, source: Row) -> Aggregates | None:
    mine: Aggregates | None = target.get("aggregates")
    theirs: Aggregates | None = source.get("aggregates")
    # One row that knows nothing, or the copy of the other, has nothing to add: what is there stays as it is,
    # even where an attempts_count does not fit the attempts.
    if _is_empty(source) or all(same(target.get(column), source.get(column)) for column in _COLUMNS):
        return mine
    if _is_empty(target):
        return theirs
    mine, theirs = mine or {}, theirs or {}
    united = _higher_per_key(mine, theirs)
    united.update(_scores(mine, theirs))
    united.update(_attempt_counts(united, [*target.get("agg_details", ()), *source.get("agg_details", ())]))
    return united or None


def _is_empty(row: Row) -> bool:
    return not any(column in row for column in _COLUMNS)


def _scores(mine: Aggregates, theirs: Aggregates) -> dict[str, float]:
    """Choose, for every content that both have a score or max_score of, the pair of the better attempt."""
    chosen: dict[str, float | None] = {}
    for content in _contents_of_scores(mine) & _contents_of_scores(theirs):
        keys = _SCORE + content, _MAX_SCORE + content
        attempts = ((side.get(keys[0]), side.get(keys[1])) for side in (mine, theirs))
        chosen.update(zip(keys, better(*attempts), strict=True))
    return {key: value for key, value in chosen.items() if value is not None}


def _contents_of_scores(side: Aggregates) -> set[str]:
    return {key.partition(":")[2] for key in side if key.startswith((_SCORE, _MAX_SCORE))}


def _attempt_counts(united: Aggregates, details: Sequence[str]) -> dict[str, float]:
    """Raise every attempts_count to the number of distinct attempts that are known of the content."""
    counts = {key: value for key, value in united.items() if key.startswith(_ATTEMPTS)}
    if not counts or not details:
        return counts
    attempts = Counter(content for content, _ in {identity_of_attempt(detail) for detail in details})
    return {key: higher(value, float(attempts[key.removeprefix(_ATTEMPTS)])) for key, value in counts.items()}


USER_ACTIVITY_AGG_RULES: Final = Rules(
    columns={
        "agg": _higher_per_key,
        "agg_last_updated": per_key(later),
        "agg_details": united_by(identity_of_attempt),
    },
    computed={"aggregates": _aggregates},
)
