"""What tests of the ledger begin with: runs entered, steps begun."""

from dataclasses import replace
from typing import Any, Final

from lern.ledger import Chunk, Entered, Ledger, NewChunk, NewRun, Started
from lern.ledger.records import Contributions
from lern.outgoing import OutgoingEvent

STEPS: Final = ("first", "second", "third")
NOW: Final = 1_700_000_000_000
MAX_LOST: Final = 3

TOKEN: Final = "token"
"""Of whoever holds a step, where the test has only one."""


def merge(source: str, target: str, run_id: str | None = None, **changes: Any) -> NewRun:
    """Give a merge to be entered. Its id says who is merged, unless the test needs several of a pair."""
    run_id = run_id or f"{source}-{target}"
    run = NewRun(run_id, "merge", STEPS, source, target, f"event of {run_id}".encode(), NOW - 5, merge=True)
    return replace(run, **changes)


def undo(original: str, source: str, target: str) -> NewRun:
    """Give the undo of a run, to be entered."""
    return NewRun(f"undo-{original}", "undo", ("back",), source, target, b"{}", NOW, undo_of=original)


def enter(ledger: Ledger, *runs: NewRun, now: int = NOW) -> list[Entered]:
    """Enter runs."""
    return ledger.enter(runs, [], now)


def begin(ledger: Ledger, run_id: str, step: str = "first", token: str = TOKEN, now: int = NOW) -> Started:
    """Begin a step that can be begun."""
    run = ledger.peek(run_id)
    assert run is not None
    begun = ledger.begin(run_id, step, run.generation, token, now, MAX_LOST)
    assert isinstance(begun, Started)
    return begun


def do(ledger: Ledger, run_id: str, *steps: str) -> None:
    """Carry steps out."""
    for step in steps:
        generation = begin(ledger, run_id, step, f"token of {step}").run.generation
        ledger.finish(run_id, step, generation, f"token of {step}", {}, NOW)


def fail(ledger: Ledger, run_id: str, step: str = "first", event: OutgoingEvent | None = None) -> None:
    """Let a step fail."""
    generation = begin(ledger, run_id, step).run.generation
    assert ledger.fail(run_id, step, generation, "token", NOW, "BAD_ROW", "a row is broken", event)


def chunk(run_id: str, number: int = 1, **changes: Any) -> NewChunk:
    """Give a chunk to be journalled."""
    new = NewChunk(run_id, "first", number, "merge", "A", "B", {"rows": number})
    return replace(new, **changes)


def journal(ledger: Ledger, new: NewChunk, *events: OutgoingEvent) -> Chunk:
    """Journal a chunk."""
    return ledger.journal(new, events, NOW)


def carry_out(ledger: Ledger, new: NewChunk, *events: OutgoingEvent) -> Chunk:
    """Journal a chunk and mark it: its events are to be sent."""
    saved = journal(ledger, new, *events)
    mark(ledger, saved.id)
    return saved


def mark(ledger: Ledger, chunk_id: int, given: Contributions | None = None) -> None:
    """Mark a chunk as carried out."""
    ledger.mark(chunk_id, {"read": 1}, given or {}, NOW)


def event(mid: str) -> OutgoingEvent:
    """Give an event to be sent."""
    return OutgoingEvent(mid, "topic", b"key", b"value of " + mid.encode())
