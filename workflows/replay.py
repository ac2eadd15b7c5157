"""Replay: a dead letter is taken in again by a worker, and marked with the run that it has become."""

import structlog

from lern.client import REPLAY
from lern.services import Services
from tasks.app import app, services
from tasks.step import now_ms
from workflows.intake import Message, take_in

log = structlog.get_logger()


@app.task(name=REPLAY)
def replay(dead_id: int, who: str) -> None:
    """Take a dead letter in again, in somebody's name. Asked twice, it is one run."""
    take_in_again(services(), dead_id, who)


def take_in_again(parts: Services, dead_id: int, who: str) -> str | None:
    """Take an open dead letter in; gives the run's id, None if it became none.

    Marked after it was taken in: killed in between, it is taken in again, which is the same run. An event that is
    refused again stays open, with the reason of this time.
    """
    letter = parts.ledger.dead_letter(dead_id)
    if letter is None or letter.state != "open":
        return None
    message = Message(letter.topic or None, letter.partition, letter.offset, letter.key, letter.value)
    taken = take_in(parts, [message])
    runs = [entered.run_id for entered in taken.entered if entered.refused is None]
    if not runs:
        log.info("a dead letter was refused again", dead=dead_id, who=who)
        return None
    parts.ledger.replayed(dead_id, now_ms(), who, runs[0])
    return runs[0]
