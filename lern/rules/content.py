"""What a learner has done with a content: user_content_consumption, and content_consumption before it.

Both say the same things of a content. The older table has text times only, and a grade, a result and a
score; the newer one has the player's own progressdetails.
"""

from collections.abc import Mapping
from typing import Final

from lern.rules.rule import Combine, Rules, Together, higher, later, targets
from lern.rules.times import instant, later_text
from lern.store.tables import Row

_COUNTERS: Final = ("viewcount", "completedcount")

_SHARED: Final[Mapping[str, Combine]] = {
    "status": higher,
    "progress": higher,
    "datetime": later,
    "lastaccesstime": later_text,
    "lastcompletedtime": later_text,
    "lastupdatedtime": later_text,
}


def source_got_further(target: Row, source: Row) -> bool:
    """Say whether the source got further with a content: by status, then progress, then last access."""
    for column in ("status", "progress"):
        mine, theirs = target.get(column), source.get(column)
        if mine != theirs:
            return _beyond(mine, theirs)
    return _beyond(_last_access(target), _last_access(source))


def _last_access(row: Row) -> int | None:
    time: int | None = row.get("last_access_time")
    return instant(row.get("lastaccesstime")) if time is None else time


def _beyond(mine: int | None, theirs: int | None) -> bool:
    """Say whether theirs is strictly higher; a missing one is the lowest."""
    return theirs is not None and (mine is None or theirs > mine)


USER_CONTENT_CONSUMPTION_RULES: Final = Rules(
    columns={
        **_SHARED,
        "completionpercentage": higher,
        "last_access_time": later,
        "last_completed_time": later,
        "last_updated_time": later,
    },
    together=(Together(("progressdetails",), source_got_further),),
    counters=_COUNTERS,
)

CONTENT_CONSUMPTION_RULES: Final = Rules(
    columns={**_SHARED, "contentversion": targets},
    together=(Together(("grade", "result", "score"), source_got_further),),
    counters=_COUNTERS,
)
