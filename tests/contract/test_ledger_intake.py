"""What the ledger promises about what comes in: runs, refusals, dead letters."""

from dataclasses import replace

import pytest

from lern.ledger import Entered, Ledger, NewDeadLetter, NewRun
from lern.ledger.merged_accounts import Admitted, admit
from tests.contract.given_ledger import NOW, STEPS, chunk, do, enter, event, fail, journal, merge, undo


def test_a_run_is_entered_as_queued_at_its_first_step(ledger: Ledger) -> None:
    new = merge("A", "B", mid="m", topic="dev.lms.user.account.merge", partition=3, offset=2**40, key=b"k")
    assert enter(ledger, new) == [Entered("A-B", "queued", 1, "first", new=True)]
    run = ledger.peek("A-B")
    assert run is not None
    assert (run.state, run.step, run.step_state, run.generation) == ("queued", "first", "queued", 1)
    assert (run.source, run.target, run.event_time, run.mid) == ("A", "B", NOW - 5, "m")
    assert (run.topic, run.partition, run.offset) == ("dev.lms.user.account.merge", 3, 2**40)
    assert (run.created_at, run.queued_at, run.ended_at) == (NOW, NOW, None)
    assert run.remaining == STEPS
    assert ledger.event("A-B") == b"event of A-B"


def test_the_same_run_again_is_left_as_it_is(ledger: Ledger) -> None:
    enter(ledger, merge("A", "B"))
    do(ledger, "A-B", *STEPS)
    before = ledger.run("A-B")
    assert enter(ledger, merge("A", "B"), now=NOW + 9) == [Entered("A-B", "succeeded", 1, None, new=False)]
    assert ledger.run("A-B") == before


def test_the_same_run_twice_in_one_batch_is_one_run(ledger: Ledger) -> None:
    once, again = enter(ledger, merge("A", "B"), merge("A", "B"))
    assert (once.new, again.new) == (True, False)
    assert len(ledger.runs()) == 1


def test_an_unknown_run_is_nowhere(ledger: Ledger) -> None:
    assert ledger.peek("none") is None
    assert ledger.run("none") is None
    with pytest.raises(KeyError):
        ledger.event("none")
    with pytest.raises(KeyError):
        ledger.later_merges("none")


def test_a_merge_is_remembered_and_followed_to_the_end(ledger: Ledger) -> None:
    enter(ledger, merge("A", "B"))
    enter(ledger, merge("B", "C"), now=NOW + 1)
    assert [ledger.final_account(user) for user in "ABCX"] == ["C", "C", "C", "X"]
    merged = ledger.merged_into("A")
    assert merged is not None
    assert (merged.target, merged.run_id, merged.merged_at) == ("B", "A-B", NOW)
    assert ledger.merged_into("C") is None


def test_a_merge_into_an_account_that_was_merged_goes_where_that_went(ledger: Ledger) -> None:
    enter(ledger, merge("B", "C"), merge("A", "B"))
    merged = ledger.merged_into("A")
    assert merged is not None
    assert merged.target == "C"
    run = ledger.peek("A-B")
    assert run is not None
    assert run.target == "B"


@pytest.mark.parametrize("before", [("A", "B"), ("A", "X", "X", "B"), ("A", "A")])
def test_a_merge_that_would_close_a_circle_is_a_dead_letter(ledger: Ledger, before: tuple[str, ...]) -> None:
    pairs = [pair for pair in zip(before[::2], before[1::2], strict=True) if pair[0] != pair[1]]
    enter(ledger, *(merge(*pair) for pair in pairs))
    source = before[-1]
    [entered] = enter(ledger, merge(source, "A", topic="t", partition=1, offset=7, key=b"k"))
    assert entered.state == "refused"
    assert entered.first_step is None
    assert entered.refused is not None
    assert entered.refused.code == "MERGE_CIRCLE"
    assert ledger.peek(f"{source}-A") is None
    [dead] = ledger.dead_letters()
    assert (dead.code, dead.field, dead.topic, dead.partition, dead.offset) == (
        "MERGE_CIRCLE",
        "edata.toAccountId",
        "t",
        1,
        7,
    )
    assert (dead.key, dead.value, dead.reason) == (b"k", f"event of {source}-A".encode(), entered.refused.reason)


