"""Completions: whoever is said to have completed a course was announced, and nobody is announced who was not."""

from collections.abc import Callable, Sequence

import pytest

from lern.chunks import Carried
from lern.chunks.sync import SyncChunk
from lern.errors import BadRow, LernError, Unreachable
from lern.mirror import RunState
from lern.outgoing import OutgoingEvent, Sent
from lern.store.base import Store
from lern.store.tables import USER_ENROLMENTS
from tasks.step import Aside, Done, Failed, deliver, now_ms
from tests.acceptance.place import Place
from tests.acceptance.test_undo import undo
from tests.accounts import DAY, RELATIONS, content, enrolment, two_accounts

COURSE = {"k:k:leafnodes": ["x", "y"], "k:x:ancestors": ["k"], "k:y:ancestors": ["k"]}
CERTIFICATES = "dev.issue.certificate.request"
AUDITS = "dev.telemetry.raw"
CarryOut = Callable[[SyncChunk, Store, Callable[[], None]], Carried]


@pytest.fixture
def half_done(place: Place) -> Place:
    """The source has done x and the target is at y: the course is complete once y is."""
    place.load([content("from", "k", "b", "x", status=2), content("to", "k", "b", "y", status=1)], COURSE)
    place.load([enrolment("to", "k", "b", active=True, enrolled_date=DAY, status=1)])
    return place


def finish_y(place: Place) -> None:
    """Have the learner come to the end of the course."""
    place.load([content("to", "k", "b", "y", status=2, progress=100)])


def status(place: Place) -> int:
    [row] = place.rows(USER_ENROLMENTS, "to")
    return int(row["status"])


def fails_with(error: LernError) -> CarryOut:
    def carry_out(_chunk: SyncChunk, _store: Store, _guard: Callable[[], None]) -> Carried:
        raise error

    return carry_out


def test_whoever_finishes_between_plan_and_write_is_completed_and_announced(
    half_done: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    really = SyncChunk.carry_out

    def late(chunk: SyncChunk, store: Store, guard: Callable[[], None]) -> Carried:
        finish_y(half_done)
        return really(chunk, store, guard)

    monkeypatch.setattr(SyncChunk, "carry_out", late)
    half_done.merge("from", "to")
    assert status(half_done) == 2
    assert len(half_done.sent()[CERTIFICATES]) == len(half_done.sent()[AUDITS]) == 1


def test_whoever_finishes_before_an_unfinished_sync_is_tried_again_is_announced(
    half_done: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = half_done.enter("from", "to")
    for _ in range(4):
        half_done.step(run)
    with monkeypatch.context() as away:
        away.setattr(SyncChunk, "carry_out", fails_with(Unreachable("store", "away")))
        assert isinstance(half_done.step(run), Aside)
    finish_y(half_done)
    [due] = half_done.services.ledger.due(2**60)
    half_done.services.ledger.requeue(due, now_ms())
    assert isinstance(half_done.step(run), Done)
    assert status(half_done) == 2
    assert len(half_done.sent()[CERTIFICATES]) == len(half_done.sent()[AUDITS]) == 1


def test_a_completion_that_was_not_written_is_not_announced_before_it_is(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.load(two_accounts("from", "to"), RELATIONS)
    run = place.enter("from", "to")
    with monkeypatch.context() as spoilt:
        spoilt.setattr(SyncChunk, "carry_out", fails_with(BadRow("a table", "a key", "a column", "spoilt")))
        assert place.carry_out(run).state == "failed"
        deliver(place.services, None, created_before=2**60)
    assert len(place.sent()["dev.learning.events.failed"]) == 1
    assert CERTIFICATES not in place.sent()

    place.services.ledger.retry(run, now_ms(), "somebody")
    assert place.carry_out(run).state == "succeeded"
    assert len(place.sent()[CERTIFICATES]) == 1


class Away:
    """A Kafka that does not answer."""

    def send(self, events: Sequence[OutgoingEvent]) -> Sent:
        return Sent(failed=tuple((event, Unreachable("kafka", "away")) for event in events))

    def close(self) -> None:
        """Nothing was opened."""


def test_a_run_that_fails_while_kafka_is_away_is_shown_as_failed_and_announced_later(place: Place) -> None:
    place.load([content("from", "k", "b", "x", viewcount=1)])
    place.sql("UPDATE user_content_consumption SET viewcount = 'many'")
    run = place.enter("from", "to")
    sender = place.services.sender
    place.services.__dict__["sender"] = Away()
    assert isinstance(place.step(run), Failed)
    shown = place.services.mirror.seen(run)
    assert shown is not None
    assert shown.state == "failed"
    place.services.__dict__["sender"] = sender
    deliver(place.services, None, created_before=2**60)
    assert len(place.sent()["dev.learning.events.failed"]) == 1


def test_a_run_that_was_taken_back_is_shown_as_undone(place: Place) -> None:
    place.load(two_accounts("from", "to"), RELATIONS)
    run = place.merge("from", "to")
    assert place.services.mirror.seen(run) == RunState("succeeded")
    undo(place, run)
    assert place.services.mirror.seen(run) == RunState("undone")
