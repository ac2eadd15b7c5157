"""What other services see of a run: a shadow of the ledger, which comes to its end when the run does."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from lern.errors import Refused, Unreachable
from lern.mirror import RunState
from tasks import merge, step
from tasks.step import Ended, Result, Work, perform
from tests.acceptance.place import Place
from tests.servers.redis import RedisServer


@pytest.fixture
def place(tmp_path: Path, own_redis: RedisServer) -> Iterator[Place]:
    with closing(Place.at(tmp_path, own_redis.url).create()) as here:
        yield here


def test_what_other_services_see_of_a_run_follows_it(place: Place) -> None:
    run_id = place.enter("a", "b")
    assert place.services.mirror.seen(run_id) == RunState("queued")
    place.step(run_id)
    assert place.services.mirror.seen(run_id) == RunState("running", merge.CONTENT)
    place.carry_out(run_id)
    assert place.services.mirror.seen(run_id) == RunState("succeeded")


def nothing(_work: Work) -> Result:
    return {}


def refused(_work: Work) -> Result:
    raise Refused("no")


@pytest.mark.parametrize(
    ("body", "seen"),
    [(nothing, RunState("succeeded")), (refused, RunState("failed", merge.SYNC, "no"))],
)
def test_whoever_waits_hears_how_a_run_has_ended_though_the_worker_died_before_it_said_so(
    place: Place, monkeypatch: pytest.MonkeyPatch, body: step.Body, seen: RunState
) -> None:
    run_id = place.enter("a", "b")
    while place.run(run_id).step != merge.SYNC:
        place.step(run_id)

    def killed(*_: object) -> None:
        raise SystemExit

    with monkeypatch.context() as until:
        until.setattr(step, "show", killed)
        with pytest.raises(SystemExit):
            perform(place.services, merge.SYNC, body, run_id, 1)
    assert place.run(run_id).state == seen.state
    assert place.services.mirror.seen(run_id) == RunState("running", merge.CONTENT)
    # Its message comes again.
    assert isinstance(perform(place.services, merge.SYNC, body, run_id, 1), Ended)
    assert place.services.mirror.seen(run_id) == seen


def away(_work: Work) -> Result:
    raise Unreachable("store", "away")


def test_a_run_that_has_waited_is_not_seen_to_wait_when_it_goes_on(place: Place) -> None:
    run_id = place.enter("a", "b")
    place.step(run_id)
    perform(place.services, merge.ENROLMENTS, away, run_id, 1)
    seen = place.services.mirror.seen(run_id)
    assert seen is not None
    assert seen.state == "waiting"
    place.step(run_id)
    assert place.services.mirror.seen(run_id) == RunState("running", merge.ENROLMENTS)


def test_a_message_that_comes_late_does_not_say_that_a_run_has_ended_which_was_tried_again_since(place: Place) -> None:
    run_id = place.enter("a", "b")
    perform(place.services, merge.CONTENT, refused, run_id, 1)
    place.services.ledger.retry(run_id, 1, "ada")
    place.services.mirror.show(run_id, RunState("queued"))
    assert isinstance(perform(place.services, merge.CONTENT, nothing, run_id, 1), Ended)
    assert place.services.mirror.seen(run_id) == RunState("queued")
