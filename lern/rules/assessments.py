"""A learner's attempts at an assessment: assessment_aggregator.

The attempt id is part of the key, so attempts of both accounts stand side by side by themselves; the rule
is for the rare attempt that both accounts have.
"""

from typing import Final

from lern.rules.rule import Rules, Together, later
from lern.store.tables import Row


def _source_attempted_later(target: Row, source: Row) -> bool:
    mine, theirs = target.get("last_attempted_on"), source.get("last_attempted_on")
    return theirs is not None and (mine is None or theirs > mine)


ASSESSMENT_AGGREGATOR_RULES: Final = Rules(
    columns={"last_attempted_on": later},
    together=(
        Together(
            ("created_on", "updated_on", "total_score", "total_max_score", "grand_total", "question"),
            _source_attempted_later,
        ),
    ),
)