def test_a_source_that_went_elsewhere_is_refused_and_the_reason_says_where(ledger: Ledger) -> None:
    enter(ledger, merge("A", "B"), merge("B", "C"))
    [entered] = enter(ledger, merge("A", "D"))
    assert entered.refused is not None
    assert entered.refused.code == "ALREADY_MERGED"
    assert entered.refused.field == "edata.fromAccountId"
    assert entered.refused.reason == "A is already merged into C"
    assert [dead.code for dead in ledger.dead_letters()] == ["ALREADY_MERGED"]


def test_late_rows_of_a_merged_account_are_swept_to_where_it_went(ledger: Ledger) -> None:
    enter(ledger, merge("A", "B"), merge("B", "C"))
    [by_first, by_final] = enter(ledger, merge("A", "B", "late-1"), merge("A", "C", "late-2"))
    assert by_first.new
    assert by_final.new
    merged = ledger.merged_into("A")
    assert merged is not None
    assert merged.run_id == "A-B"


def test_each_run_of_a_batch_sees_those_before_it(ledger: Ledger) -> None:
    states = [entered.state for entered in enter(ledger, merge("A", "B"), merge("B", "A"), merge("A", "C"))]
    assert states == ["queued", "refused", "refused"]


def test_runs_that_are_no_merges_bind_nobody(ledger: Ledger) -> None:
    transfer = replace(merge("A", "B"), workflow="ownership", merge=False)
    assert [entered.new for entered in enter(ledger, transfer, merge("B", "A"))] == [True, True]
    assert ledger.merged_into("A") is None


def test_a_decision_on_a_merge_needs_no_database() -> None:
    forwards = {"A": "B", "B": "C"}
    assert admit("X", "A", forwards) == Admitted("C", remember=True)
    assert admit("A", "C", forwards) == Admitted("C", remember=False)


