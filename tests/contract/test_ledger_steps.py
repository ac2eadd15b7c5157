"""What the ledger promises about a step: who holds it, how it ends, and what a person may do about it then."""

import pytest
import sqlalchemy as sa

from lern import undo as undoing
from lern.errors import LockLost, Refused, SchemaMissing
from lern.ledger import Act, Finished, Ledger, LostTooOften, Pending, Run, Stale, Started
from tests.contract.given_ledger import (
    MAX_LOST,
    NOW,
    STEPS,
    begin,
    chunk,
    do,
    enter,
    event,
    fail,
    journal,
    merge,
    undo,
)


@pytest.fixture(autouse=True)
def _one_run(ledger: Ledger) -> None:
    enter(ledger, merge("A", "B"))


def run(ledger: Ledger) -> Run:
    found = ledger.peek("A-B")
    assert found is not None
    return found


def outcomes(ledger: Ledger) -> list[tuple[str, str]]:
    detail = ledger.run("A-B")
    assert detail is not None
    return [(attempt.step, attempt.outcome) for attempt in detail.attempts]


class TestBegin:
    def test_the_step_is_the_tokens(self, ledger: Ledger) -> None:
        started = begin(ledger, "A-B", now=NOW + 3)
        assert (started.attempt, started.lost) == (1, 0)
        assert started.run == run(ledger)
        assert (started.run.state, started.run.step_state, started.run.token) == ("running", "running", "token")
        assert started.run.started_at == NOW + 3

    def test_doing_it_again_loses_nothing(self, ledger: Ledger) -> None:
        begin(ledger, "A-B")
        assert begin(ledger, "A-B").lost == 0

    def test_whoever_comes_with_the_locks_takes_over_from_the_dead(self, ledger: Ledger) -> None:
        begin(ledger, "A-B", token="dead")
        assert begin(ledger, "A-B", token="heir").lost == 1
        assert outcomes(ledger) == [("first", "lost")]

    def test_a_step_whose_workers_die_too_often_is_to_be_failed(self, ledger: Ledger) -> None:
        for number in range(MAX_LOST + 1):
            begin(ledger, "A-B", token=f"dead {number}")
        begun = ledger.begin("A-B", "first", 1, "last", NOW, MAX_LOST)
        assert isinstance(begun, LostTooOften)
        assert begun.lost == MAX_LOST + 1
        assert ledger.fail("A-B", "first", 1, "last", NOW, "LOST", "workers died", None)

    def test_a_step_that_is_done_gives_its_result_and_the_message_goes_on(self, ledger: Ledger) -> None:
        begin(ledger, "A-B")
        ledger.finish("A-B", "first", 1, "token", {"rows": 3}, NOW)
        begun = ledger.begin("A-B", "first", 1, "late", NOW, MAX_LOST)
        assert isinstance(begun, Finished)
        assert begun.result == {"rows": 3}
        assert run(ledger).step_state == "queued"

    @pytest.mark.parametrize(
        ("run_id", "step", "generation"),
        [("none", "first", 1), ("A-B", "second", 1), ("A-B", "first", 2), ("A-B", "first", 0), ("A-B", "fourth", 1)],
        ids=["unknown run", "an earlier step to do", "newer generation", "older generation", "unknown step"],
    )
    def test_a_message_that_does_not_fit_is_stale(
        self, ledger: Ledger, run_id: str, step: str, generation: int
    ) -> None:
        before = run(ledger)
        assert isinstance(ledger.begin(run_id, step, generation, "token", NOW, MAX_LOST), Stale)
        assert run(ledger) == before

    def test_messages_of_an_ended_run_are_stale(self, ledger: Ledger) -> None:
        do(ledger, "A-B", *STEPS)
        begun = ledger.begin("A-B", "third", 1, "late", NOW, MAX_LOST)
        assert isinstance(begun, Stale)
        assert begun.run is not None
        assert begun.run.state == "succeeded"


