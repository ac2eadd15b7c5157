"""A process says whether it lives and whether it gets on with its work, to whoever asks over HTTP."""

import json
import os
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest

from lern.cli.parts import answers
from lern.health import Health, PortTaken, served


class Clock:
    """A clock that stands until it is moved."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def health(clock: Clock) -> Health:
    return Health(10.0, clock)


@pytest.fixture
def port(health: Health) -> Iterator[int]:
    with served(health, "127.0.0.1", 0) as port:
        assert port is not None
        yield port


def ask(port: int, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as refused:
        with refused:
            return refused.code, refused.read().decode()


def test_at_its_start_a_process_lives_but_is_not_ready(port: int) -> None:
    assert ask(port, "/health")[0] == 200
    status, body = ask(port, "/ready")
    assert status == 503
    assert json.loads(body) == {"ready": False, "reasons": {"start": "not yet ready to work"}}


def test_it_is_ready_when_nothing_hinders_it(health: Health, port: int) -> None:
    health.cleared("start")
    assert ask(port, "/ready") == (200, '{"ready": true, "reasons": {}}\n')


def test_whatever_hinders_it_is_named_until_it_is_over(health: Health, port: int) -> None:
    health.cleared("start")
    health.hindered("ledger", "it is away")
    health.hindered("queue", "12000 messages wait for workers")
    status, body = ask(port, "/ready")
    assert status == 503
    assert json.loads(body)["reasons"] == {"ledger": "it is away", "queue": "12000 messages wait for workers"}
    health.cleared("ledger")
    health.cleared("queue")
    assert ask(port, "/ready")[0] == 200


def test_what_is_no_news_is_known_as_such(health: Health) -> None:
    assert health.hindered("ledger", "it is away")
    assert not health.hindered("ledger", "it is still away")
    assert health.cleared("ledger")
    assert not health.cleared("ledger")


def test_a_loop_that_hangs_neither_lives_nor_is_ready(clock: Clock, health: Health, port: int) -> None:
    health.cleared("start")
    clock.now = 10.1
    assert ask(port, "/health")[0] == 503
    assert ask(port, "/ready")[0] == 503
    health.turned()
    assert ask(port, "/health")[0] == 200
    assert ask(port, "/ready?verbose")[0] == 200


def test_an_answer_says_which_process_gives_it_so_that_nobody_else_is_taken_for_it(health: Health, port: int) -> None:
    ready = f"http://127.0.0.1:{port}/ready"
    assert not answers(ready, os.getpid())
    health.cleared("start")
    assert answers(ready, os.getpid())
    assert not answers(ready, os.getppid())


def test_metrics_are_prometheus_text(port: int) -> None:
    status, body = ask(port, "/metrics")
    assert status == 200
    assert "# TYPE lern_runs_total counter" in body


def test_any_other_page_is_not_there(port: int) -> None:
    assert ask(port, "/")[0] == 404


def test_without_a_port_nothing_is_served(health: Health) -> None:
    with served(health, "127.0.0.1", None) as port:
        assert port is None


def test_a_port_that_somebody_has_is_said(health: Health) -> None:
    with socket.socket() as somebody:
        somebody.bind(("127.0.0.1", 0))
        somebody.listen()
        taken = somebody.getsockname()[1]
        with (
            pytest.raises(PortTaken, match=f"127.0.0.1:{taken} cannot be listened on"),
            served(health, "127.0.0.1", taken),
        ):
            pass
