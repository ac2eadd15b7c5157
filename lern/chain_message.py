"""A chain's message, made by Celery once and filled in for every run.

Five signatures are cloned, frozen and serialised anew for each chain, which costs more than sending it. What they
come to differs from run to run in the run's id alone.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

# What stands in the place of the run's id. It has no character that JSON or Python's repr would write differently.
PLACE: Final = "id-of-the-run-to-be-filled-in"


@dataclass(frozen=True)
class ChainMessage:
    """The message of one chain of steps: `body` and `headers` in JSON, `options` as kombu's producer takes them."""

    body: str
    headers: str
    correlation_id: str
    options: dict[str, Any]

    def filled(self, run_id: str, more_headers: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        """Give the body and the publishing options for one run."""
        written = json.dumps(run_id)[1:-1]
        headers = {**json.loads(self.headers.replace(PLACE, written)), **more_headers}
        correlation_id = self.correlation_id.replace(PLACE, run_id)
        return self.body.replace(PLACE, written), {**self.options, "headers": headers, "correlation_id": correlation_id}


class Recorder:
    """What Celery takes for a producer: it keeps the one message that is published through it."""

    def __init__(self) -> None:
        """Nothing was published yet."""
        self.connection = self
        self._body: Any = None
        self._options: dict[str, Any] = {}

    def publish(self, body: Any, **options: Any) -> None:
        """Keep a message."""
        self._body, self._options = body, options

    @contextmanager
    def _reraise_as_library_errors(self) -> Iterator[None]:
        """Be a connection whose errors are its own, which is what Celery asks of it."""
        yield

    def message(self) -> ChainMessage:
        """Give what was published, ready to be filled in."""
        options = {name: value for name, value in self._options.items() if value is not None and name != "serializer"}
        headers, correlation_id = options.pop("headers"), options.pop("correlation_id")
        options |= {"content_type": "application/json", "content_encoding": "utf-8"}
        return ChainMessage(json.dumps(self._body), json.dumps(headers), correlation_id, options)
