"""A learner with two accounts: `rows.jsonl` is what `lern rows load` reads, `events.jsonl` merges the accounts."""

from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Final

ROWS: Final[Traversable] = files(__name__) / "rows.jsonl"
EVENTS: Final[Traversable] = files(__name__) / "events.jsonl"
SOURCE: Final = "asha-old-school"
TARGET: Final = "asha-state"
