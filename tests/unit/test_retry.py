"""What now? Every case of the decision, without a server and without waiting."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lern.errors import (
    BadRow,
    Busy,
    LockLost,
    Overloaded,
    Refused,
    Stopping,
    TooEarly,
    Transient,
    Unreachable,
    Unsettled,
    WorkerLost,
)
from lern.retry import GiveUp, Retry, RetryPolicy, Wait

POLICY = RetryPolicy(attempts=3, base=1.0, cap=10.0)


@pytest.mark.parametrize(
    "error", [Busy("user asha is held"), Unreachable("store", "refused"), Overloaded("search", "429")]
)
def test_what_is_waited_for_uses_up_no_attempt(error: Exception) -> None:
    assert isinstance(POLICY.decide(error, attempt=99, waited=0, chance=0.5), Wait)


def test_a_cell_that_is_a_little_ahead_is_waited_for_until_its_time_has_come_and_no_longer() -> None:
    error = TooEarly("user_enrolments ('asha',), column status was written 59 s ahead of this clock", 59.0)
    for attempt, chance in ((1, 0.0), (99, 0.9)):
        assert POLICY.decide(error, attempt, waited=0, chance=chance) == Wait(59.0, str(error))


def test_what_has_been_waited_for_long_is_looked_at_less_often() -> None:
    error = Unreachable("store", "refused")
    waits = [POLICY.decide(error, 1, waited, 0.5) for waited in (0, 8, 20, 10_000)]
    seconds = [wait.seconds for wait in waits if isinstance(wait, Wait)]
    assert seconds == sorted(seconds)
    assert seconds[-1] <= POLICY.cap


@pytest.mark.parametrize("error", [Transient("x"), Unsettled("x"), LockLost("x"), ValueError("unforeseen")])
def test_what_may_go_right_is_tried_again_until_the_attempts_are_used_up(error: Exception) -> None:
    assert isinstance(POLICY.decide(error, 1, 0, 0.5), Retry)
    assert isinstance(POLICY.decide(error, 2, 0, 0.5), Retry)
    assert isinstance(POLICY.decide(error, 3, 0, 0.5), GiveUp)


@pytest.mark.parametrize(
    "error", [BadRow("user_enrolments", ("asha",), "status", "text"), Refused("a circle"), WorkerLost("5 times")]
)
def test_what_cannot_go_right_is_given_up_at_once(error: Exception) -> None:
    decision = POLICY.decide(error, 1, 0, 0.5)
    assert isinstance(decision, GiveUp)
    assert decision.reason == str(error)


def test_an_error_that_nobody_foresaw_is_named_by_its_type() -> None:
    decision = POLICY.decide(KeyError("token"), 3, 0, 0.5)
    assert decision == GiveUp("UNEXPECTED", "gave up after 3 attempts: KeyError: 'token'")


@given(st.integers(1, 60), st.floats(0, 1, exclude_max=True))
def test_delays_stay_between_nothing_and_the_cap(attempt: int, chance: float) -> None:
    policy = RetryPolicy(attempts=100, base=0.5, cap=30.0)
    decision = policy.decide(Transient("x"), attempt, 0, chance)
    assert isinstance(decision, Retry)
    assert 0 <= decision.seconds <= min(30.0, 0.5 * 2 ** (attempt - 1))


def test_a_step_whose_worker_is_stopped_comes_back_at_once() -> None:
    assert POLICY.decide(Stopping("being stopped"), 99, 0, 0.5) == Wait(0.0, "being stopped")
