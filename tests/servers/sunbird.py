"""Sunbird's services as far as they are called: an HTTP server that answers as it is told, and keeps the questions."""

import gzip
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread
from types import MappingProxyType
from typing import Any

# What is answered to (path, body): status, content type, body.
Reply = tuple[int, str, bytes]
Replies = Callable[[str, Any], Reply]


@dataclass
class Sunbird:
    """A server on loopback. `replies` may be replaced while it runs."""

    replies: Replies
    url: str = ""
    asked: list[tuple[str, Any]] = field(default_factory=list)


def envelope(result: Any = None, status: int = 200, err: str | None = None, errmsg: str | None = None) -> Reply:
    """An answer in Sunbird's envelope."""
    body = {"id": "api", "ver": "v1", "params": {"err": err, "errmsg": errmsg}, "result": result or {}}
    return status, "application/json", json.dumps(body).encode()


def user(identifier: str, **columns: Any) -> Reply:
    """The answer of the user read API."""
    return envelope({"response": {"identifier": identifier, "userId": identifier, "status": 1, **columns}})


BLOCKED = envelope(status=400, err="UOS_USRRED0006", errmsg="User account has been blocked .")
UNKNOWN = envelope(status=404, err="UOS_USRRED0013", errmsg="user not found")
HTML = (200, "text/html; charset=utf-8", b"<html>please log in</html>")


def batch_search(documents: list[dict[str, Any]]) -> Replies:
    """The batch search of lms-service: filters that ignore case, thirty unless told otherwise, ten thousand at most."""

    def reply(_path: str, body: Any) -> Reply:
        request = body["request"]
        offset, limit = request.get("offset", 0), request.get("limit", 30)
        if offset + limit > 10_000:
            return envelope(status=400, err="CLIENT_ERROR")
        found = [one for one in documents if _fits(one, request["filters"])]
        found.sort(key=lambda one: str(one[next(iter(request["sort_by"]))]).lower())
        page = [
            {name: one[name] for name in request["fields"] if name in one} for one in found[offset : offset + limit]
        ]
        return envelope({"response": {"count": len(found), "content": page}})

    return reply


def _fits(one: dict[str, Any], filters: dict[str, Any]) -> bool:
    def texts(value: Any) -> set[str]:
        return {str(part).lower() for part in (value if isinstance(value, list) else [value])}

    return all(texts(one.get(name)) & texts(value) for name, value in filters.items())


@contextmanager
def sunbird(replies: Replies, headers: Mapping[str, str] = MappingProxyType({})) -> Iterator[Sunbird]:
    """Run a server for the length of the block. `headers`: more of them, whatever is answered."""
    state = Sunbird(replies)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer(None)

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"] or 0))
            if self.headers["content-encoding"] == "gzip":
                body = gzip.decompress(body)
            lines = [json.loads(line) for line in body.splitlines() if line] if self._is_lines else []
            self._answer(lines or (json.loads(body) if body else None))

        do_PUT = do_POST  # noqa: N815 - the base class's names

        @property
        def _is_lines(self) -> bool:
            return "ndjson" in self.headers.get("content-type", "")

        def _answer(self, body: Any) -> None:
            state.asked.append((self.path, body))
            status, kind, content = state.replies(self.path, body)
            self.send_response(status)
            self.send_header("content-type", kind)
            self.send_header("content-length", str(len(content)))
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    with _served(Handler) as url:
        state.url = url
        yield state


@contextmanager
def dripping() -> Iterator[str]:
    """Run a server that begins its answers and never ends them, byte by byte; gives its address."""
    over = Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("content-length", "1000000")
            self.end_headers()
            with suppress(OSError):
                while not over.wait(0.02):
                    self.wfile.write(b" ")

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    with _served(Handler) as url:
        try:
            yield url
        finally:
            over.set()


@contextmanager
def _served(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
