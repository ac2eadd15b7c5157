"""Calls to Sunbird's services: what their answers, and the lack of one, mean."""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import httpx

from lern.errors import LernError, Overloaded, Transient, Unreachable
from lern.urls import redacted, with_reason

_TIMEOUT: Final = httpx.Timeout(30.0, connect=5.0)
# A server that sends a byte now and then keeps to every other limit.
_WHOLE: Final = 60.0
_SERVER_ERROR: Final = 500
_TOO_MANY: Final = 429
# A proxy that does not reach the service behind it.
_AWAY: Final = frozenset({502, 503, 504})
# Sunbird's services may say in HTML that there is no such path, or that they have failed; never that all is well.
_PAGE: Final = "text/html"


@dataclass(frozen=True)
class Answer:
    """What a service said: the HTTP status, and Sunbird's envelope taken apart."""

    status: int
    result: Mapping[str, Any]
    error: str
    message: str


@dataclass(frozen=True)
class Service:
    """One of Sunbird's services. `name`: for people. Each call has a connection of its own: they are few."""

    name: str
    url: str

    def call(self, method: str, path: str, body: object = None) -> Answer:
        """Call and read the answer, whatever its status below 500.

        Raises `Unreachable` when nobody answers, or a proxy in the service's place, `Overloaded` when the service has
        too much to do, `Transient` for an answer that is none of Sunbird's and for a server's failure. Nothing is
        repeated here: the step is.
        """
        url = self.url.rstrip("/") + path
        try:
            response, content = self._received(method, url, body)
        except httpx.TransportError as error:
            raise Unreachable(self.name, with_reason(url, str(error) or type(error).__name__)) from error
        except httpx.RequestError as error:
            raise Transient(f"{self.name} answered what nobody can read ({with_reason(url, error)})") from error
        if response.status_code in _AWAY:
            raise Unreachable(self.name, with_reason(url, f"answered {response.status_code}"))
        if response.status_code == _TOO_MANY:
            raise Overloaded(self.name, with_reason(url, f"answered {response.status_code}"))
        if response.status_code >= _SERVER_ERROR:
            raise self._strange(response, f"answered {response.status_code}")
        return self._read(response, content)

    def _received(self, method: str, url: str, body: object) -> tuple[httpx.Response, bytes]:
        content = bytearray()
        end = time.monotonic() + _WHOLE
        with httpx.Client(timeout=_TIMEOUT) as client, client.stream(method, url, json=body) as response:
            for some in response.iter_bytes():
                content += some
                if time.monotonic() > end:
                    raise Unreachable(self.name, with_reason(url, f"no whole answer in {_WHOLE:g} s"))
        return response, bytes(content)

    def _read(self, response: httpx.Response, content: bytes) -> Answer:
        try:
            envelope = json.loads(content)
        except (ValueError, RecursionError):
            envelope = None
        if not isinstance(envelope, dict):
            kind = response.headers.get("content-type", "something").partition(";")[0].strip().lower()
            if kind == _PAGE and not response.is_error:
                problem = f"answered {response.status_code} with a page in HTML, which is none of its own"
                raise Unreachable(self.name, with_reason(str(response.url), problem))
            raise self._strange(response, f"answered {kind} where JSON was expected")
        result, params = envelope.get("result"), envelope.get("params")
        params = params if isinstance(params, dict) else {}
        return Answer(
            response.status_code,
            result if isinstance(result, dict) else {},
            str(params.get("err") or ""),
            str(params.get("errmsg") or ""),
        )

    def _strange(self, response: httpx.Response, problem: str) -> LernError:
        return Transient(f"{self.name} {problem} ({redacted(str(response.url))}, status {response.status_code})")
