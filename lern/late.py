"""Late rows: what was written to an account after it had been merged away, and the sweeps that bring it along.

An offline device sends what a learner did days ago under the account that is no more. A sweep is the same
merge once more, as a run of its own; merging a pair again adds only what is new.
"""

import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from lern import events
from lern.chunks.merge import Planner
from lern.errors import BadRow
from lern.events import NAMESPACE
from lern.ledger import Ledger, NewRun, Run
from lern.rules.merge import EnrolmentPolicy
from lern.settings import Settings
from lern.store.base import Store
from lern.store.tables import (
    ASSESSMENT_AGGREGATOR,
    CONTENT_CONSUMPTION,
    USER_ACTIVITY_AGG,
    USER_CONTENT_CONSUMPTION,
    USER_COURSES,
    USER_ENROLMENTS,
    Key,
    Row,
    Table,
)

WORKFLOW: Final = "sweep"

HOUR: Final = 3_600_000
DAY: Final = 24 * HOUR
DELAYS: Final = (HOUR, 4 * HOUR, DAY, 3 * DAY, 7 * DAY, 14 * DAY, 30 * DAY)
"""When to look after a merge (ms): often at first, when most devices come online, and ever less often."""


def delays(sweep_days: int) -> tuple[int, ...]:
    """Give the times after a merge (ms) at which it is looked at; the last one is the setting's."""
    last = sweep_days * DAY
    return tuple(dict.fromkeys([delay for delay in DELAYS if delay < last] + ([last] if last else [])))


def of(merge: Run, delay: int, steps: tuple[str, ...]) -> NewRun:
    """Give the sweep that is due `delay` ms after a merge has ended; asked twice it is the same run."""
    ended_at = merge.ended_at or merge.created_at
    return NewRun(
        id=str(uuid.uuid5(NAMESPACE, f"sweep:{merge.id}:{merge.generation}:{delay}")),
        workflow=WORKFLOW,
        steps=steps,
        source=merge.source,
        target=merge.target,
        event=events.to_bytes({"sweeps": merge.id, "after": delay}),
        event_time=ended_at + delay,
        merge=True,
        sweeps=merge.id,
    )


@dataclass(frozen=True)
class Lookout:
    """Looks whether an account that was merged away has rows again, without touching them."""

    settings: Settings
    store: Store
    ledger: Ledger

    def sees(self, merge: Run) -> bool:
        """Whether a sweep would find anything to do. Holds nobody: what comes a moment later is the next look's.

        Rows that are to stay at the source (of no real enrolment, or all of them when they are kept) are no
        reason for a run. One that cannot be read is: the run says which, and the look goes on to other accounts.
        """
        planner = Planner(
            self.store,
            self.ledger,
            merge.source,
            self.ledger.final_account(merge.target),
            EnrolmentPolicy(self.settings.merge_enrolments),
            keep=self.settings.merge_source_rows == "keep",
        )
        try:
            return any(
                planner.plan(table, rows, planner.look(table, rows)).chunk.entries
                for table, where in self._slices(merge.source)
                for rows in self._pages(table, where)
            )
        except BadRow:
            return True

    def _slices(self, source: str) -> Iterator[tuple[Table, Key]]:
        """Give where rows of an account may be: first what a device writes to, at last what needs the journal."""
        legacy = "legacy" in self.settings.merge_tables
        yield USER_CONTENT_CONSUMPTION, (source,)
        yield USER_ENROLMENTS, (source,)
        if legacy:
            yield CONTENT_CONSUMPTION, (source,)
        for course, batch in self._places(source):
            yield ASSESSMENT_AGGREGATOR, (source, course, batch)
            yield USER_ACTIVITY_AGG, ("Course", course, source)
            if legacy:
                yield USER_COURSES, (batch, source)

    def _places(self, source: str) -> Iterator[tuple[str, str]]:
        """Give the courses and batches of everything that was ever merged away from an account."""
        places: dict[tuple[str, str], None] = {}
        for scope in self.ledger.scope_of_source(source):
            places.update(dict.fromkeys((course, batch) for course, batches in scope.items() for batch in batches))
        return iter(places)

    def _pages(self, table: Table, where: Key) -> Iterator[list[Row]]:
        after: Key | None = None
        while True:
            rows = list(self.store.rows(table, where, after, self.settings.chunk_rows))
            if rows:
                yield rows
            if len(rows) < self.settings.chunk_rows:
                return
            after = table.order_of(rows[-1])
