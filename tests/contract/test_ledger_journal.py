"""What the ledger promises about the journal and the outbox."""

import math

import pytest

from lern.errors import LockLost
from lern.ledger import Ledger
from tests.contract.given_ledger import NOW, begin, carry_out, chunk, enter, event, fail, journal, mark, merge


@pytest.fixture(autouse=True)
def _one_run(ledger: Ledger) -> None:
    enter(ledger, merge("A", "B"))


class TestJournal:
    def test_a_chunk_comes_back_as_it_went_in(self, ledger: Ledger) -> None:
        payload = {"rows": [{"größe": 2**40, "score": 1.5, "none": None, "text": "\x00\ud800"}]}
        saved = journal(ledger, chunk("A-B", payload=payload, scope={"course": ["batch"]}))
        [read] = ledger.chunks("A-B")
        assert (saved.new, read.new) == (True, False)
        assert read.payload == saved.payload == payload
        assert read.scope == saved.scope == {"course": ["batch"]}
        assert (read.run_id, read.step, read.number, read.kind) == ("A-B", "first", 1, "merge")
        assert (read.source, read.target, read.state, read.created_at) == ("A", "B", "open", NOW)

    def test_a_score_that_is_no_number_is_kept(self, ledger: Ledger) -> None:
        assert math.isnan(journal(ledger, chunk("A-B", payload=[math.nan])).payload[0])

    def test_whoever_comes_second_adopts_the_firsts_chunk_and_plans_no_events(self, ledger: Ledger) -> None:
        first = journal(ledger, chunk("A-B"), event("one"))
        second = journal(ledger, chunk("A-B", payload="other"), event("two"))
        assert (second.id, second.new, second.payload) == (first.id, False, {"rows": 1})
        mark(ledger, first.id)
        assert ledger.undelivered() == [event("one")]

    def test_only_the_holder_of_the_step_journals(self, ledger: Ledger) -> None:
        begin(ledger, "A-B", token="slow")
        begin(ledger, "A-B", token="heir")
        with pytest.raises(LockLost):
            ledger.journal(chunk("A-B"), [event("one")], NOW, token="slow")
        with pytest.raises(LockLost):
            ledger.journal(chunk("A-B", step="second"), [], NOW, token="heir")
        assert list(ledger.chunks("A-B")) == []
        assert ledger.undelivered() == []
        assert ledger.journal(chunk("A-B"), [], NOW, token="heir").new

    def test_numbers_go_on_from_the_last(self, ledger: Ledger) -> None:
        assert ledger.next_number("A-B", "first") == 1
        journal(ledger, chunk("A-B", 1))
        journal(ledger, chunk("A-B", 2**40))
        assert ledger.next_number("A-B", "first") == 2**40 + 1
        assert ledger.next_number("A-B", "second") == 1

    def test_chunks_come_in_order_either_way_however_many(self, ledger: Ledger) -> None:
        for number in range(1, 12):
            journal(ledger, chunk("A-B", number, step="first" if number % 2 else "second"))
        journal(ledger, chunk("other", 99))
        everything = [saved.number for saved in ledger.chunks("A-B")]
        assert everything == list(range(1, 12))
        assert [saved.number for saved in ledger.chunks("A-B", newest_first=True)] == everything[::-1]
        assert [saved.number for saved in ledger.chunks("A-B", "second")] == [2, 4, 6, 8, 10]

    def test_the_ledger_can_be_written_while_its_chunks_are_read(self, ledger: Ledger) -> None:
        for number in range(1, 10):
            journal(ledger, chunk("A-B", number))
        for saved in ledger.chunks("A-B"):
            mark(ledger, saved.id)
        assert ledger.open_chunks(["A"]) == []


