"""Dead letters: by reason, as a list, and one with its bytes."""

from typing import Final

from tornado.web import HTTPError, authenticated

from lern import actions
from lern.errors import Refused
from lern.flower.page import Page
from lern.ledger.records import DeadState

PAGE: Final = 50
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
        return (int(at[:15]), int(dead_id[:18])) if at.isdecimal() and dead_id.isdecimal() else None


class LetterPage(Page):
    """One dead letter."""

    tab = "dead"

    @authenticated
    async def get(self, dead_id: str) -> None:
        """Show it."""
        letter = await self.ask(self.ledger.dead_letter, int(dead_id[:18]))
        if letter is None:
            raise HTTPError(404, f"There is no dead letter {dead_id}")
        audit = await self.ask(self.ledger.audit_of_dead, letter.id)
        sent_at = int(self.one("replayed") or "0") if (self.one("replayed") or "0").isdecimal() else 0
        self.show("lern_letter.html", letter=letter, audit=audit, may_act=self.may_act, sent_at=sent_at)

    @authenticated
    async def post(self, dead_id: str) -> None:
        """Replay it."""
        try:
            letter = await self.ask(actions.replay, self.parts, int(dead_id[:18]), self.who)
        except Refused as refused:
            self.say(str(refused), "warning")
            self.go("letter", dead_id)
            return
        self.say("Sent to the workers: this page shows what becomes of it.")
        self.go("letter", dead_id, replayed=str(letter.last_at))
