"""What a worker tells of itself: the numbers of all its processes at one address, a line for every step, no secrets."""

import json
import re
import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from lern import metrics_dir
from lern.embedded import EmbeddedRedis
from tests.acceptance.place import Place
from tests.accounts import RELATIONS, account, two_accounts
from tests.workers import Process, until

MERGES = 8


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    """A place whose Redis asks for a password, which must be told to nobody."""
    data = tmp_path / "data"
    with (
        EmbeddedRedis(data) as redis,
        closing(Place.at(data, redis.url, worker_port=str(free_port()), lock_ttl="1").create()) as here,
    ):
        yield here


def page(place: Place, name: str) -> httpx.Response:
    return httpx.get(f"http://127.0.0.1:{place.settings.worker_port}/{name}", timeout=30)


def numbers(place: Place) -> dict[str, float]:
    lines = [line for line in page(place, "metrics").text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


def lines(worker: Process) -> list[dict[str, object]]:
    return [json.loads(line) for line in worker.text.splitlines() if line.startswith("{")]


def test_a_worker_tells_what_it_does_and_no_secrets(place: Place, tmp_path: Path) -> None:
    place.load(two_accounts("asha-old", "asha"), RELATIONS)
    pairs = [(f"old-{number}", f"new-{number}") for number in range(MERGES)]
    place.load(row for pair in pairs for user in pair for row in account(user, ("course-1",)))
    more = {"LERN_LOG_LEVEL": "DEBUG", "LERN_LOG_FORMAT": "json"}
    with Process("worker", place.settings, tmp_path / "worker.log", more).ready() as worker:
        until(lambda: page(place, "ready").status_code == 200)
        entered = [place.enter(source, target, source) for source, target in [("asha-old", "asha"), *pairs]]
        until(lambda: all(place.run(run_id).state == "succeeded" for run_id in entered))
        until(lambda: numbers(place).get('lern_runs_total{outcome="succeeded",workflow="merge"}') == MERGES + 1)
        told = numbers(place)
        assert told['lern_steps_total{outcome="done",step="merge.content",workflow="merge"}'] == MERGES + 1
        assert told['lern_step_seconds_count{step="merge.content"}'] == MERGES + 1
        assert told['lern_lock_wait_seconds_count{step="merge.content"}'] >= MERGES + 1
        assert told['lern_rows_total{outcome="merged",table="user_content_consumption"}'] >= 2 * MERGES
        assert told['lern_rows_total{outcome="left",table="user_enrolments"}'] == 1
        assert told['lern_rows_total{outcome="computed",table="user_enrolments"}'] >= 1
        assert told['lern_events_sent_total{topic="dev.coursebatch.job.request"}'] >= 1
        assert told['lern_queue_length{queue="lern"}'] == 0
        assert told["lern_oldest_queued_run_seconds"] == 0
        [directory] = (place.settings.data_dir / "metrics").glob("worker-*")
        # One step, one line, with the ids of what it is about.
        of_steps = [line for line in lines(worker) if line.get("run") == entered[0]]
        ended = [line for line in of_steps if line["event"] == "step ended"]
        assert [line["step"] for line in ended] == list(place.run(entered[0]).steps)
        assert all(line["users"] == ["asha", "asha-old"] for line in ended)
        assert len([line for line in of_steps if line["level"] != "debug"]) == len(ended)
        # An error is where addresses like to be told.
        place.services.broker.shutdown(nosave=True)
        until(lambda: page(place, "ready").status_code == 503)
        assert page(place, "health").status_code == 200
        until(lambda: "Cannot connect to" in worker.text)
        queue_length = numbers(place)['lern_queue_length{queue="lern"}']
        assert queue_length != queue_length, "what is not known is no number"  # noqa: PLR0124 - NaN is told so
        password = urlsplit(place.services.broker_url).password
        assert password
        assert password not in worker.text
        assert not re.search(r"redis://:[^*@]+@", worker.text)
    # The numbers of a killed worker are cleared away by the next one, once the last of its children is gone.
    until(lambda: metrics_dir.new(place.settings.data_dir / "metrics").path.exists() and not directory.exists())
