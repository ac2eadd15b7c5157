"""Replay: a dead letter is taken in again by a worker, and marked with the run that it has become."""

from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from typing import Final

import structlog

from lern.actions import REFUSED_AGAIN
from lern.client import REPLAY
from lern.ledger import DeadLetter, NewRun
from lern.ledger.audit import Act
from lern.services import Services
from tasks.app import app, give_back_when_stopping, services
from tasks.step import now_ms
from workflows import Skipped
from workflows.intake import Message, insist, judge, patient, take_in

log = structlog.get_logger()

SECONDS: Final = 60


@app.task(name=REPLAY)
def replay(dead_id: int, who: str, corrected: str | None = None) -> None:
    """Take a dead letter in again, in somebody's name. Asked twice, it is one run. What is away is waited for."""
    give_back_when_stopping()
    value = None if corrected is None else corrected.encode("utf-8")
    insist(lambda: take_in_again(services(), dead_id, who, value), patient)


def take_in_again(parts: Services, dead_id: int, who: str, corrected: bytes | None = None) -> str | None:
    """Take an open dead letter in, or the event that somebody has made of it; gives the run's id, None if it is none.

    Marked after it was taken in: killed in between, it is taken in again, which is the same run. An event that is
    refused again stays open, with the reason of this time in its audit. A corrected event that is refused leaves no
    other trace: it has never come from anywhere.
    """
    letter = parts.ledger.dead_letter(dead_id)
    if letter is None or letter.state != "open":
        return None
    value = letter.value if corrected is None else corrected
    message = Message(letter.topic or None, letter.partition, letter.offset, letter.key, value)
    with _alone(parts, dead_id, value) as alone:
        run_id, refusal = _taken(parts, message, keep=corrected is None) if alone else (None, _ANOTHER)
        if run_id is None:
            log.info("a dead letter was refused again", dead=dead_id, who=who, reason=refusal)
            parts.ledger.note(Act(now_ms(), who, REFUSED_AGAIN, dead_id=dead_id, detail=refusal))
            return None
        _mark(parts, letter, who, run_id, corrected=corrected is not None)
    return run_id


_ANOTHER: Final = "somebody else is having another text of it taken in"


@contextmanager
def _alone(parts: Services, dead_id: int, value: bytes) -> Iterator[bool]:
    """Say whether nobody is taking in another text of a letter just now: two corrections would be two runs.

    The same text may be taken in twice at once, and is, when a message comes again after a kill: that is one run.
    """
    name, text = f"{{lern}}:replay:{dead_id}", sha256(value).hexdigest()
    first = bool(parts.broker.set(name, text, nx=True, ex=SECONDS))
    held: bytes | str | None = text if first else parts.broker.get(name)
    try:
        yield held in {text, text.encode()}
    finally:
        if first:
            parts.broker.delete(name)


def _taken(parts: Services, message: Message, *, keep: bool) -> tuple[str | None, str]:
    """Take an event in; gives the run's id, or why it is none. `keep`: what can be none is a dead letter once more."""
    judged = judge(message, parts.settings)
    if isinstance(judged, Skipped):
        return None, f"action {judged.action} is another job's"
    if not (keep or isinstance(judged, NewRun)):
        return None, _said(judged.field, judged.reason)
    taken = take_in(parts, [message])
    runs = [entered.run_id for entered in taken.entered if entered.refused is None]
    if runs:
        return runs[0], ""
    return None, _said(taken.letters[0].field, taken.letters[0].reason)


def _said(field: str | None, reason: str) -> str:
    return f"{field}: {reason}" if field else reason


def _mark(parts: Services, letter: DeadLetter, who: str, run_id: str, *, corrected: bool) -> None:
    """Note what has become of a letter, and who did it."""
    if corrected:
        detail = f"the event of dead letter {letter.id}"
        parts.ledger.note(Act(now_ms(), who, "correct", run_id=run_id, dead_id=letter.id, detail=detail))
    parts.ledger.replayed(letter.id, now_ms(), who, run_id)
