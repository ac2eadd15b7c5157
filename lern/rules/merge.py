"""The merge of two accounts, row by row: the one mechanism behind the rules of every table.

A source row is given to `merge`, `settle` and `keeps` as it would stand in the target's account, that is
with the user column already the target's (`Table.with_user`). Rows that come in are never changed.

`settle` may run any number of times, beside a live writer, over what an earlier run of it has written. All
rules but one kind allow that by nature: merging the same row in again changes nothing. Counters are sums,
so `settle` also needs to know what the target had when the row was journalled.
"""

from collections.abc import Mapping
from math import isnan
from typing import Final

from lern.rules.aggregates import USER_ACTIVITY_AGG_RULES
from lern.rules.assessments import ASSESSMENT_AGGREGATOR_RULES
from lern.rules.content import CONTENT_CONSUMPTION_RULES, USER_CONTENT_CONSUMPTION_RULES
from lern.rules.enrolments import USER_COURSES_RULES, USER_ENROLMENTS_RULES
from lern.rules.rule import EnrolmentPolicy, Rules, Together
from lern.store.base import Change
from lern.store.tables import (
    ASSESSMENT_AGGREGATOR,
    CONTENT_CONSUMPTION,
    USER_ACTIVITY_AGG,
    USER_CONTENT_CONSUMPTION,
    USER_COURSES,
    USER_ENROLMENTS,
    Kind,
    Row,
    Table,
)

__all__ = [
    "COMBINE",
    "COUNTERS",
    "IGNORE",
    "RULES",
    "EnrolmentPolicy",
    "difference",
    "keeps",
    "merge",
    "reunite",
    "settle",
]

COMBINE: Final = EnrolmentPolicy.COMBINE
IGNORE: Final = EnrolmentPolicy.IGNORE

RULES: Final[Mapping[str, Rules]] = {
    USER_CONTENT_CONSUMPTION.name: USER_CONTENT_CONSUMPTION_RULES,
    USER_ENROLMENTS.name: USER_ENROLMENTS_RULES,
    USER_ACTIVITY_AGG.name: USER_ACTIVITY_AGG_RULES,
    ASSESSMENT_AGGREGATOR.name: ASSESSMENT_AGGREGATOR_RULES,
    CONTENT_CONSUMPTION.name: CONTENT_CONSUMPTION_RULES,
    USER_COURSES.name: USER_COURSES_RULES,
}

COUNTERS: Final[Mapping[str, tuple[str, ...]]] = {
    name: rules.counters for name, rules in RULES.items() if rules.counters
}

# The columns are 32-bit: a sum beyond that could not be stored, and the run would fail for ever.
_HIGHEST_COUNT: Final = 2**31 - 1


def merge(table: Table, target: Row, source: Row, policy: EnrolmentPolicy = COMBINE) -> Row:
    """Give the row that the target's account is to hold where both accounts have one.

    Keys are the target's. A column that one side lacks is the other's. Counters stay the target's: only
    `settle` can add them up. A ghost of the target's gives way to a real row of the source's.
    """
    rules = RULES[table.name]
    if rules.ghost(target):
        return target.copy() if rules.ghost(source) else _over_ghost(table, rules, target, source)
    if policy in rules.ignored:
        return target.copy()
    return _combined(rules, target, source)


def settle(
    table: Table,
    current: Row | None,
    source: Row,
    before: Row | None,
    contributed: Mapping[str, int],
    policy: EnrolmentPolicy = COMBINE,
) -> Row | None:
    """Give the row that the target's account is to hold, whatever has been written since the journal entry.

    `current`: the target's row now; `before`: as it was when journalled (None: it did not stand).
    `contributed`: per counter, what this source row has given to the target in earlier merges.
    Returns None when the row is not to exist: a ghost of the source's that the target does not have.

    A source row that the target has no row for is copied as it is. A target's row that stood and has
    vanished is brought back from `before`.
    """
    rules = RULES[table.name]
    standing = before if current is None else current
    if standing is None or (current is None and rules.ghost(standing)):
        return None if rules.ghost(source) else source.copy()
    wanted = merge(table, standing, source, policy)
    if rules.counters:
        _count(rules, wanted, current or {}, source, before, contributed)
    return wanted


def reunite(table: Table, current: Row | None, back: Row, found: Row | None, contributed: Mapping[str, int]) -> Row:
    """Give the row that an account is to hold where one that was taken away comes back to it.

    Settles it into what may have come to stand there since, but takes ghosts for what they are: whatever the account
    had it is to have again. `current`: what stands now; `found`: what stood when this was journalled (None: nothing).
    `contributed`: per counter, what the row that comes back has given to others and still holds.
    """
    rules = RULES[table.name]
    standing = found if current is None else current
    if standing is None:
        return back.copy()
    is_over_ghost = rules.ghost(standing) and not rules.ghost(back)
    wanted = _over_ghost(table, rules, standing, back) if is_over_ghost else _combined(rules, standing, back)
    if rules.counters:
        _count(rules, wanted, current or {}, back, found, contributed)
    return wanted