class TestUndo:
    def test_a_run_that_has_ended_can_be_undone(self, ledger: Ledger) -> None:
        enter(ledger, merge("A", "B"))
        do(ledger, "A-B", *STEPS)
        [entered] = enter(ledger, undo("A-B", "A", "B"))
        assert entered.new
        detail = ledger.run("A-B")
        assert detail is not None
        assert detail.undo_runs == ("undo-A-B",)

    def test_not_while_it_runs(self, ledger: Ledger) -> None:
        enter(ledger, merge("A", "B"))
        assert _refusal(ledger, undo("A-B", "A", "B")) == "NOT_ENDED"

    def test_not_if_nobody_knows_it(self, ledger: Ledger) -> None:
        assert _refusal(ledger, undo("A-B", "A", "B")) == "UNKNOWN_RUN"

    @pytest.mark.parametrize("later", [("B", "C"), ("X", "B"), ("X", "A")])
    def test_not_while_a_later_merge_of_either_account_stands(self, ledger: Ledger, later: tuple[str, str]) -> None:
        enter(ledger, merge("A", "B"))
        do(ledger, "A-B", *STEPS)
        enter(ledger, merge(*later))
        assert _refusal(ledger, undo("A-B", "A", "B")) == "LATER_MERGE"
        assert [run.id for run in ledger.later_merges("A-B")] == ["-".join(later)]

    def test_not_while_a_later_merge_stands_that_only_ends_in_the_same_account(self, ledger: Ledger) -> None:
        enter(ledger, merge("B", "C"), merge("A", "C"))
        do(ledger, "A-C", *STEPS)
        enter(ledger, merge("X", "B"))
        assert [run.id for run in ledger.later_merges("A-C")] == ["X-B"]

    def test_even_then_if_the_run_is_no_merge(self, ledger: Ledger) -> None:
        enter(ledger, merge("A", "B", merge=False, workflow="ownership"))
        do(ledger, "A-B", *STEPS)
        enter(ledger, merge("B", "C"), merge("A", "D"))
        assert ledger.later_merges("A-B") == []
        [entered] = enter(ledger, undo("A-B", "A", "B"))
        assert entered.new

    def test_merges_that_never_touched_a_row_do_not_stand(self, ledger: Ledger) -> None:
        enter(ledger, merge("A", "B"))
        do(ledger, "A-B", *STEPS)
        enter(ledger, merge("X", "B"), merge("Y", "B"))
        fail(ledger, "X-B")
        fail(ledger, "Y-B")
        journal(ledger, chunk("Y-B"))
        assert [run.id for run in ledger.later_merges("A-B")] == ["Y-B"]

    def test_merges_of_others_and_earlier_ones_do_not_matter(self, ledger: Ledger) -> None:
        enter(ledger, merge("Z", "B"), merge("A", "B"), merge("P", "Q"))
        do(ledger, "A-B", *STEPS)
        assert ledger.later_merges("A-B") == []

    def test_a_merge_that_was_tried_again_after_another_has_come_after_it(self, ledger: Ledger) -> None:
        enter(ledger, merge("A", "B"), merge("B", "C"))
        fail(ledger, "A-B")
        journal(ledger, chunk("B-C", source="B", target="C"))
        do(ledger, "B-C", *STEPS)
        ledger.retry("A-B", NOW, "ada")
        assert _later(ledger, "B-C") == []
        journal(ledger, chunk("A-B", target="C"))
        do(ledger, "A-B", *STEPS)
        assert _later(ledger, "B-C") == ["A-B"]
        assert _refusal(ledger, undo("B-C", "B", "C")) == "LATER_MERGE"
        assert _later(ledger, "A-B") == []

    def test_of_a_merge_that_went_one_way_and_then_another_neither_goes_back(self, ledger: Ledger) -> None:
        enter(ledger, merge("A", "B"), merge("B", "C"))
        journal(ledger, chunk("A-B"))
        journal(ledger, chunk("B-C", source="B", target="C"))
        journal(ledger, chunk("A-B", step="second", target="C"))
        assert _later(ledger, "B-C") == ["A-B"]
        assert _later(ledger, "A-B") == ["B-C"]

    def test_of_merges_that_work_in_turns_the_one_that_began_later_goes_back_first(self, ledger: Ledger) -> None:
        enter(ledger, merge("A", "B"), merge("X", "B"))
        for step in STEPS:
            journal(ledger, chunk("X-B", step=step, source="X"))
            journal(ledger, chunk("A-B", step=step))
        assert _later(ledger, "X-B") == ["A-B"]
        assert _later(ledger, "A-B") == []
        journal(ledger, chunk("X-B", 2, source="X"))
        assert _later(ledger, "A-B") == ["X-B"]

    def test_what_comes_to_an_account_of_which_nothing_was_merged_has_gone_on_as_well(self, ledger: Ledger) -> None:
        enter(ledger, merge("X", "A"), merge("A", "B"))
        fail(ledger, "X-A")
        do(ledger, "A-B", *STEPS)
        assert _later(ledger, "A-B") == []
        ledger.retry("X-A", NOW, "ada")
        journal(ledger, chunk("X-A", source="X"))
        assert _later(ledger, "A-B") == ["X-A"]

    def test_a_refused_undo_is_no_dead_letter(self, ledger: Ledger) -> None:
        enter(ledger, undo("A-B", "A", "B"))
        assert ledger.dead_letters() == []


def _later(ledger: Ledger, run_id: str) -> list[str]:
    return [run.id for run in ledger.later_merges(run_id)]


def _refusal(ledger: Ledger, new: NewRun) -> str | None:
    [entered] = enter(ledger, new)
    return None if entered.refused is None else entered.refused.code


