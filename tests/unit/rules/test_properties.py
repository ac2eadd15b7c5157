"""What holds of merging and settling whatever the rows are."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from lern.rules.aggregates import identity_of_attempt
from lern.rules.enrolments import identity_of_certificate
from lern.rules.merge import COMBINE, COUNTERS, RULES, EnrolmentPolicy, difference, keeps, merge, settle
from lern.rules.rule import Combine, higher, same, targets
from lern.rules.times import instant
from lern.store.base import Change
from lern.store.tables import TABLES, USER_ACTIVITY_AGG, USER_ENROLMENTS, Row, Table
from tests.strategies import INTS, TIMES, accounts, keys, rows

MERGED: Final = tuple(TABLES[name] for name in RULES)
COMBINED: Final = tuple(table for table in MERGED if COMBINE not in RULES[table.name].ignored)
POLICIES: Final = st.sampled_from(EnrolmentPolicy)

# What makes a row real and not a ghost: a flag that says whether the learner takes part.
ENROLLED: Final = {name: ("active",) if name == USER_ENROLMENTS.name else () for name in RULES}
TEXT_TIMES: Final = {"lastaccesstime", "lastcompletedtime", "lastupdatedtime"}
IDENTITIES: Final[Mapping[str, Combine]] = {
    "certificates": lambda row, column: {identity_of_certificate(entry) for entry in row.get(column, ())},
    "issued_certificates": lambda row, column: {identity_of_certificate(entry) for entry in row.get(column, ())},
    "agg_details": lambda row, column: {identity_of_attempt(entry) for entry in row.get(column, ())},
}

every_table = pytest.mark.parametrize("table", MERGED, ids=lambda table: table.name)
every_combined_table = pytest.mark.parametrize("table", COMBINED, ids=lambda table: table.name)


def meaning(row: Row, column: str) -> object:
    """What a column says, told without the order and wording in which it says it."""
    if column in TEXT_TIMES:
        return instant(row.get(column))
    if column in IDENTITIES:
        return IDENTITIES[column](row, column)
    return row.get(column)


def symmetric_columns(table: Table) -> list[str]:
    """The columns that do not depend on who is merged into whom: higher, later, earlier, either, united."""
    rules = RULES[table.name]
    return [*(column for column, rule in rules.columns.items() if rule is not targets), *rules.computed]


def real(table: Table, *candidates: Row) -> bool:
    """Whether none of the rows is a ghost."""
    return not any(RULES[table.name].ghost(row) for row in candidates)


def number(value: float | None) -> float:
    """The number as the rules rank it: what is missing or no number is the lowest."""
    return -math.inf if value is None or math.isnan(value) else value


def entries(row: Row, column: str) -> Mapping[str, float]:
    found: Mapping[str, float] = row.get(column, {})
    return found


def written(current: Row | None, change: Change | None, wanted: Row | None) -> Row | None:
    """What a store holds after a change, which names only what is put."""
    if change is None:
        return current
    if current is None:
        return wanted
    maps = {name: {**current.get(name, {}), **value} for name, value in change.put.items() if isinstance(value, dict)}
    return {**current, **change.put, **maps}


Settle = Callable[[Row | None], Row | None]


def settling(
    table: Table, source: Row, before: Row | None, contributed: Mapping[str, int], policy: EnrolmentPolicy = COMBINE
) -> Settle:
    """One round of settling: read, decide, write only the difference."""

    def once(current: Row | None) -> Row | None:
        wanted = settle(table, current, source, before, contributed, policy)
        if wanted is None:
            return current
        return written(current, difference(table, current, wanted), wanted)

    return once


def settled_beside(table: Table, source: Row, before: Row | None) -> Row:
    """What the target holds once a source row is settled into it."""
    row = settle(table, before, source, before, {})
    assert row is not None
    return row


class TestMerging:
    @every_combined_table
    @given(data=st.data())
    def test_it_does_not_matter_who_is_merged_into_whom(self, table: Table, data: st.DataObject) -> None:
        one, other = data.draw(accounts(table, 2, ENROLLED[table.name]))
        forth, back = settled_beside(table, other, one), settled_beside(table, one, other)
        for column in (*symmetric_columns(table), *RULES[table.name].counters):
            assert same(meaning(forth, column), meaning(back, column)), column

    @every_combined_table
    @given(data=st.data())
    def test_three_accounts_become_the_same_in_either_order(self, table: Table, data: st.DataObject) -> None:
        a, b, c = (complete_scores(row) for row in data.draw(accounts(table, 3, ENROLLED[table.name])))
        rules = RULES[table.name]
        first_two = settled_beside(table, c, settled_beside(table, b, a))
        last_two = settled_beside(table, settled_beside(table, c, b), a)
        for column in (*rules.columns, *rules.computed, *rules.counters):
            assert same(meaning(first_two, column), meaning(last_two, column)), column

    @every_table
    @given(data=st.data())
    def test_merging_into_an_empty_account_is_a_copy(self, table: Table, data: st.DataObject) -> None:
        source = data.draw(rows(table, always=ENROLLED[table.name]))
        assert settle(table, None, source, None, {}) == source
        assert keeps(table, source, source) is None

    @every_combined_table
    @given(data=st.data())
    def test_merging_a_row_that_says_nothing_changes_nothing(self, table: Table, data: st.DataObject) -> None:
        key = data.draw(keys(table))
        row = data.draw(rows(table, key, ENROLLED[table.name]))
        nothing: Row = dict(zip(table.key, key, strict=True))
        assert merge(table, row, nothing) == row
        assert merge(table, nothing, row) == row

    @every_combined_table
    @given(data=st.data())
    def test_status_and_progress_never_go_down(self, table: Table, data: st.DataObject) -> None:
        target, source = data.draw(accounts(table, 2, ENROLLED[table.name]))
        row = merge(table, target, source)
        for column in ("status", "progress", "completionpercentage", "last_attempted_on"):
            assert number(row.get(column)) == max(number(target.get(column)), number(source.get(column)))
        for content in entries(target, "contentstatus").keys() | entries(source, "contentstatus").keys():
            sides = (number(entries(side, "contentstatus").get(content)) for side in (target, source))
            assert row["contentstatus"][content] == max(sides)

    @given(data=st.data())
    def test_no_score_goes_down_and_no_key_is_lost(self, data: st.DataObject) -> None:
        target, source = data.draw(accounts(USER_ACTIVITY_AGG, 2))
        row = merge(USER_ACTIVITY_AGG, target, source)
        for column in ("agg", "aggregates", "agg_last_updated"):
            assert entries(row, column).keys() == entries(target, column).keys() | entries(source, column).keys()
        for key, value in entries(row, "aggregates").items():
            if not key.startswith("max_score:"):
                sides = (number(entries(side, "aggregates").get(key)) for side in (target, source))
                assert number(value) >= max(sides)

    @pytest.mark.parametrize(
        ("table", "column"),
        [
            (USER_ENROLMENTS, "certificates"),
            (USER_ENROLMENTS, "issued_certificates"),
            (USER_ACTIVITY_AGG, "agg_details"),
        ],
    )
    @given(data=st.data())
    def test_no_certificate_and_no_attempt_is_lost(self, table: Table, column: str, data: st.DataObject) -> None:
        target, source = data.draw(accounts(table, 2))
        assume(real(table, source))
        row = merge(table, target, source)
        assert meaning(row, column) == IDENTITIES[column](target, column) | IDENTITIES[column](source, column)

    @every_combined_table
    @given(data=st.data())
    def test_what_belongs_together_is_of_one_of_the_rows_and_there_if_either_has_it(
        self, table: Table, data: st.DataObject
    ) -> None:
        target, source = data.draw(accounts(table, 2, ENROLLED[table.name]))
        row = merge(table, target, source)
        for column in (column for group in RULES[table.name].together for column in group.columns):
            values = [side[column] for side in (target, source) if column in side]
            assert (column in row) == bool(values)
            assert column not in row or row[column] in values
            assert row.get(column) != "" or not any(value for value in values if value != "")


def complete_scores(row: Row) -> Row:
    """The row with only whole pairs of score and max_score, all numbers.

    A part that the better attempt lacks comes from whichever attempt is at hand, which depends on the order.
    """
    if "aggregates" not in row:
        return row
    whole = {key: value for key, value in row["aggregates"].items() if not math.isnan(value)}
    for key in list(whole):
        kind, _, content = key.partition(":")
        partner = {"score": f"max_score:{content}", "max_score": f"score:{content}"}.get(kind)
        if partner is not None and partner not in whole:
            del whole[key]
    rest = {name: value for name, value in row.items() if name != "aggregates"}
    return {**rest, "aggregates": whole} if whole else rest


class TestSettling:
    @every_table
    @given(data=st.data())
    def test_again_changes_nothing(self, table: Table, data: st.DataObject) -> None:
        current, source, before = data.draw(accounts(table, 3))
        policy = data.draw(POLICIES)
        stands, stood = data.draw(st.booleans()), data.draw(st.booleans())
        contributed = data.draw(st.dictionaries(st.sampled_from(["viewcount", "completedcount"]), st.integers(0, 9)))
        again = settling(table, source, before if stood else None, contributed, policy)
        once = again(current if stands else None)
        assert same(again(once), once)

    @every_table
    @given(data=st.data())
    def test_the_difference_is_all_that_is_needed_and_takes_nothing_away(
        self, table: Table, data: st.DataObject
    ) -> None:
        current, source = data.draw(accounts(table, 2))
        wanted = settle(table, current, source, current, {}, data.draw(POLICIES))
        assert wanted is not None
        change = difference(table, current, wanted)
        assert same(written(current, change, wanted), wanted)
        if change is not None:
            assert (change.clear, change.drop, change.delete) == (frozenset(), {}, False)
            assert all(not same(current.get(column), value) for column, value in change.put.items())
            assert not set(change.put) & set(table.key)

    @every_table
    @given(data=st.data())
    def test_merging_the_same_pair_again_adds_nothing(self, table: Table, data: st.DataObject) -> None:
        before, source = data.draw(accounts(table, 2))
        after = settle(table, before, source, before, {})
        assert after is not None
        given_already = {column: max(source.get(column, 0), 0) for column in COUNTERS.get(table.name, ())}
        assert same(settle(table, after, source, after, given_already), after)

    @every_combined_table
    @given(data=st.data())
    def test_beside_a_live_writer_that_moves_forward_nothing_of_either_is_lost(
        self, table: Table, data: st.DataObject
    ) -> None:
        before, source = data.draw(accounts(table, 2, ENROLLED[table.name]))
        # An enrolment that nobody enrolled by is a ghost until we copy ours, and ghosts give way.
        stood = table is USER_ENROLMENTS or data.draw(st.booleans())
        once = settling(table, source, before if stood else None, {})
        live = LiveWriter(table, before)
        row = before if stood else None
        moves = st.sampled_from(["read", "write", "settle"])
        for move, column, by in data.draw(
            st.lists(st.tuples(moves, st.sampled_from(live.columns), st.integers(0, 3)), max_size=8)
        ):
            if move == "read":
                live.read(row)
            elif move == "write":
                row = live.write(row, column, by)
            else:
                row = once(row)
        row = once(row)
        assert row is not None
        live.has_lost_nothing_in(row)
        for column in live.forward:
            assert number(row.get(column)) >= number(source.get(column))
        for column in COUNTERS.get(table.name, ()) if stood else ():
            had, gains = max(before.get(column, 0), 0), max(source.get(column, 0), 0)
            assert max(row.get(column, 0), 0) >= min(had + gains, 2**31 - 1)


class LiveWriter:
    """A service that reads a row, thinks, and writes absolute values that are never below what it read."""

    def __init__(self, table: Table, row: Row) -> None:
        rules = RULES[table.name]
        self.key = {column: row[column] for column in table.key}
        self.forward: Sequence[str] = [column for column, rule in rules.columns.items() if rule is higher]
        self.columns = [*self.forward, *rules.counters] or ["agg_last_updated"]
        self.seen: Row = {}
        self.wrote: dict[str, int] = {}

    def read(self, row: Row | None) -> None:
        self.seen = dict(row or {})

    def write(self, row: Row | None, column: str, by: int) -> Row:
        if column == "agg_last_updated":
            return {**self.key, **(row or {})}
        floor = self.seen.get(column, 0)
        value = (0 if math.isnan(floor) else floor) + by
        self.wrote[column] = value
        return {**self.key, **(row or {}), column: value}

    def has_lost_nothing_in(self, row: Row) -> None:
        """What it wrote last stands, or something beyond."""
        for column, value in self.wrote.items():
            assert number(row.get(column)) >= value


@given(before=st.integers(0, 50), gains=st.integers(0, 50), since=st.lists(st.integers(0, 20), max_size=3))
def test_views_in_between_are_all_counted_unless_they_look_like_the_merge_itself(
    before: int, gains: int, since: list[int]
) -> None:
    table, key = TABLES["user_content_consumption"], dict.fromkeys(TABLES["user_content_consumption"].key, "x")
    once = settling(table, {**key, "viewcount": gains}, {**key, "viewcount": before}, {})
    row: Row | None = {**key, "viewcount": before + sum(since)}
    row = once(once(row))
    assert row is not None
    assert row["viewcount"] == before + sum(since) + (gains if sum(since) < gains else 0)


@given(status=INTS, time=TIMES)
def test_no_number_a_column_can_hold_is_too_wild(status: int, time: int) -> None:
    table = TABLES["user_content_consumption"]
    row = {**dict.fromkeys(table.key, "x"), "status": status, "last_access_time": time, "viewcount": status}
    assert settle(table, row, row, None, {}) == row