class TestFinish:
    def test_steps_follow_each_other_and_the_last_ends_the_run(self, ledger: Ledger) -> None:
        following = []
        for step in STEPS:
            begin(ledger, "A-B", step)
            following.append(ledger.finish("A-B", step, 1, "token", {"of": step}, NOW + 7))
        assert following == ["second", "third", None]
        assert (run(ledger).state, run(ledger).step, run(ledger).ended_at) == ("succeeded", None, NOW + 7)
        detail = ledger.run("A-B")
        assert detail is not None
        assert [(step.name, step.state, step.result) for step in detail.steps] == [
            (step, "succeeded", {"of": step}) for step in STEPS
        ]

    def test_doing_it_again_gives_the_same_answer(self, ledger: Ledger) -> None:
        begin(ledger, "A-B")
        assert [ledger.finish("A-B", "first", 1, "token", {}, NOW) for _ in range(2)] == ["second", "second"]
        assert outcomes(ledger) == [("first", "succeeded")]

    def test_whoever_was_overtaken_finishes_nothing(self, ledger: Ledger) -> None:
        begin(ledger, "A-B", token="slow")
        begin(ledger, "A-B", token="heir")
        with pytest.raises(LockLost):
            ledger.finish("A-B", "first", 1, "slow", {}, NOW)
        assert run(ledger).token == "heir"
        assert ledger.finish("A-B", "first", 1, "heir", {}, NOW) == "second"

    def test_nobody_finishes_what_they_did_not_begin(self, ledger: Ledger) -> None:
        with pytest.raises(LockLost):
            ledger.finish("A-B", "first", 1, "token", {}, NOW)
        with pytest.raises(LockLost):
            ledger.finish("none", "first", 1, "token", {}, NOW)

    def test_warnings_of_all_steps_are_the_runs_each_once(self, ledger: Ledger) -> None:
        for step, warnings in (("first", ["one", "two"]), ("second", ["two", "three"])):
            begin(ledger, "A-B", step)
            ledger.finish("A-B", step, 1, "token", {"warnings": warnings}, NOW)
        assert run(ledger).warnings == ("one", "two", "three")


class TestStepAside:
    def test_a_failure_that_counts_uses_up_an_attempt(self, ledger: Ledger) -> None:
        begin(ledger, "A-B")
        assert ledger.step_aside("A-B", "first", 1, "token", NOW, NOW + 50, "TRANSIENT", "it broke", counts=True)
        waiting = run(ledger)
        assert (waiting.state, waiting.step_state, waiting.next_at) == ("waiting", "waiting", NOW + 50)
        assert (waiting.reason, waiting.error, waiting.token) == ("TRANSIENT", "it broke", None)
        started = begin(ledger, "A-B", token="second try")
        assert started.attempt == 2
        assert (started.run.reason, started.run.error, started.run.next_at) == (None, None, None)
        assert outcomes(ledger) == [("first", "retry")]

    def test_waiting_for_a_server_uses_up_none(self, ledger: Ledger) -> None:
        begin(ledger, "A-B")
        ledger.step_aside("A-B", "first", 1, "token", NOW, NOW + 50, "UNREACHABLE")
        assert begin(ledger, "A-B", token="again").attempt == 1
        assert outcomes(ledger) == [("first", "waiting")]

    def test_waiting_for_users_leaves_no_trace_however_often(self, ledger: Ledger) -> None:
        for number in range(3):
            assert ledger.step_aside("A-B", "first", 1, None, NOW, NOW + number, "BUSY", "B is held")
            assert ledger.requeue(ledger.due(NOW + number)[0], NOW + number)
        assert outcomes(ledger) == []

    def test_doing_it_again_changes_nothing(self, ledger: Ledger) -> None:
        begin(ledger, "A-B")
        for _ in range(2):
            assert ledger.step_aside("A-B", "first", 1, "token", NOW, NOW + 50, "TRANSIENT", counts=True)
        assert run(ledger).attempts == 1

    def test_a_second_copy_without_locks_cannot_put_off_the_one_at_work(self, ledger: Ledger) -> None:
        begin(ledger, "A-B", token="at work")
        assert not ledger.step_aside("A-B", "first", 1, None, NOW, NOW + 50, "BUSY")
        assert not ledger.step_aside("A-B", "first", 1, "other", NOW, NOW + 50, "TRANSIENT", counts=True)
        assert ledger.finish("A-B", "first", 1, "at work", {}, NOW) == "second"


