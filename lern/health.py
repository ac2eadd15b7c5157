"""What a process says of itself over HTTP: `/health` (it lives), `/ready` (it gets on with its work), `/metrics`."""

import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final

from lern import metrics
from lern.errors import LernError

PROCESS: Final = "Lern-Process"
"""The header that says which process answers: at a port that is known beforehand it may be anybody's."""


class PortTaken(LernError):
    """The address that the health is to be served on cannot be had."""

    code = "PORT_TAKEN"


class Health:
    """Whether a loop turns, and what keeps it from its work. Written by the loop, read by other threads."""

    def __init__(self, patience: float, clock: Callable[[], float] = time.monotonic) -> None:
        """Count the loop as dead when it has not turned for `patience` seconds."""
        self._patience = patience
        self._clock = clock
        self._turned_at = clock()
        # Replaced, never changed: a reader in another thread sees one or the other.
        self._hindrances: dict[str, str] = {"start": "not yet ready to work"}

    def turned(self) -> None:
        """Note that the loop turns."""
        self._turned_at = self._clock()

    def hindered(self, by: str, reason: str) -> bool:
        """Note what keeps the loop from its work; tells whether that is news."""
        news = by not in self._hindrances
        self._hindrances = {**self._hindrances, by: reason}
        return news

    def cleared(self, by: str) -> bool:
        """Note that this no longer hinders; tells whether that is news."""
        news = by in self._hindrances
        self._hindrances = {name: reason for name, reason in self._hindrances.items() if name != by}
        return news

    @property
    def alive(self) -> bool:
        """Whether the loop has turned lately."""
        return self._clock() - self._turned_at <= self._patience

    @property
    def hindrances(self) -> dict[str, str]:
        """What keeps it from its work, by name."""
        return self._hindrances

    @property
    def ready(self) -> bool:
        """Whether it gets on with its work."""
        return self.alive and not self._hindrances


@contextmanager
def served(health: Health, host: str, port: int | None) -> Iterator[int | None]:
    """Serve a process's health for the length of the block, at a port (0: any free one) or, with None, not at all.

    Gives the port. Raises `PortTaken`.
    """
    if port is None:
        yield None
        return
    try:
        server = _Server((host, port), _handler(health))
    except OSError as error:
        raise PortTaken(f"{host}:{port} cannot be listened on: {error.strerror or error}") from error
    threading.Thread(target=server.serve_forever, name="health", daemon=True).start()
    try:
        yield int(server.server_address[1])
    finally:
        server.shutdown()
        server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True


_TEXT: Final = "text/plain; version=0.0.4; charset=utf-8"
_JSON: Final = "application/json"


def _handler(health: Health) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = 10

        def do_GET(self) -> None:
            status, kind, body = _page(health, self.path.partition("?")[0])
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.send_header(PROCESS, str(os.getpid()))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
            """Say nothing: probes come every few seconds."""

    return Handler


def _page(health: Health, path: str) -> tuple[HTTPStatus, str, bytes]:
    match path:
        case "/health":
            return _status(health.alive), _JSON, _json({"alive": health.alive})
        case "/ready":
            ready = health.ready
            return _status(ready), _JSON, _json({"ready": ready, "reasons": health.hindrances})
        case "/metrics":
            return HTTPStatus.OK, _TEXT, metrics.exposition()
        case _:
            return HTTPStatus.NOT_FOUND, _JSON, _json({"pages": ["/health", "/ready", "/metrics"]})


def _status(good: bool) -> HTTPStatus:
    return HTTPStatus.OK if good else HTTPStatus.SERVICE_UNAVAILABLE


def _json(value: object) -> bytes:
    return json.dumps(value).encode() + b"\n"
