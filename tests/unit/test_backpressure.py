"""The bridge stops when the workers lag behind, and goes on when they have caught up a good deal."""

from hypothesis import given
from hypothesis import strategies as st

from lern.backpressure import Backpressure, BackpressurePolicy

POLICY = BackpressurePolicy(pause_at=100, resume_at=40, look_every=0.5)


def after(*lengths: int) -> bool:
    pressure = Backpressure(POLICY)
    for now, length in enumerate(lengths):
        pressure.looked(now, length)
    return pressure.paused


def test_it_reads_while_the_queue_is_short() -> None:
    assert not after(0, 99)


def test_it_stops_when_the_queue_has_become_long() -> None:
    assert after(100)


def test_between_the_two_lengths_it_stays_as_it_is() -> None:
    assert after(100, 99, 41)
    assert not after(100, 40, 99)


def test_it_goes_on_when_the_workers_have_caught_up() -> None:
    assert not after(100, 40)


def test_it_can_wait_for_an_empty_queue() -> None:
    pressure = Backpressure(BackpressurePolicy(pause_at=1, resume_at=0, look_every=1))
    assert pressure.looked(0, 1)
    assert not pressure.looked(1, 0)


def test_while_it_reads_it_looks_every_time_so_that_one_batch_at_most_is_too_many() -> None:
    pressure = Backpressure(POLICY)
    assert pressure.should_look(7.0)
    pressure.looked(7.0, 0)
    assert pressure.should_look(7.0)


def test_while_it_is_stopped_it_looks_every_now_and_then() -> None:
    pressure = Backpressure(POLICY)
    pressure.looked(7.0, 100)
    assert not pressure.should_look(7.4)
    assert pressure.should_look(7.5)


@given(st.lists(st.integers(0, 200)))
def test_it_never_reads_over_a_full_queue_and_never_rests_over_an_empty_one(lengths: list[int]) -> None:
    pressure = Backpressure(POLICY)
    for now, length in enumerate(lengths):
        paused = pressure.looked(now, length)
        assert paused or length < POLICY.pause_at
        assert not paused or length > POLICY.resume_at
