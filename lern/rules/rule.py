"""The vocabulary that the merge rules of every table are written in.

A table's rules are data: which column follows which rule. `lern.rules.merge` is the one mechanism that
carries them out. In every rule "mine" is the target's value, "theirs" the source's, and both are there:
where only one account has a value, that value stands, without a rule.
"""

import enum
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from math import isnan
from typing import Any, Final, TypeVar

from lern.store.tables import Row

Number = TypeVar("Number", int, float)
Value = TypeVar("Value")
Combine = Callable[[Any, Any], Any]


class EnrolmentPolicy(enum.StrEnum):
    """What happens to an enrolment that both accounts have (`LERN_MERGE_ENROLMENTS`)."""

    COMBINE = "combine"
    IGNORE = "ignore"


def nobody(_row: Row) -> bool:
    """Count no row as a ghost."""
    return False


def nothing_lacking(_target: Row, _source: Row) -> str | None:
    """Find nothing in the source that an ignored target could lack."""
    return None


@dataclass(frozen=True)
class Together:
    """Columns that belong to one moment: taken from the row that is ahead, from the other where that one has none.

    `source_ahead(target, source)` says whether the source is strictly ahead; a tie is the target's.
    """

    columns: tuple[str, ...]
    source_ahead: Callable[[Row, Row], bool]


@dataclass(frozen=True)
class Rules:
    """How the rows of one table are merged. Every column that is not a key stands in exactly one place here.

    `columns`: column to the rule for its two values. `together`: columns decided by a look at both rows.
    `computed`: column to a function `(target, source)` that gives its value (None: absent). `counters`:
    columns that add up; only `settle` knows what was added already. `ghost`: rows that count as missing; a row
    with any of the columns `enrolling` is none.
    `ignored`: the policies under which a target's row that exists stays as it is. `lacking(target, source)`:
    what the source has and such an ignored target lacks, in words, or None.
    """

    columns: Mapping[str, Combine]
    together: tuple[Together, ...] = ()
    computed: Mapping[str, Callable[[Row, Row], object]] = field(default_factory=dict)
    counters: tuple[str, ...] = ()
    ghost: Callable[[Row], bool] = nobody
    enrolling: tuple[str, ...] = ()
    ignored: frozenset[EnrolmentPolicy] = frozenset()
    lacking: Callable[[Row, Row], str | None] = nothing_lacking


def higher(mine: Number, theirs: Number) -> Number:
    """Give the higher number; one that is not a number (NaN) loses."""
    if mine >= theirs:
        return mine
    if mine < theirs:
        return theirs
    return mine if isnan(theirs) else theirs


later: Final = higher


def earlier(mine: int, theirs: int) -> int:
    """Give the earlier time."""
    return min(mine, theirs)


def either(mine: bool, theirs: bool) -> bool:
    """Say yes if either account does."""
    return mine or theirs


def targets(mine: Value, _theirs: Value) -> Value:
    """Keep the target's."""
    return mine


def per_key(rule: Callable[[Number, Number], Number]) -> Combine:
    """Make a rule for a map out of a rule for its values; no key of either side is lost."""

    def combine(mine: Mapping[str, Number], theirs: Mapping[str, Number]) -> dict[str, Number]:
        united = {**theirs, **mine}
        for key in mine.keys() & theirs.keys():
            united[key] = rule(mine[key], theirs[key])
        return united

    return combine


def united_by(identity: Callable[[Any], Hashable]) -> Combine:
    """Make a rule that unites two lists: the target's entries, then the source's that the target lacks.

    Entries are told apart by `identity`. Within one list only exact repeats are dropped (Cassandra doubles a
    list that was written twice); two entries of one identity may still differ, and neither is thrown away.
    """

    def combine(mine: Sequence[Any], theirs: Sequence[Any]) -> list[Any]:
        known = {identity(entry) for entry in mine}
        added = (entry for entry in theirs if identity(entry) not in known)
        return list({_exactly(entry): entry for entry in (*mine, *added)}.values())

    return combine


def _exactly(entry: object) -> Hashable:
    """Give something to tell an entry (a text, or a record of texts) from all that are not equal to it."""
    return frozenset(entry.items()) if isinstance(entry, dict) else str(entry)


def same(one: object, other: object) -> bool:
    """Say whether two values are the same to a store: like ==, but NaN is the same as NaN, in maps too."""
    if one is other or one == other:
        return True
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(value, other[key]) for key, value in one.items())
    return isinstance(one, float) and isinstance(other, float) and isnan(one) and isnan(other)
