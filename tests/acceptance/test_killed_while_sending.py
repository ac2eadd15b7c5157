"""Killed with SIGKILL while a merge's events go to Kafka: none is lost, and what comes twice is the same event.

All calls from the first message on, to Kafka and to the ledger that is to remember what has arrived.
"""

from collections.abc import Sequence
from dataclasses import replace

from tests.acceptance.test_killed_at_every_call import Killing, killing, run_of
from tests.accounts import two_accounts
from tests.servers.server import Server

__all__ = ["killing"]


def from_the_first_message_on(calls: Sequence[str]) -> Sequence[int]:
    """Until the run has succeeded: what comes then has nothing to do with its events."""
    return range(calls.index("kafka produce") + 1, len(calls) - calls[::-1].index("sqlite COMMIT") + 1)


def test_a_merges_events_arrive_whatever_the_call_at_which_its_last_step_dies(killing: Killing, kafka: Server) -> None:
    killing = replace(killing, program="tests.acceptance.dying_with_kafka", points=from_the_first_message_on)
    place = killing.prepare(kafka_bootstrap=kafka.address)
    place.load(two_accounts("from", "to"))
    run = run_of(place, "from", "to", "m")
    ends = killing.everywhere(place, ["merge", "from", "to", "m"], [run])

    assert ends.undisturbed["runs"][run]["state"] == "succeeded"
    assert set(ends.undisturbed["left_over"].values()) == {0}
    assert {topic: len(events) for topic, events in ends.undisturbed["sent"].items()} == {
        "coursebatch_job_request": 2,
        "issue_certificate_request": 1,
        "telemetry_raw": 1,
    }
    arrived = sum(ends.undisturbed.pop("copies").values())
    assert arrived == 4
    again = {point: sum(end.pop("copies").values()) - arrived for point, end in ends.after.items()}
    # Wherever it died, the topics hold the same events, byte for byte.
    assert ends.unlike(ends.undisturbed) == {}

    # Sent again is what had arrived of which nobody knew, and no more.
    def of(call: str) -> list[int]:
        return [number for point, number in sorted(again.items()) if ends.calls[point - 1] == call]

    assert of("kafka produce")[0] == 0
    assert of("kafka produce, those before have arrived") == [0, 1, 2, 3]
    assert of("kafka confirmed") == [4]
    noted = ends.calls.index("sqlite COMMIT", ends.calls.index("kafka confirmed")) + 1
    assert {number for point, number in again.items() if point > noted} == {0}
