"""Dead letters: by reason, as a list, and one with its bytes."""

import asyncio
import json
from typing import Final

from tornado.web import HTTPError, authenticated

from lern import actions, events
from lern.errors import Refused
from lern.flower.page import Page, number
from lern.ledger import DeadLetter
from lern.ledger.records import DeadState

PAGE: Final = 50
PATIENCE: Final = 5.0
_PAUSE: Final = 0.1
_STATES: Final[dict[str, DeadState]] = {"open": "open", "replayed": "replayed"}


class DeadPage(Page):
    """Dead letters, those that came last first."""

    tab = "dead"

    @authenticated
    async def get(self) -> None:
        """Show a page."""
        state = _STATES.get(self.one("state") or "open", "open")
        code, text = self.one("code"), self.one("text")
        letters = await self.ask(
            self.ledger.dead_letters, state=state, code=code, text=text, limit=PAGE + 1, after=self._after()
        )
        last = letters[PAGE - 1] if len(letters) > PAGE else None
        self.show(
            "lern_dead.html",
            groups=await self.ask(self.ledger.dead_groups, "open"),
            letters=letters[:PAGE],
            following=None if last is None else f"{last.last_at}.{last.id}",
            state=state,
            code=code,
            text=text,
            may_act=self.may_act,
        )

    def _after(self) -> tuple[int, int] | None:
        at, _, dead_id = (self.one("after") or "").partition(".")
        return (int(at[:15]), number(dead_id)) if at.isdecimal() and dead_id.isdecimal() else None


class LetterPage(Page):
    """One dead letter."""

    tab = "dead"

    @authenticated
    async def get(self, dead_id: str) -> None:
        """Show it."""
        given = self.one("replayed") or ""
        await self._show(number(dead_id), since=number(given) if given.isascii() and given.isdigit() else None)

    @authenticated
    async def post(self, dead_id: str) -> None:
        """Replay it as it came, or corrected; wait a little for what becomes of it."""
        text = self.get_body_argument("event", None)
        try:
            corrected = None if text is None else text.replace("\r\n", "\n").encode("utf-8", "surrogatepass")
            asked = await self.ask(actions.replay, self.parts, number(dead_id), self.who, corrected)
            letter = await became(self, asked)
        except Refused as refused:
            # With the text that was typed, which is nowhere else.
            self.set_status(409)
            await self._show(number(dead_id), refusal=str(refused), text=text)
            return
        if letter is None:
            self.say("Sent to the workers: this page shows what becomes of it.")
        self.go("letter", dead_id, replayed=str(asked.since))

    async def _show(
        self, dead_id: int, since: int | None = None, refusal: str | None = None, text: str | None = None
    ) -> None:
        letter = await self.ask(self.ledger.dead_letter, dead_id)
        if letter is None:
            raise HTTPError(404, f"There is no dead letter {dead_id}")
        audit = await self.ask(self.ledger.audit_of_dead, letter.id)
        entry = None if since is None else actions.refused_since(audit, since)
        self.show(
            "lern_letter.html",
            letter=letter,
            audit=audit,
            may_act=self.may_act,
            refusal=refusal or (entry and f"it was refused again: {entry.detail}"),
            waits=since is not None and entry is None and letter.state == "open",
            typed=text,
            event=editable(letter.value) if text is None else text,
        )


async def became(page: Page, asked: actions.Asked) -> DeadLetter | None:
    """Wait a little for what becomes of a replayed letter; None if no worker has come to it. Raises `Refused`."""
    for _ in range(round(PATIENCE / _PAUSE)):
        letter = await page.ask(actions.became, page.parts, asked)
        if letter is not None:
            return letter
        await asyncio.sleep(_PAUSE)
    return None


def editable(value: bytes) -> str:
    """Give an event's bytes as a text to be corrected: indented where that changes nothing of what it says."""
    try:
        return json.dumps(events.parse(value), indent=2, ensure_ascii=False, allow_nan=False)
    except (events.BadEvent, ValueError):
        return value.decode("utf-8", "replace")
