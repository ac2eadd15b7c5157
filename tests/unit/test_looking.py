"""How long it will still take to go through all batches."""

import pytest

from lern.cli.looking import Pace


def test_nothing_is_foretold_before_anything_was_seen() -> None:
    assert Pace().left(0.25, now=10.0) is None


def test_what_is_left_takes_as_long_as_what_was_seen_of_it() -> None:
    pace = Pace()
    pace.left(0.0, now=0.0)
    assert pace.left(0.25, now=10.0) == pytest.approx(30.0)
    assert pace.left(0.5, now=30.0) == pytest.approx(30.0)
    assert pace.left(1.0, now=50.0) == pytest.approx(0.0)


def test_the_time_before_the_first_part_counts_for_nothing() -> None:
    pace = Pace()
    pace.left(0.5, now=100.0)
    assert pace.left(0.75, now=101.0) == pytest.approx(1.0)


def test_parts_without_a_row_in_them_foretell_nothing() -> None:
    pace = Pace()
    pace.left(0.5, now=1.0)
    assert pace.left(0.5, now=2.0) is None