class TestFail:
    def test_the_run_has_failed_with_reason_and_announcement(self, ledger: Ledger) -> None:
        begin(ledger, "A-B")
        for _ in range(2):
            assert ledger.fail("A-B", "first", 1, "token", NOW + 2, "BAD_ROW", "broken \x00", event("failure"))
        failed = run(ledger)
        assert (failed.state, failed.step, failed.step_state) == ("failed", "first", "failed")
        assert (failed.reason, failed.error, failed.ended_at) == ("BAD_ROW", "broken \\x00", NOW + 2)
        assert outcomes(ledger) == [("first", "failed")]
        assert ledger.undelivered() == [event("failure")]

    def test_a_step_that_was_never_begun_may_fail_too(self, ledger: Ledger) -> None:
        assert ledger.fail("A-B", "first", 1, None, NOW, "BAD", "no target", None)
        assert run(ledger).state == "failed"

    def test_whoever_was_overtaken_fails_nothing(self, ledger: Ledger) -> None:
        begin(ledger, "A-B", token="slow")
        begin(ledger, "A-B", token="heir")
        assert not ledger.fail("A-B", "first", 1, "slow", NOW, "BAD", "broken", event("failure"))
        assert not ledger.fail("A-B", "first", 1, None, NOW, "BAD", "broken", event("failure"))
        assert run(ledger).state == "running"
        assert ledger.undelivered() == []


class TestSweeping:
    def test_what_is_due_is_found_and_sent_once(self, ledger: Ledger) -> None:
        begin(ledger, "A-B")
        ledger.step_aside("A-B", "first", 1, "token", NOW, NOW + 50, "TRANSIENT", counts=True)
        assert ledger.due(NOW + 49) == []
        [pending] = ledger.due(NOW + 50)
        assert (pending.run_id, pending.step, pending.generation, pending.remaining) == ("A-B", "first", 1, STEPS)
        assert [ledger.requeue(pending, NOW + 60) for _ in range(2)] == [True, False]
        assert (run(ledger).state, run(ledger).queued_at, run(ledger).next_at) == ("queued", NOW + 60, None)
        assert ledger.due(NOW + 99) == []

    def test_a_running_step_is_requeued_with_its_worker_counted_as_lost(self, ledger: Ledger) -> None:
        do(ledger, "A-B", "first")
        begin(ledger, "A-B", "second", token="dead")
        [pending] = ledger.running()
        assert (pending.token, pending.started_at, pending.remaining) == ("dead", NOW, ("second", "third"))
        assert ledger.requeue(pending, NOW)
        assert not ledger.requeue(pending, NOW)
        assert begin(ledger, "A-B", "second", token="heir").lost == 1

    def test_what_moved_on_meanwhile_is_not_sent(self, ledger: Ledger) -> None:
        [queued] = ledger.unfinished()
        begin(ledger, "A-B")
        [running] = ledger.running()
        assert not ledger.requeue(queued, NOW)
        ledger.finish("A-B", "first", 1, "token", {}, NOW)
        assert not ledger.requeue(running, NOW)

    def test_what_is_queued_for_long_is_found_longest_first(self, ledger: Ledger) -> None:
        enter(ledger, merge("C", "D"), now=NOW - 1)
        enter(ledger, merge("E", "F"), now=NOW + 1)
        assert [pending.run_id for pending in ledger.queued_before(NOW + 1)] == ["C-D", "A-B"]
        assert [pending.run_id for pending in ledger.queued_before(NOW + 1, limit=1)] == ["C-D"]

    def test_everything_unfinished_is_found_page_by_page(self, ledger: Ledger) -> None:
        enter(ledger, merge("C", "D"), merge("E", "F"), merge("G", "H"), merge("I", "J"))
        begin(ledger, "A-B")
        ledger.step_aside("C-D", "first", 1, None, NOW, NOW, "BUSY")
        do(ledger, "E-F", *STEPS)
        fail(ledger, "G-H")
        assert _paged(ledger) == ["A-B", "C-D", "I-J"]


def _paged(ledger: Ledger) -> list[str]:
    found: list[Pending] = []
    while page := ledger.unfinished(after=found[-1].run_id if found else "", limit=1):
        found += page
    return [pending.run_id for pending in found]


