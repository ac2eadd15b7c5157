"""Durations, numbers and long texts as people say them, on a terminal and on a page alike."""

from collections.abc import Mapping
from typing import Any, Final

_SECOND: Final = 1000
_MINUTE: Final = 60 * _SECOND
_HOURS_OF_A_DAY: Final = 24
_LONGEST: Final = 40


def span(ms: int | None) -> str:
    """Give a duration as people say it; empty for None."""
    if ms is None:
        return ""
    if ms < _SECOND:
        return f"{ms} ms"
    if ms < _MINUTE:
        return f"{ms / _SECOND:.1f} s"
    minutes, seconds = divmod(round(ms / _SECOND), 60)
    hours, minutes = divmod(minutes, 60)
    if hours >= _HOURS_OF_A_DAY:
        return f"{hours // _HOURS_OF_A_DAY} d {hours % _HOURS_OF_A_DAY} h"
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {seconds:02} s"


def many(number: int, one: str, more: str | None = None) -> str:
    """Give a number with its noun: 1 run, 2 runs."""
    return f"{number:,} {one if number == 1 else more or one + 's'}"


def counts(result: Mapping[str, Any] | None) -> str:
    """Give a step's row counts in words: `read 7 · copied 5 · deleted 7`. What is none is left out."""
    numbers = {name: value for name, value in (result or {}).items() if isinstance(value, int) and value}
    if result is not None and not numbers:
        return "nothing to do"
    return " · ".join(f"{name} {value:,}" for name, value in numbers.items())


def shortened(text: str) -> str:
    """Give as much of a value as is needed to recognise it."""
    return text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."
