"""What the ledger promises to people who look at it."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa

from lern.ledger import Ledger, prepared
from tests.contract.given_ledger import NOW, STEPS, begin, chunk, do, enter, fail, journal, merge


@pytest.fixture(autouse=True)
def _runs(ledger: Ledger) -> None:
    for number in range(9):
        enter(ledger, merge(f"S{number}", f"T{number % 3}"), now=NOW + number // 2)
    enter(ledger, merge("X", "S0", workflow="other", mid="100%_mid", merge=False), now=NOW + 50)
    fail(ledger, "S4-T1")
    do(ledger, "S5-T2", *STEPS)


def ids(ledger: Ledger, **chosen: Any) -> list[str]:
    return [run.id for run in ledger.runs(**chosen)]


def test_runs_are_listed_newest_first_each_once(ledger: Ledger) -> None:
    everything = ["X-S0", *(f"S{n}-T{n % 3}" for n in range(8, -1, -1))]
    assert ids(ledger) == everything
    assert ids(ledger, limit=3) == everything[:3]


@pytest.mark.parametrize(
    ("chosen", "found"),
    [
        ({"state": "failed"}, ["S4-T1"]),
        ({"state": "succeeded", "workflow": "merge"}, ["S5-T2"]),
        ({"workflow": "other"}, ["X-S0"]),
        ({"user": "S0"}, ["X-S0", "S0-T0"]),
        ({"user": "T1", "limit": 2}, ["S7-T1", "S4-T1"]),
        ({"since": NOW + 4}, ["X-S0", "S8-T2"]),
        ({"until": NOW + 1}, ["S1-T1", "S0-T0"]),
    ],
)
def test_runs_are_chosen_by_state_workflow_user_and_time(
    ledger: Ledger, chosen: dict[str, Any], found: list[str]
) -> None:
    assert ids(ledger, **chosen) == found


def test_runs_are_counted_by_state(ledger: Ledger) -> None:
    assert ledger.counts() == {"queued": 8, "failed": 1, "succeeded": 1}


def test_a_run_tells_all_its_steps_and_attempts(ledger: Ledger) -> None:
    begin(ledger, "S1-T1", token="dead", now=NOW + 1)
    begin(ledger, "S1-T1", token="one", now=NOW + 2)
    ledger.step_aside("S1-T1", "first", 1, "one", NOW + 3, NOW + 4, "TRANSIENT", "it broke", counts=True)
    begin(ledger, "S1-T1", token="two", now=NOW + 5)
    ledger.finish("S1-T1", "first", 1, "two", {"copied": 3}, NOW + 6)
    begin(ledger, "S1-T1", "second", now=NOW + 7)
    detail = ledger.run("S1-T1")
    assert detail is not None
    assert detail.event == b"event of S1-T1"
    assert [(a.number, a.outcome, a.started_at, a.ended_at, a.error, a.result) for a in detail.attempts] == [
        (1, "lost", NOW + 1, NOW + 2, None, None),
        (1, "retry", NOW + 2, NOW + 3, "it broke", None),
        (2, "succeeded", NOW + 5, NOW + 6, None, {"copied": 3}),
    ]
    first, second, third = detail.steps
    assert (first.state, first.attempts, first.lost, first.result) == ("succeeded", 1, 1, {"copied": 3})
    assert (first.started_at, first.ended_at) == (NOW + 5, NOW + 6)
    assert (second.state, second.queued_at, second.started_at) == ("running", NOW + 6, NOW + 7)
    assert (third.state, third.started_at, third.result) == ("pending", None, None)


def test_errors_of_any_length_are_kept_readable(ledger: Ledger) -> None:
    begin(ledger, "S1-T1")
    ledger.fail("S1-T1", "first", 1, "token", NOW, "BAD", "x" * 1_000_000, None)
    [run] = ledger.runs(user="S1")
    assert run.error is not None
    assert 1_000 <= len(run.error) <= 10_000


# PostgreSQL rightly reads small tables whole.
@pytest.mark.parametrize("ledger_url", ["sqlite"], indirect=True)
class TestIndexes:
    """What is asked for often must not read the whole table: it grows for as long as runs are kept."""

    @pytest.fixture
    def plans(self, ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
        plans: list[str] = []

        def explain(driver: Any, statement: str, parameters: Any) -> None:
            if statement.startswith("SELECT"):
                plans.extend(row[3] for row in driver.execute(f"EXPLAIN QUERY PLAN {statement}", parameters))

        def built(connection: sa.Connection, _cursor: object, statement: str, parameters: Any, *_: object) -> None:
            explain(connection.connection.dbapi_connection, statement, parameters)

        send = prepared._send

        def sent(driver: Any, statement: str, parameters: Any) -> Any:
            explain(driver, statement, parameters)
            return send(driver, statement, parameters)

        monkeypatch.setattr(prepared, "_send", sent)
        sa.event.listen(ledger._database.engine, "before_cursor_execute", built)
        yield plans
        sa.event.remove(ledger._database.engine, "before_cursor_execute", built)

    def test_nothing_is_scanned_or_sorted(self, ledger: Ledger, plans: list[str]) -> None:
        journal(ledger, chunk("S1-T1", scope={}))
        ledger.peek("S1-T1")
        ledger.run("S1-T1")
        ledger.runs()
        ledger.runs(state="failed")
        ledger.runs(workflow="merge")
        ledger.due(NOW)
        ledger.running()
        ledger.queued_before(NOW)
        ledger.unfinished()
        ledger.open_chunks(["A", "B"])
        ledger.open_chunks(["A", "B"], ["merge"])
        ledger.concerned(["A", "B"], "B", ["merge"])
        list(ledger.chunks("S1-T1", newest_first=True))
        list(ledger.chunks("S1-T1", "first"))
        list(ledger.scope_of_source("A"))
        ledger.next_number("S1-T1", "first")
        ledger.undelivered()
        ledger.undelivered("S1-T1")
        ledger.final_account("A")
        ledger.contributed("A", "t", [("1",)])
        ledger.dead_letters(state="open", after=(NOW, 1))
        ledger.dead_letters()
        assert plans
        wrong = re.compile(r"SCAN \w+$|TEMP B-TREE")
        assert [plan for plan in plans if wrong.search(plan)] == []

    def test_a_users_runs_are_found_by_the_user_and_one_run_by_its_id(self, ledger: Ledger, plans: list[str]) -> None:
        ledger.runs(user="S1")
        ledger.named("0aa1b2c3", 5)
        ledger.later_merges("S1-T1")
        assert not any(re.search(r"SCAN \w+$", plan) for plan in plans)