class TestMark:
    def test_an_unmarked_chunk_is_found_by_either_user_whatever_the_run(self, ledger: Ledger) -> None:
        one = journal(ledger, chunk("A-B", source="A", target="B"))
        two = journal(ledger, chunk("C-B", source="C", target="B"))
        assert [found.id for found in ledger.open_chunks(["B"])] == [one.id, two.id]
        assert [found.id for found in ledger.open_chunks(["C", "X"])] == [two.id]
        mark(ledger, one.id)
        assert [found.id for found in ledger.open_chunks(["A", "B"])] == [two.id]

    def test_an_unmarked_chunk_of_another_kind_concerns_nobody(self, ledger: Ledger) -> None:
        journal(ledger, chunk("A-B", source="A", target="B"))
        assert ledger.open_chunks(["A"], ["other"]) == []
        assert ledger.concerned({"A", "B"}, "B", ["other"]).unfinished == frozenset()

    def test_what_other_runs_journalled_later_is_found_by_either_user(self, ledger: Ledger) -> None:
        journal(ledger, chunk("B-A", source="B", target="A"))
        first = journal(ledger, chunk("A-B", source="A", target="B"))
        journal(ledger, chunk("A-B", 2, source="A", target="B"))
        later = [journal(ledger, chunk(f"{s}-{t}", 2, source=s, target=t)) for s, t in ("AC", "BA", "BC")]
        assert [found.id for found in ledger.later_chunks(first, "A", ["merge"])] == [one.id for one in later[:2]]
        assert list(ledger.later_chunks(first, "A", ["other"])) == []

    def test_it_says_who_else_is_concerned_and_where_the_target_went(self, ledger: Ledger) -> None:
        enter(ledger, merge("B", "D"))
        journal(ledger, chunk("C-D", source="C", target="D"))
        concerned = ledger.concerned({"A", "B"}, "B", ["merge"])
        assert concerned.final == "D"
        assert concerned.unfinished == {"C", "D"}

    def test_it_keeps_counts_and_warnings(self, ledger: Ledger) -> None:
        for number, warnings in ((1, ["odd"]), (2, []), (3, ["odd", "even"])):
            saved = journal(ledger, chunk("A-B", number))
            ledger.mark(saved.id, {"read": number, "warnings": warnings}, {}, NOW + 1)
        assert ledger.tally("A-B", "first") == ({"read": 6}, ["odd", "even"])
        assert ledger.tally("A-B", "second") == ({}, [])
        assert [(saved.state, saved.ended_at) for saved in ledger.chunks("A-B")] == [("done", NOW + 1)] * 3

    def test_what_rows_have_given_is_remembered_by_source(self, ledger: Ledger) -> None:
        saved = journal(ledger, chunk("A-B"))
        mark(
            ledger, saved.id, {("t", ("c", "b")): {"viewcount": 3}, ("t", ("c", "x")): {}, ("u", ("c", "b")): {"v": 1}}
        )
        asked = [("c", "b"), ("c", "x"), ("none", "b")]
        assert ledger.contributed("A", "t", asked) == {("c", "b"): {"viewcount": 3}, ("c", "x"): {}}
        assert ledger.contributed("B", "t", asked) == {}

    def test_marking_it_again_changes_nothing(self, ledger: Ledger) -> None:
        saved = journal(ledger, chunk("A-B"))
        mark(ledger, saved.id, {("t", ("1",)): {"v": 3}})
        mark(ledger, saved.id, {("t", ("1",)): {"v": 99}})
        assert ledger.contributed("A", "t", [("1",)]) == {("1",): {"v": 3}}

    def test_a_later_chunk_changes_and_forgets(self, ledger: Ledger) -> None:
        mark(ledger, journal(ledger, chunk("A-B", 1)).id, {("t", ("1",)): {"v": 3}, ("t", ("2",)): {"v": 4}})
        mark(ledger, journal(ledger, chunk("A-B", 2)).id, {("t", ("1",)): {"v": 5}, ("t", ("2",)): None})
        assert ledger.contributed("A", "t", [("1",), ("2",)]) == {("1",): {"v": 5}}

    def test_many_rows_are_asked_for_at_once(self, ledger: Ledger) -> None:
        keys = [(str(number),) for number in range(5_000)]
        mark(ledger, journal(ledger, chunk("A-B")).id, {("t", key): {"v": 1} for key in keys})
        assert len(ledger.contributed("A", "t", keys)) == 5_000


