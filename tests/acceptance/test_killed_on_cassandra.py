"""Killed with SIGKILL at call 1, 2, 3 … of a merge on Cassandra, and carried on by others: as if nothing had been.

All calls, as with the embedded default: ledger, locks, messages, outgoing files, and the statements to Cassandra. What
would end otherwise: a list that is doubled, an entry of a map that is gone, a row that is lost or left behind.
"""

from dataclasses import replace

import pytest

from tests.acceptance.test_killed_at_every_call import Killing, killing, run_of

__all__ = ["killing"]


# Every point opens a session anew, which is most of what it takes.
@pytest.mark.timeout(900)
def test_a_merge_ends_as_if_undisturbed(killing: Killing, cassandra_url: str) -> None:
    killing = replace(killing, program="tests.acceptance.dying_on_cassandra")
    place = killing.prepare(store_url=cassandra_url)
    run = run_of(place, "from", "to", "m")
    ends = killing.everywhere(place, ["merge", "from", "to", "m"], [run])

    assert sum(call.startswith("cassandra") for call in ends.calls) > 30
    assert ends.undisturbed["runs"][run]["state"] == "succeeded"
    assert set(ends.undisturbed["left_over"].values()) == {0}
    assert ends.unlike(ends.undisturbed) == {}
