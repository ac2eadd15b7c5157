"""The demo's second part: a teacher leaves, and the course batches go to another."""

from typing import Final

from rich.text import Text

from lern.cli import console
from lern.cli.stack import Stack
from lern.cli.waiting import Look, require_success, until_ended
from lern.client import Lern
from lern.services import Services
from lern.store.tables import COURSE_BATCH, Row

LEAVER: Final = "Mr Rao"
HEIR: Final = "Ms Sen"
BATCHES: Final[tuple[Row, ...]] = (
    {"courseid": "fractions", "batchid": "autumn", "name": "Fractions, autumn", "createdby": LEAVER, "status": 1},
    {
        "courseid": "water-cycle",
        "batchid": "spring",
        "name": "The water cycle, spring",
        "createdby": "Ms Das",
        "mentors": ["Ms Das", LEAVER],
        "status": 0,
    },
)


def handed_over(running: Stack) -> list[Text]:
    """Load two batches, one created and one mentored, transfer them, and tell each before and after."""
    parts = Services(running.settings)
    parts.store.insert(COURSE_BATCH, BATCHES)
    keys = [COURSE_BATCH.key_of(row) for row in BATCHES]
    before = parts.store.read(COURSE_BATCH, keys)
    with console.err().status("[dim]handing batches over …[/dim]"):
        run = Lern(settings=running.settings).transfer_ownership(LEAVER, HEIR, organisation_id=None)

        def tick(_: Look) -> None:
            running.check()

        require_success(until_ended(parts.ledger, [run.id], tick)[run.id])
    after = parts.store.read(COURSE_BATCH, keys)
    head = Text.assemble((f"{LEAVER} leaves. ", "bold"), f"The batches go to {HEIR}, in database and search.")
    return [head, *(_told(before[key], after[key]) for key in keys), Text()]


def _told(before: Row, after: Row) -> Text:
    column, word = (
        ("createdby", "created by") if before["createdby"] != after["createdby"] else ("mentors", "mentored by")
    )
    return Text.assemble(
        (f"  {before['name']}: ", "cyan"), f"{word} {_people(before[column])} → ", (_people(after[column]), "green")
    )


def _people(value: str | list[str]) -> str:
    return value if isinstance(value, str) else " and ".join(value)
