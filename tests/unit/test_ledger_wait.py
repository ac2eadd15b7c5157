"""A ledger that did not take what a step had decided is waited for, whatever kept it from that."""

import pytest

from lern.errors import LernError, Transient, Unreachable
from tasks import app
from tasks.step import Done, Outcome, Result, Work


def body(_work: Work) -> Result:
    raise AssertionError


@pytest.mark.parametrize("error", [Unreachable("ledger", "away"), Transient("ledger: two at once")])
def test_the_step_begins_again_as_the_same_execution(monkeypatch: pytest.MonkeyPatch, error: LernError) -> None:
    tokens: list[object] = []

    def perform(*arguments: object) -> Outcome:
        tokens.append(arguments[-1])
        if len(tokens) == 1:
            raise error
        return Done({})

    monkeypatch.setattr(app, "perform", perform)
    monkeypatch.setattr(app, "LEDGER_PAUSE", 0)
    assert app._perform("merge.content", body, "run", 1) == Done({})
    assert len(tokens) == 2
    assert len(set(tokens)) == 1