def difference(table: Table, current: Row | None, wanted: Row) -> Change | None:
    """Say what must be written to turn `current` into `wanted`: None if nothing.

    Only columns that change, of map columns only entries that change; nothing is ever cleared or dropped.
    A row that does not stand (`current` None) is created.
    """
    if current is None:
        new = wanted.copy()
        return Change(tuple([new.pop(name) for name in table.key]), new)
    put: Row = {}
    for column, value in wanted.items():
        old = current.get(column)
        if old is value or old == value:
            continue
        if isinstance(value, dict):
            value = _changed_entries(old or {}, value)  # noqa: PLW2901 - from here on only what is to be put
            if not value:
                continue
        elif _both_nan(old, value):
            continue
        put[column] = value
    return Change(table.key_of(current), put) if put else None


def keeps(table: Table, target_after: Row | None, source: Row, policy: EnrolmentPolicy = COMBINE) -> str | None:
    """Give the reason why the source row must not be deleted, or None when its target is in place.

    `target_after`: the target's row as it stands after settling.
    """
    rules = RULES[table.name]
    target_stands = target_after is not None and not rules.ghost(target_after)
    if not target_stands and rules.ghost(source):
        return "not a real enrolment, not copied"
    if target_after is None or not target_stands:
        return "target has no such row"
    return rules.lacking(target_after, source) if policy in rules.ignored else None


def _combined(rules: Rules, target: Row, source: Row) -> Row:
    wanted = target.copy()
    columns = rules.columns
    for column, theirs in source.items():
        mine = target.get(column)
        if mine is None:
            wanted[column] = theirs
        elif mine != theirs and (rule := columns.get(column)) is not None:
            wanted[column] = rule(mine, theirs)
    for group in rules.together:
        wanted.update(_from_the_one_ahead(group, target, source))
    for column, compute in rules.computed.items():
        value = compute(target, source)
        if value is not None:
            wanted[column] = value
    return wanted


def _from_the_one_ahead(group: Together, target: Row, source: Row) -> Row:
    """Give those columns of the group that become the source's, where both rows have a value."""
    both = [c for c in group.columns if c in source and c in target and source[c] != target[c]]
    if not both:
        return {}
    ahead = group.source_ahead(target, source)
    # An empty text is no value: it neither wins nor hides what the other row has.
    return {c: source[c] for c in both if (ahead and source[c] != "") or target[c] == ""}


def _over_ghost(table: Table, rules: Rules, target: Row, source: Row) -> Row:
    """Lay a real row over a ghost: what the ghost has and the real row lacks remains.

    Map entries cannot be taken away by a merge, so maps are laid over entry by entry; certificates are
    united, because one may have been issued on a ghost. Where a learner was last is where he really was, enrolled
    or not.
    """
    wanted = {**target, **source, **{name: target[name] for name in table.key}}
    for column in table.values:
        if column in target and column in source:
            kind = table.columns[column]
            if kind.is_map:
                wanted[column] = {**target[column], **source[column]}
            elif kind is Kind.RECORDS:
                wanted[column] = rules.columns[column](source[column], target[column])
    for group in rules.together:
        wanted.update(_from_the_one_ahead(group, source, target))
    return wanted


def _count(
    rules: Rules, wanted: Row, current: Row, source: Row, before: Row | None, contributed: Mapping[str, int]
) -> None:
    """Set the counters of `wanted`. Where two rows meet a negative counter counts as 0."""
    earlier = contributed if contributed and not _is_new(rules, source, contributed) else {}
    for column in rules.counters:
        now, theirs = current.get(column), source.get(column)
        was = before.get(column) if before is not None else None
        if now is None and theirs is None and was is None:
            continue
        if before is None and now == theirs:
            continue  # our own copy of the source row, which is verbatim
        adds = max(theirs or 0, 0) - max(earlier.get(column, 0), 0)
        wanted[column] = _counted(max(was or 0, 0), max(now or 0, 0), adds)


def _is_new(rules: Rules, source: Row, contributed: Mapping[str, int]) -> bool:
    """Say whether the source row is another than the one that contributed: counters never go back by themselves."""
    return any(max(source.get(column) or 0, 0) < contributed.get(column, 0) for column in rules.counters)


def _counted(before: int, now: int, adds: int) -> int:
    """Give the counter that had `before`, is to gain `adds`, and is `now`, by us or by someone else since."""
    goal = min(before + adds, _HIGHEST_COUNT)
    if now >= goal:
        return now
    return min(now + adds, _HIGHEST_COUNT) if now >= before else goal


def _changed_entries(old: Row, wanted: Row) -> Row:
    return {
        key: value
        for key, value in wanted.items()
        if key not in old or not (old[key] == value or _both_nan(old[key], value))
    }


def _both_nan(old: object, value: object) -> bool:
    return isinstance(old, float) and isinstance(value, float) and isnan(old) and isnan(value)
