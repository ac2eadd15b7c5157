"""What every page of ours shares: asking the ledger without holding up the others, and saying what has happened."""

import asyncio
import json
import time
from collections.abc import Callable
from typing import Any, Final, ParamSpec, TypeVar
from urllib.parse import urlencode

from tornado.web import HTTPError

from lern.errors import SchemaMissing, Transient, Unreachable
from lern.flower import words
from lern.flower.access import Ours
from lern.ledger import Ledger
from lern.services import Services

P = ParamSpec("P")
T = TypeVar("T")

_SAID: Final = "lern_said"
_LONGEST: Final = 600
_AWAY: Final = 503
_WHO: Final = 401
_MOST_DIGITS: Final = 18


def now_ms() -> int:
    """Give the time, in milliseconds since 1970 UTC."""
    return time.time_ns() // 1_000_000


class Page(Ours):
    """A page of ours."""

    tab = ""
    """Which tab of the navigation is marked."""

    @property
    def parts(self) -> Services:
        """The parts of the system."""
        found: Services = self.application.parts
        return found

    @property
    def ledger(self) -> Ledger:
        """The truth about runs."""
        return self.parts.ledger

    async def ask(self, call: Callable[P, T], *arguments: P.args, **options: P.kwargs) -> T:
        """Call something that waits for a database or the broker, in a thread; a server that is away is a 503."""
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self.application.pool, lambda: call(*arguments, **options))
        except (Unreachable, Transient, SchemaMissing) as error:
            raise HTTPError(_AWAY, str(error)) from error

    def show(self, name: str, **values: Any) -> None:
        """Render a template of ours, with whatever was said on the page before."""
        self.render(name, words=words, now=now_ms(), active_tab=self.tab, said=self._said(), link=link, **values)

    def say(self, text: str, kind: str = "success") -> None:
        """Have the next page say something; `kind` as Bootstrap names its alerts."""
        self.set_secure_cookie(_SAID, json.dumps([kind, text[:_LONGEST]]), expires_days=None)

    def _said(self) -> tuple[str, str] | None:
        raw = self.get_secure_cookie(_SAID, max_age_days=1)
        if not raw:
            return None
        # A page that brings itself up to date in the background must not take the message from the reader.
        if self.request.headers.get("X-Lern-Live") is None:
            self.clear_cookie(_SAID)
        kind, text = json.loads(raw)
        return kind, text

    def go(self, *name: str, **query: str) -> None:
        """Answer a form by leading to a page, so that reloading does not send the form again."""
        self.redirect(link(self.reverse_url(*name), **query), status=303)

    def write_error(self, status_code: int, **options: Any) -> None:
        """Say what went wrong on a page that leads back."""
        raised = options.get("exc_info", (None, None))[1]
        # Who is not let in is answered by Flower: the browser then asks for name and password.
        if isinstance(raised, HTTPError) and status_code != _WHO:
            if not hasattr(self, "_current_user"):
                self.current_user = None
            self.render("lern_error.html", words=words, message=raised.get_message() or self._reason, tab=self.tab)
            return
        super().write_error(status_code, **options)

    def decode_argument(self, value: bytes, name: str | None = None) -> str:
        """Refuse what no name and no id holds, and PostgreSQL takes in no question."""
        if b"\0" in value:
            raise HTTPError(400, f"{name or 'the address'}: holds a NUL character")
        return str(super().decode_argument(value, name))

    def one(self, name: str) -> str | None:
        """Give an argument of the query; None if it is empty or not there."""
        return self.get_query_argument(name, "") or None


def number(digits: str) -> int:
    """Read a row's number: of more digits than any number has that a database gives, one that is never given."""
    return int(digits) if len(digits) <= _MOST_DIGITS else 0


def link(place: str, **query: str | None) -> str:
    """Give a link with a query; what is None is left out."""
    given = {name: value for name, value in query.items() if value is not None}
    return f"{place}?{urlencode(given)}" if given else place