class TestRetry:
    def test_it_goes_on_at_the_failed_step_in_a_new_generation(self, ledger: Ledger) -> None:
        do(ledger, "A-B", "first")
        fail(ledger, "A-B", "second")
        entered = ledger.retry("A-B", NOW + 5, "ada")
        assert (entered.state, entered.generation, entered.first_step, entered.new) == ("queued", 2, "second", False)
        again = run(ledger)
        assert (again.reason, again.error, again.ended_at, again.attempts) == (None, None, None, 0)
        assert isinstance(ledger.begin("A-B", "second", 1, "old", NOW, MAX_LOST), Stale)
        assert isinstance(ledger.begin("A-B", "second", 2, "new", NOW, MAX_LOST), Started)
        detail = ledger.run("A-B")
        assert detail is not None
        assert [(entry.who, entry.action, entry.at) for entry in detail.audit] == [("ada", "retry", NOW + 5)]

    def test_of_two_who_do_it_one_is_refused(self, ledger: Ledger) -> None:
        fail(ledger, "A-B")
        ledger.retry("A-B", NOW, "ada")
        with pytest.raises(Refused, match="is queued"):
            ledger.retry("A-B", NOW, "bob")

    def test_a_named_step_and_all_after_it_are_done_again(self, ledger: Ledger) -> None:
        for step in STEPS:
            begin(ledger, "A-B", step)
            ledger.finish("A-B", step, 1, "token", {"warnings": [f"of {step}"]}, NOW)
        assert ledger.retry("A-B", NOW, "ada", "second").first_step == "second"
        detail = ledger.run("A-B")
        assert detail is not None
        assert [step.state for step in detail.steps] == ["succeeded", "queued", "pending"]
        assert detail.run.warnings == ("of first",)
        do(ledger, "A-B", "second", "third")
        assert run(ledger).state == "succeeded"

    @pytest.mark.parametrize("step", [None, "fourth"])
    def test_a_succeeded_run_is_not_retried_without_one_of_its_steps(self, ledger: Ledger, step: str | None) -> None:
        do(ledger, "A-B", *STEPS)
        with pytest.raises(Refused):
            ledger.retry("A-B", NOW, "ada", step)

    def test_no_step_is_left_out(self, ledger: Ledger) -> None:
        fail(ledger, "A-B")
        with pytest.raises(Refused, match="failed in first, before second"):
            ledger.retry("A-B", NOW, "ada", "second")

    def test_nothing_is_retried_that_nobody_knows(self, ledger: Ledger) -> None:
        with pytest.raises(Refused, match="no run"):
            ledger.retry("none", NOW, "ada")

    def test_a_run_that_is_being_undone_is_not_retried(self, ledger: Ledger) -> None:
        fail(ledger, "A-B")
        enter(ledger, undo("A-B", "A", "B"))
        with pytest.raises(Refused, match="being undone"):
            ledger.retry("A-B", NOW, "ada")
        fail(ledger, "undo-A-B", "back")
        journal(ledger, chunk("undo-A-B"))
        with pytest.raises(Refused, match="being undone"):
            ledger.retry("A-B", NOW, "ada")

    def test_an_undo_that_failed_before_it_did_anything_is_in_nobodys_way(self, ledger: Ledger) -> None:
        fail(ledger, "A-B")
        enter(ledger, undo("A-B", "A", "B"))
        fail(ledger, "undo-A-B", "back")
        assert ledger.retry("A-B", NOW, "ada").first_step == "first"

    def test_an_undo_is_not_tried_again_while_its_run_is_at_work_again(self, ledger: Ledger) -> None:
        fail(ledger, "A-B")
        enter(ledger, undo("A-B", "A", "B"))
        fail(ledger, "undo-A-B", "back")
        ledger.retry("A-B", NOW, "ada")
        with pytest.raises(Refused, match="A-B is queued"):
            ledger.retry("undo-A-B", NOW, "ada")
        do(ledger, "A-B", *STEPS)
        assert ledger.retry("undo-A-B", NOW, "ada").first_step == "back"

    def test_an_undo_is_not_tried_again_while_a_later_merge_stands(self, ledger: Ledger) -> None:
        fail(ledger, "A-B")
        enter(ledger, undo("A-B", "A", "B"))
        fail(ledger, "undo-A-B", "back")
        enter(ledger, merge("B", "C"))
        with pytest.raises(Refused, match="B-C"):
            ledger.retry("undo-A-B", NOW, "ada")


