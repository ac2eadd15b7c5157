"""Which runs a page, a script or a form means: a filter, read from a query and written to one."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Self, get_args

from lern.ledger import RunFilter
from lern.ledger.paging import Cursor
from lern.ledger.records import RunState

NAMES: Final = ("state", "reason", "workflow", "user", "since", "until", "text")
_STATES: Final[dict[str, RunState]] = {state: state for state in get_args(RunState)}


class BadChoice(ValueError):
    """A query asks for what cannot be."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """A filter as it stands in a query: texts by name."""

    given: Mapping[str, str]

    @classmethod
    def of(cls, given: Mapping[str, str | None]) -> Self:
        """Read a query; blank values do not restrict."""
        return cls({name: value.strip() for name in NAMES if (value := given.get(name)) and value.strip()})

    @property
    def filter(self) -> RunFilter:
        """The filter for the ledger. Raises `BadChoice`."""
        state = self.given.get("state")
        if state is not None and state not in _STATES:
            raise BadChoice(f"state {state!r}: one of {', '.join(_STATES)} was expected")
        return RunFilter(
            state=None if state is None else _STATES[state],
            reason=self.given.get("reason"),
            workflow=self.given.get("workflow"),
            user=self.given.get("user"),
            since=_ms(self.given.get("since")),
            until=_ms(self.given.get("until")),
            text=self.given.get("text"),
        )

    def but(self, **changes: str | None) -> dict[str, str]:
        """Give the query with some values changed, or left out (None)."""
        changed = {**self.given, **changes}
        return {name: value for name, value in changed.items() if value}

    def get(self, name: str) -> str:
        """Give a value, empty if it does not restrict."""
        return self.given.get(name, "")

    def __str__(self) -> str:
        """Say it in words: `state failed, reason BAD_ROW`."""
        return ", ".join(f"{name} {value}" for name, value in self.given.items())


def _ms(value: str | None) -> int | None:
    """Read a time: milliseconds, or ISO-8601, in UTC where it does not say."""
    if value is None:
        return None
    if value.isascii() and value.isdigit():
        return int(value[:15])
    try:
        time = datetime.fromisoformat(value)
    except ValueError:
        raise BadChoice(f"{value!r} is no time: 2024-05-01, 2024-05-01T12:00:00Z or milliseconds") from None
    return round((time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp() * 1000)


def written(cursor: Cursor | None) -> str | None:
    """Write the place where the next page begins."""
    return None if cursor is None else f"{cursor[0]}.{cursor[1]}"


def cursor(text: str | None) -> Cursor | None:
    """Read such a place. Raises `BadChoice`."""
    if text is None:
        return None
    at, dot, run_id = text.partition(".")
    if not (dot and at.isascii() and at.isdigit()):
        raise BadChoice(f"after {text!r} is no place in the list")
    return int(at[:15]), run_id