class TestDeadLetters:
    LETTER = NewDeadLetter("t", b"\xff\x00", "MALFORMED", "no JSON", "edata", b"k", 1, 10)

    def test_it_is_kept_with_reason_and_bytes(self, ledger: Ledger) -> None:
        ledger.enter([], [self.LETTER], NOW)
        [dead] = ledger.dead_letters()
        assert (dead.value, dead.key, dead.code, dead.field, dead.reason) == (
            b"\xff\x00",
            b"k",
            "MALFORMED",
            "edata",
            "no JSON",
        )
        assert (dead.count, dead.first_at, dead.last_at, dead.state, dead.run_id) == (1, NOW, NOW, "open", None)
        assert ledger.dead_letter(dead.id) == dead
        assert ledger.dead_letter(dead.id + 1) is None

    def test_the_same_bytes_on_the_same_topic_are_counted(self, ledger: Ledger) -> None:
        ledger.enter([], [self.LETTER, replace(self.LETTER, offset=11), replace(self.LETTER, topic="u")], NOW)
        ledger.enter([], [replace(self.LETTER, partition=None, offset=None)], NOW + 5)
        counted = {dead.topic: (dead.count, dead.first_at, dead.last_at) for dead in ledger.dead_letters()}
        assert counted == {"t": (3, NOW, NOW + 5), "u": (1, NOW, NOW)}

    def test_the_same_place_read_again_is_no_repeat(self, ledger: Ledger) -> None:
        ledger.enter([], [self.LETTER], NOW)
        ledger.enter([], [self.LETTER], NOW + 5)
        assert [dead.count for dead in ledger.dead_letters()] == [1]

    def test_a_batch_that_is_read_again_is_no_repeat_wherever_the_same_bytes_lie_in_it(self, ledger: Ledger) -> None:
        batch = [replace(self.LETTER, offset=offset) for offset in (10, 12, 15)]
        for _ in range(3):
            ledger.enter([], batch, NOW)
        ledger.enter([], [replace(self.LETTER, offset=16)], NOW)
        assert [(dead.count, dead.offset) for dead in ledger.dead_letters()] == [(4, 16)]

    def test_of_two_who_replay_it_one_does(self, ledger: Ledger) -> None:
        enter(ledger, merge("A", "B"))
        ledger.enter([], [self.LETTER], NOW)
        [dead] = ledger.dead_letters()
        assert ledger.replayed(dead.id, NOW + 1, "ada", "A-B")
        assert not ledger.replayed(dead.id, NOW + 1, "bob", "A-B")
        [after] = ledger.dead_letters(state="replayed")
        assert after.run_id == "A-B"
        detail = ledger.run("A-B")
        assert detail is not None
        assert [(entry.who, entry.action, entry.dead_id) for entry in detail.audit] == [("ada", "replay", dead.id)]

    def test_it_is_open_again_when_it_comes_again(self, ledger: Ledger) -> None:
        ledger.enter([], [self.LETTER], NOW)
        ledger.replayed(ledger.dead_letters()[0].id, NOW, "ada")
        ledger.enter([], [replace(self.LETTER, offset=99)], NOW)
        assert [(dead.state, dead.count) for dead in ledger.dead_letters()] == [("open", 2)]

    def test_text_that_no_database_takes_is_made_readable(self, ledger: Ledger) -> None:
        ledger.enter([], [replace(self.LETTER, reason="a\x00b\ud800c")], NOW)
        assert ledger.dead_letters()[0].reason == "a\\x00b\\ud800c"

    def test_listing_them_page_by_page_gives_each_once_latest_first(self, ledger: Ledger) -> None:
        for number in range(7):
            code = "ODD" if number % 2 else "EVEN"
            letter = replace(self.LETTER, value=b"%d" % number, code=code, reason=f"100% number {number}")
            ledger.enter([], [letter], NOW + number // 2)
        seen: list[bytes] = []
        after = None
        while page := ledger.dead_letters(limit=2, after=after):
            seen += [dead.value for dead in page]
            after = (page[-1].last_at, page[-1].id)
        assert seen == [b"6", b"5", b"4", b"3", b"2", b"1", b"0"]
        assert [dead.value for dead in ledger.dead_letters(code="ODD")] == [b"5", b"3", b"1"]
        assert [dead.value for dead in ledger.dead_letters(text="0% NUMBER 4")] == [b"4"]
        assert ledger.dead_letters(topic="u") == []


def test_events_of_a_failed_run_are_planned_with_its_failure(ledger: Ledger) -> None:
    enter(ledger, merge("A", "B"))
    fail(ledger, "A-B", event=event("failure"))
    assert ledger.undelivered("A-B") == [event("failure")]
