"""The list of runs."""

from typing import Final

from tornado.web import HTTPError, authenticated

from lern.flower.chosen import BadChoice, Chosen, cursor, written
from lern.flower.page import Page
from lern.ledger import Ledger, RunPage
from lern.ledger.paging import Cursor

PAGE: Final = 50
STATES: Final = ("queued", "running", "waiting", "failed", "succeeded", "undone")
ACTS: Final = {"failed": "retry", "waiting": "hurry"}


class RunsPage(Page):
    """Runs, the newest first, chosen by state, reason, workflow, user, time and text."""

    tab = "runs"

    @authenticated
    async def get(self) -> None:
        """Show a page."""
        chosen = self.chosen()
        after = self.after()
        page = await self.ask(self.ledger.page, chosen.filter, limit=PAGE, after=after)
        self.show(
            "lern_runs.html",
            page=page,
            chosen=chosen,
            counts=await self.ask(self.ledger.live_counts),
            workflows=await self.ask(self.ledger.workflows),
            states=STATES,
            act=ACTS.get(chosen.get("state")) if self.may_act else None,
            following=written(page.following),
            first=after is None,
            since=await self.ask(_waiting_since, self.ledger, page),
        )

    def chosen(self) -> Chosen:
        """Read the query. A query that cannot be is a 400."""
        chosen = Chosen.of({name: self.one(name) for name in self.request.query_arguments})
        try:
            _ = chosen.filter
        except BadChoice as bad:
            raise HTTPError(400, str(bad)) from bad
        return chosen

    def after(self) -> Cursor | None:
        """Read where the page begins."""
        try:
            return cursor(self.one("after"))
        except BadChoice as bad:
            raise HTTPError(400, str(bad)) from bad


def _waiting_since(ledger: Ledger, page: RunPage) -> dict[str, int]:
    waiting = [run for run in page.runs if run.state == "waiting"]
    return ledger.waiting_since(waiting) if waiting else {}