def test_scopes_are_found_by_run_and_by_source(ledger: Ledger) -> None:
    for number in range(1, 100):
        journal(ledger, chunk("A-B", number, scope={"n": number} if number % 2 else None))
    journal(ledger, chunk("A-B-late", scope={"n": "late"}))
    odd = [{"n": number} for number in range(1, 100, 2)]
    assert list(ledger.scope_of_run("A-B")) == odd
    assert list(ledger.scope_of_source("A")) == [*odd, {"n": "late"}]
    assert list(ledger.scope_of_source("B")) == []


class TestOutbox:
    def test_events_are_sent_in_the_order_in_which_they_were_planned(self, ledger: Ledger) -> None:
        carry_out(ledger, chunk("A-B", 1), event("z"), event("a"))
        carry_out(ledger, chunk("A-B", 2, step="second"), event("m"))
        carry_out(ledger, chunk("C-D", 1), event("c"))
        assert [planned.mid for planned in ledger.undelivered()] == ["z", "a", "m", "c"]
        assert [planned.mid for planned in ledger.undelivered("A-B")] == ["z", "a", "m"]
        assert [planned.mid for planned in ledger.undelivered(limit=2)] == ["z", "a"]
        assert ledger.undelivered(created_before=NOW) == []
        assert len(ledger.undelivered(created_before=NOW + 1)) == 4

    def test_an_event_waits_until_all_the_rows_of_its_step_are_written(self, ledger: Ledger) -> None:
        carry_out(ledger, chunk("A-B", 1), event("one"))
        open_still = journal(ledger, chunk("A-B", 2), event("two"))
        carry_out(ledger, chunk("A-B", 3, step="second"), event("of the second"))
        carry_out(ledger, chunk("C-D", 1), event("of another"))
        assert [planned.mid for planned in ledger.undelivered()] == ["of the second", "of another"]
        assert ledger.undelivered("A-B") == [event("of the second")]
        mark(ledger, open_still.id)
        assert [planned.mid for planned in ledger.undelivered("A-B")] == ["one", "two", "of the second"]

    def test_that_a_run_has_failed_waits_for_no_rows(self, ledger: Ledger) -> None:
        enter(ledger, merge("C", "D"))
        begin(ledger, "C-D")
        journal(ledger, chunk("C-D"), event("of its rows"))
        fail(ledger, "C-D", event=event("failure"))
        assert ledger.undelivered("C-D") == [event("failure")]

    def test_what_has_arrived_is_not_sent_again(self, ledger: Ledger) -> None:
        carry_out(ledger, chunk("A-B"), event("one"), event("two"))
        ledger.delivered(["one", "unknown"], NOW)
        ledger.delivered(["one"], NOW)
        ledger.delivered([], NOW)
        assert ledger.undelivered() == [event("two")]
        assert ledger.delivered_mids("A-B") == ["one"]

    def test_an_event_is_planned_once(self, ledger: Ledger) -> None:
        carry_out(ledger, chunk("A-B", 1), event("one"))
        ledger.delivered(["one"], NOW)
        carry_out(ledger, chunk("A-B", 2), event("one"), event("two"))
        assert ledger.undelivered() == [event("two")]

    def test_our_own_events_are_known_again(self, ledger: Ledger) -> None:
        journal(ledger, chunk("A-B"), event("one"), event("two"))
        ledger.delivered(["one"], NOW)
        assert ledger.known_mids(["one", "two", "three"]) == {"one", "two"}
        assert ledger.known_mids([]) == set()
