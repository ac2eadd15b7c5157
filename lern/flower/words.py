"""How pages say things: times, durations, numbers, places. Escaping is the templates' work, not done here."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Final

from lern import phrases
from lern.ledger import Counted, Run

SHORT: Final = 8

# Templates know this module alone.
span, many, counts = phrases.span, phrases.many, phrases.counts

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_SECOND: Final = 1000
_MINUTE: Final = 60 * _SECOND
_HOUR: Final = 60 * _MINUTE
_DAY: Final = 24 * _HOUR

BADGES: Final[Mapping[str, str]] = {
    "queued": "text-bg-secondary",
    "pending": "lern-badge-pending",
    "running": "task-state-started",
    "waiting": "text-bg-warning",
    "retry": "text-bg-warning",
    "lost": "text-bg-warning",
    "open": "text-bg-warning",
    "succeeded": "text-bg-success",
    "replayed": "text-bg-success",
    "done": "text-bg-success",
    "failed": "text-bg-danger",
    "undone": "lern-badge-undone",
}

EXPLAINED: Final[Mapping[str, str]] = {
    "BAD_ROW": "A stored row breaks the contract. Mend the row, then retry.",
    "CLOCK_AHEAD": "A cell was written by a clock that is too far ahead.",
    "UNREACHABLE": "A server does not answer. The runs go on by themselves when it does.",
    "OVERLOADED": "A server has too much to do, or no room. The runs go on by themselves when that is over.",
    "TRANSIENT": "Something failed that may go right the next time.",
    "UNSETTLED": "Rows were written faster than they could be settled.",
    "LOCK_LOST": "A step lost its hold on its users and stopped before its next write.",
    "BUSY": "Another step holds one of the users.",
    "TOO_LARGE": "An outgoing event is larger than its topic takes.",
    "REFUSED": "What was asked for cannot be done as things stand.",
    "WORKER_LOST": "Workers died in this step again and again.",
    "ALREADY_MERGED": "The account was merged into another one before.",
    "MERGE_CIRCLE": "The merge would lead an account back to itself.",
    "MISSING_FIELD": "Something that the workflow needs is not in the event.",
    "UNKNOWN_ACTION": "No workflow is started by this action.",
    "UNKNOWN_TOPIC": "No workflow is started by this topic.",
}


def moment(ms: int | None) -> str:
    """Give a time in UTC to the second; empty for None."""
    if ms is None:
        return ""
    try:
        return f"{_EPOCH + timedelta(milliseconds=ms):%Y-%m-%d %H:%M:%S}"
    except (OverflowError, ValueError):
        return f"{ms} ms"


def iso(ms: int | None) -> str:
    """Give a time as `<time datetime>` takes it; empty for None and for what is no time."""
    text = moment(ms)
    return "" if not text or text.endswith("ms") else text.replace(" ", "T") + "Z"


def ago(ms: int | None, now: int) -> str:
    """Give a time seen from now, roughly: `4 min ago`, `in 10 s`; empty for None."""
    if ms is None:
        return ""
    distance = abs(now - ms)
    for unit, name in ((_DAY, "d"), (_HOUR, "h"), (_MINUTE, "min"), (_SECOND, "s")):
        if distance >= unit:
            text = f"{distance // unit} {name}"
            return f"{text} ago" if ms <= now else f"in {text}"
    return "just now"


def counted(found: Counted) -> str:
    """Give a number that may have stopped at its limit: `12`, `10,000+`."""
    return f"{found.number:,}{'+' if found.more else ''}"


def visible(value: object) -> str:
    """Make characters visible that would steer a reader's eye, as those that turn the direction of writing."""
    text = "" if value is None else str(value)
    return "".join(c if c in "\n\t" or c.isprintable() else f"\\u{ord(c):04x}" for c in text)


def short(run_id: str) -> str:
    """Give as much of a run's id as people need."""
    return visible(run_id[:SHORT])


def badge(state: str) -> str:
    """Give the class of a state's badge."""
    return BADGES.get(state, "text-bg-secondary")


def explained(reason: str | None) -> str:
    """Say what a reason means; empty where that is not known."""
    return EXPLAINED.get(reason or "", "")


def why(run: Run) -> str:
    """Say why a run is not done, or what it left to look at; empty for one that ended well."""
    if run.state == "succeeded":
        return many(len(run.warnings), "warning") if run.warnings else ""
    return ": ".join(filter(None, (run.reason, run.error)))


def took(run: Run) -> str:
    """Give how long a run took; empty while it is not over."""
    return span(None if run.ended_at is None else run.ended_at - run.created_at)


def pretty(value: bytes) -> str:
    """Give an event's bytes indented if they are JSON, as they are otherwise."""
    text = value.decode("utf-8", "backslashreplace")
    try:
        return visible(json.dumps(json.loads(text), indent=2, ensure_ascii=False))
    except (ValueError, RecursionError):
        return visible(text)


def task_id(run_id: str, generation: int, step: str) -> str:
    """Give the id under which Celery knows a step of a run."""
    return f"{run_id}.{generation}.{step}"
