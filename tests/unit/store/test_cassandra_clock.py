"""Cells that another clock has put ahead of ours are named, however far ahead that is."""

import pytest

from lern.store.cassandra_clock import ahead
from lern.store.tables import USER_ENROLMENTS

NOW = 1_700_000_000_000_000
MINUTE = 60_000_000


@pytest.mark.parametrize(
    ("cell", "when"),
    [
        (NOW + MINUTE, "at 2023-11-14T22:14:20Z, 60 s ahead"),
        # As of somebody who counts nanoseconds, and the latest that Cassandra takes.
        (NOW * 1000, "at 1700000000000000000 microseconds, a time of no calendar"),
        (2**63 - 1, "at 9223372036854775807 microseconds, a time of no calendar"),
    ],
)
def test_the_error_names_the_cell_and_its_time(cell: int, when: str) -> None:
    found = ahead(USER_ENROLMENTS, ("asha", "c", "b"), {"status": cell, "progress": NOW - 1}, NOW)
    assert found is not None
    for error in (found.error(), found.too_early(NOW)):
        assert "user_enrolments ('asha', 'c', 'b'), column status" in str(error)
        assert when in str(error)
