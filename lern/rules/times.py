"""The times that older versions of Sunbird kept as text: `yyyy-MM-dd HH:mm:ss:SSSZ`."""

import re
from datetime import UTC, datetime, timedelta
from typing import Final

# Java's `Z` is an offset without a colon: 2022-02-21 05:54:43:853+0000.
_SHAPE: Final = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d:\d{3}[+-]\d{4}", re.ASCII)
_MILLISECONDS_AT: Final = 19
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND: Final = timedelta(milliseconds=1)


def instant(text: str | None) -> int | None:
    """Give the milliseconds since 1970 UTC of a text time; None if there is none or it cannot be parsed."""
    moment = _parsed(text) if text is not None else None
    return None if moment is None else (moment - _EPOCH) // _MILLISECOND


def later_text(mine: str, theirs: str) -> str:
    """Give the later of two text times; one that cannot be parsed loses; the target's if neither is later."""
    other = _parsed(theirs)
    if other is None:
        return mine
    own = _parsed(mine)
    return theirs if own is None or other > own else mine


def _parsed(text: str) -> datetime | None:
    if _SHAPE.fullmatch(text) is None:
        return None
    try:
        return datetime.fromisoformat(f"{text[:_MILLISECONDS_AT]}.{text[_MILLISECONDS_AT + 1 :]}")
    except ValueError:
        return None
