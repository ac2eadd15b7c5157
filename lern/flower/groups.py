"""Failed and waiting runs, grouped by their reason."""

from tornado.web import authenticated

from lern.flower.page import Page
from lern.ledger.records import RunState


class GroupsPage(Page):
    """The runs of one state, by reason."""

    state: RunState
    title: str
    explained: str
    act: str
    verb: str

    @authenticated
    async def get(self) -> None:
        """Show the groups."""
        groups = await self.ask(self.ledger.groups, self.state)
        since = await self.ask(self.ledger.waiting_since, [group.latest for group in groups])
        self.show("lern_groups.html", groups=groups, page=self, since=since)


class FailedPage(GroupsPage):
    """What failed, and waits for somebody to mend the cause and press Retry."""

    tab = "failed"
    state = "failed"
    title = "Failed runs"
    explained = "Mend the cause, then retry: a run goes on at the step that failed, and does nothing twice."
    act = "retry"
    verb = "Retry"


class WaitingPage(GroupsPage):
    """What waits for something, and goes on by itself."""

    tab = "waiting"
    state = "waiting"
    title = "Waiting runs"
    explained = "These go on by themselves when they are due. Try now does not wait for that."
    act = "hurry"
    verb = "Try now"