class TestUndone:
    def test_it_is_asked_before_anything_is_taken_back(self, ledger: Ledger) -> None:
        with pytest.raises(Refused, match="A-B is queued"):
            ledger.to_be_undone("A-B")
        do(ledger, "A-B", *STEPS)
        assert ledger.to_be_undone("A-B")
        ledger.undone("A-B", "undo-A-B", NOW)
        assert not ledger.to_be_undone("A-B")

    def test_events_that_have_not_been_sent_never_will_be(self, ledger: Ledger) -> None:
        journal(ledger, chunk("A-B"), event("sent"), event("unsent"))
        ledger.delivered(["sent"], NOW)
        fail(ledger, "A-B", event=event("failure"))
        ledger.undone("A-B", "undo-A-B", NOW)
        assert ledger.undelivered("A-B") == ledger.undelivered() == []
        assert ledger.delivered_mids("A-B") == ["sent"]
        assert ledger.unsent_mids("A-B") == ["unsent", "failure"]

    def test_the_source_is_an_account_of_its_own_again(self, ledger: Ledger) -> None:
        do(ledger, "A-B", *STEPS)
        assert [ledger.undone("A-B", "undo-A-B", NOW) for _ in range(2)] == [True, False]
        assert run(ledger).state == "undone"
        assert ledger.merged_into("A") is None
        assert enter(ledger, merge("A", "C"))[0].new

    def test_only_a_run_that_has_ended_is_undone(self, ledger: Ledger) -> None:
        with pytest.raises(Refused):
            ledger.undone("A-B", "undo-A-B", NOW)
        with pytest.raises(Refused):
            ledger.undone("none", "undo-A-B", NOW)

    def test_it_is_not_retried(self, ledger: Ledger) -> None:
        fail(ledger, "A-B")
        ledger.undone("A-B", "undo-A-B", NOW)
        with pytest.raises(Refused, match="undone"):
            ledger.retry("A-B", NOW, "ada")

    def test_a_sweep_that_came_meanwhile_keeps_the_account_merged(self, ledger: Ledger) -> None:
        do(ledger, "A-B", *STEPS)
        enter(ledger, merge("A", "B", "late"))
        ledger.undone("A-B", "undo-A-B", NOW)
        merged = ledger.merged_into("A")
        assert merged is not None
        assert (merged.target, merged.run_id) == ("B", "late")


def done_by_hand(ledger: Ledger, run_id: str) -> list[tuple[str, str, str | None]]:
    detail = ledger.run(run_id)
    assert detail is not None
    return [(entry.who, entry.action, entry.detail) for entry in detail.audit]


def name_nobody(ledger: Ledger, *, again: bool = False) -> None:
    """Let the ledger lose the place where it writes who did something, or find it again."""
    before, after = ("gone", "audit") if again else ("audit", "gone")
    with ledger._database.write() as connection:
        connection.execute(sa.text(f"ALTER TABLE {before} RENAME TO {after}"))


class TestActsHaveNames:
    def test_trying_now_is_done_once_with_its_name_or_not_at_all(self, ledger: Ledger) -> None:
        begin(ledger, "A-B")
        ledger.step_aside("A-B", "first", 1, "token", NOW, NOW + 50, "TRANSIENT", counts=True)
        [pending] = ledger.due(NOW + 50)
        act = Act(NOW, "asha", "try now", run_id="A-B", detail="first")
        name_nobody(ledger)
        with pytest.raises(SchemaMissing):
            ledger.requeue(pending, NOW, act)
        name_nobody(ledger, again=True)
        assert run(ledger).state == "waiting"
        assert [ledger.requeue(pending, NOW, act) for _ in range(2)] == [True, False]
        assert done_by_hand(ledger, "A-B") == [("asha", "try now", "first")]

    def test_an_undo_is_entered_once_with_its_name_or_not_at_all(self, ledger: Ledger) -> None:
        do(ledger, "A-B", *STEPS)
        name_nobody(ledger)
        with pytest.raises(SchemaMissing):
            undoing.request(ledger, "A-B", NOW, "asha")
        assert ledger.peek(undoing.run_id_of(run(ledger))) is None
        name_nobody(ledger, again=True)
        entered = [undoing.request(ledger, "A-B", NOW, who) for who in ("asha", "ravi")]
        assert [one.new for one in entered] == [True, False]
        assert done_by_hand(ledger, "A-B") == [("asha", "undo", entered[0].run_id)]
        assert done_by_hand(ledger, entered[0].run_id) == [("asha", "undo", "of A-B")]
