"""What a check finds, and how long it waits for a server."""

from dataclasses import dataclass
from typing import Final, Literal

from lern.phrases import span

Level = Literal["ok", "warning", "problem"]

# Seconds.
PATIENCE: Final = 5.0
CLOCK_WARNING: Final = 1.0


@dataclass(frozen=True)
class Finding:
    """What a check found. `advice`: what to do, empty where all is well."""

    name: str
    level: Level
    detail: str
    advice: str = ""


def clock(server: str, ahead: float, allowed: float) -> Finding:
    """Judge how far a server's clock is ahead of ours (seconds; behind: negative)."""
    by = span(round(abs(ahead) * 1000))
    detail = f"the clock here is {by} {'behind' if ahead > 0 else 'ahead of'} that of {server}"
    if abs(ahead) < CLOCK_WARNING:
        return Finding("clock", "ok", detail)
    level: Level = "problem" if abs(ahead) > allowed else "warning"
    return Finding("clock", level, detail, "synchronise the clocks of all hosts (NTP): write times are compared")
