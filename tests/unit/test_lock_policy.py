"""How long a lock is trusted, and when it is renewed."""

from hypothesis import given
from hypothesis import strategies as st

from lern.lease import Lease, LeasePolicy

TEN = LeasePolicy(10.0)
TAKEN = Lease(confirmed=100.0, tried=100.0)

ttls = st.floats(1, 3600)
delays = st.floats(0, 7200)


def test_a_fresh_lease_is_trusted_and_left_alone() -> None:
    assert TEN.problem(TAKEN, 100.0) is None
    assert not TEN.is_due(TAKEN, 100.0)


def test_a_lease_is_renewed_after_a_third_of_its_time() -> None:
    assert not TEN.is_due(TAKEN, 103.3)
    assert TEN.is_due(TAKEN, 103.4)


def test_a_renewal_counts_from_when_it_was_asked_for() -> None:
    renewed = TAKEN.renewed(105.0)
    assert TEN.problem(renewed, 113.9) is None
    assert not TEN.is_due(renewed, 108.3)


def test_a_renewal_without_an_answer_is_tried_again_soon_but_not_at_once() -> None:
    waiting = TAKEN.unanswered(104.0)
    assert not TEN.is_due(waiting, 104.5)
    assert TEN.is_due(waiting, 105.0)


def test_a_renewal_without_an_answer_extends_nothing() -> None:
    assert TEN.problem(TAKEN.unanswered(108.0), 109.1) == "not renewed for 9.1 s"


def test_an_answer_comes_in_time_to_ask_once_more_before_the_lease_runs_out() -> None:
    assert TEN.ttl / 3 + TEN.pulse + TEN.patience < TEN.trust


def test_what_is_lost_is_neither_trusted_nor_renewed_ever_again() -> None:
    lost = TAKEN.denied("user A: the lock is gone from Redis").renewed(104.0)
    assert TEN.problem(lost, 104.0) == "user A: the lock is gone from Redis"
    assert not TEN.is_due(lost, 109.0)


@given(ttls, delays)
def test_a_lease_is_distrusted_before_redis_gives_the_user_away(ttl: float, late: float) -> None:
    policy, lease = LeasePolicy(ttl), Lease(0.0, 0.0)
    if policy.problem(lease, late) is None:
        assert late < ttl * 0.95


@given(ttls, delays)
def test_a_lease_is_due_for_renewal_long_before_it_is_distrusted(ttl: float, late: float) -> None:
    policy, lease = LeasePolicy(ttl), Lease(0.0, 0.0)
    if policy.problem(lease, late) is not None:
        assert policy.is_due(lease, late)
        assert policy.is_due(lease, late - ttl / 2)
