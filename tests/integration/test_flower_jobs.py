"""What a job of Flower's has done is what its page says, wherever the job is broken off."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from lern import actions
from lern.errors import Unreachable
from lern.flower.bulk import Act, Job, carry_out
from lern.ledger import Counted, Run
from lern.services import Services
from tests.acceptance.place import Place
from tests.servers.redis import RedisServer

FAILED = 5


@pytest.fixture
def place(tmp_path: Path, own_redis: RedisServer) -> Iterator[Place]:
    with closing(Place.at(tmp_path, own_redis.url).create()) as here:
        yield here


def failed(place: Place) -> list[Run]:
    ids = [place.enter(f"s{number}", f"t{number}") for number in range(FAILED)]
    for run_id in ids:
        place.services.ledger.fail(run_id, "merge.content", 1, None, 1, "BAD_ROW", "no number", None)
    place.services.broker.delete(place.settings.queue)
    return [place.run(run_id) for run_id in ids]


def test_runs_that_were_started_before_the_ledger_went_are_counted_and_sent(place: Place) -> None:
    runs = failed(place)
    noted: list[str] = []

    def note(parts: Services, run_id: str, who: str, now: int) -> Run:
        if len(noted) == 3:
            raise Unreachable("ledger", "it has gone")
        noted.append(run_id)
        return actions.retried(parts, run_id, who, now)

    job = Job("Retry failed runs", "asha", Counted(FAILED), "started", "", [])
    carry_out(place.services, Act("retry", "failed", "Retry", note), iter(runs), job, lambda: False)
    assert (job.done, job.error) == (3, "ledger cannot be reached: it has gone. The rest is as before.")
    assert [place.run(run.id).state for run in runs] == ["queued"] * 3 + ["failed"] * 2
    assert place.services.broker.llen(place.settings.queue) == 3
