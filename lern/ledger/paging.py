"""Runs page by page, counted and grouped, at a cost that does not grow with the ledger.

A page reads one index from the newest run down, at most `window` entries of it. What that index cannot
decide (a text, a second condition) is looked for among those entries; if the page is not full then, it
says how far back was looked, and the next one goes on from there. Counts stop at a limit.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa

from lern.ledger.database import Database
from lern.ledger.records import Run, RunState
from lern.ledger.runs import run_of
from lern.ledger.schema import attempts, runs

Cursor = tuple[int, str]
"""created_at and id of the last run that was looked at."""

WINDOW: Final = 10_000
COUNTED: Final = 10_000
MOST_GROUPS: Final = 50
_SEARCHED: Final = ("id", "source", "target", "mid", "reason", "error")

_ID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{0,4}){0,3}(-[0-9a-f]{0,12})?|[0-9a-f]{4,8}")
_LOWEST: Final = "00000000-0000-0000-0000-000000000000"
_HIGHEST: Final = "ffffffff-ffff-ffff-ffff-ffffffffffff"

Conditions = Sequence[sa.ColumnElement[bool]]
Later = Sequence[Callable[[sa.FromClause], sa.ColumnElement[bool]]]
"""Conditions that are put to the rows that an index has found."""


@dataclass(frozen=True, slots=True)
class RunFilter:
    """Which runs; what is None does not restrict.

    `user`: the source or the target. `since` <= created_at < `until` (ms). `text` is found in id, source,
    target, mid, reason or error, whatever the case.
    """

    state: RunState | None = None
    reason: str | None = None
    workflow: str | None = None
    user: str | None = None
    since: int | None = None
    until: int | None = None
    text: str | None = None


@dataclass(frozen=True, slots=True)
class RunPage:
    """Runs, the newest first. `following`: where the next page begins, None after the last.

    `looked_back_to` (ms): the page is not full because only the runs down to this time were looked at.
    """

    runs: tuple[Run, ...]
    following: Cursor | None
    looked_back_to: int | None = None


@dataclass(frozen=True, slots=True)
class Counted:
    """A number of runs; `more`: there are more, counting has stopped there."""

    number: int
    more: bool = False


@dataclass(frozen=True, slots=True)
class RunGroup:
    """The runs of one state that have the same reason: the newest of them, and when the first was entered."""

    reason: str
    counted: Counted
    oldest_at: int
    latest: Run


class Paging:
    """The part of the ledger that shows many runs."""

    _database: Database

    def page(self, chosen: RunFilter, *, limit: int = 50, after: Cursor | None = None, window: int = WINDOW) -> RunPage:
        """Give a page of runs, beyond `after`. Costs at most about `window` runs, whatever is chosen."""
        driving, rest = _split(chosen)
        beyond = [*_times(chosen), *([] if after is None else [_older(after)])]
        with self._database.read() as connection:
            if not rest:
                found = _read(connection, [[*way, *beyond] for way in driving], limit + 1)
                more = len(found) > limit
                return RunPage(tuple(found[:limit]), _place(found[limit - 1]) if more else None)
            ways = [[*way, *beyond] for way in driving]
            ends = [end for way in ways if (end := _end_of_window(connection, way, window)) is not None]
            # The newer of the two: only what is not older than that has been looked at in both.
            end = max(ends, default=None)
            found = [run for run in _read(connection, ways, limit + 1, rest, window) if not end or _place(run) >= end]
            if len(found) > limit:
                return RunPage(tuple(found[:limit]), _place(found[limit - 1]))
            by_id = _by_id(chosen) if after is None else None
            known = [] if by_id is None else [run_of(row) for row in connection.execute(by_id.limit(limit))]
        shown = {run.id: run for run in [*found, *known]}
        newest = tuple(sorted(shown.values(), key=_place, reverse=True))[:limit]
        return RunPage(newest, end, None if end is None else end[0])

    def named(self, beginning: str, limit: int) -> list[Run]:
        """Give the runs whose id begins so, the newest first; none where it is not the beginning of an id."""
        by_id = _by_id(RunFilter(text=beginning))
        if by_id is None:
            return []
        with self._database.read() as connection:
            return [run_of(row) for row in connection.execute(_newest(by_id).limit(limit))]

    def count(self, chosen: RunFilter, *, limit: int = COUNTED, window: int = WINDOW) -> Counted:
        """Count runs, up to `limit`; where no index decides, among the newest `window` of those that one finds."""
        driving, rest = _split(chosen)
        ways = [[*way, *_times(chosen)] for way in driving]
        found = [_ids(way, rest, window, limit + 1) for way in ways]
        if (by_id := _by_id(chosen)) is not None:
            found.append(by_id.with_only_columns(runs.c.id))
        # Each as a table of its own: SQLite knows no limit within a union.
        counted = sa.union(*(sa.select(ids.subquery()) for ids in found)).subquery()
        with self._database.read() as connection:
            number = connection.scalar(sa.select(sa.func.count()).select_from(counted)) or 0
            cut = bool(rest) and any(_end_of_window(connection, way, window) is not None for way in ways)
        return Counted(min(number, limit), cut or number > limit)

    def live_counts(self, limit: int = COUNTED) -> dict[RunState, Counted]:
        """Count the runs of every state, each up to `limit`."""
        states: tuple[RunState, ...] = ("queued", "running", "waiting", "failed", "succeeded", "undone")
        return {state: self.count(RunFilter(state=state), limit=limit) for state in states}

    def groups(self, state: RunState, limit: int = COUNTED) -> list[RunGroup]:
        """Group the runs of a state by their reason, the largest group first; the first `MOST_GROUPS` reasons."""
        with self._database.read() as connection:
            reasons = _different(connection, runs.c.reason, runs.c.state == state)
        made = [self._group(state, reason, limit) for reason in reasons]
        return sorted(filter(None, made), key=lambda group: -group.counted.number)

    def _group(self, state: RunState, reason: str, limit: int) -> RunGroup | None:
        chosen = RunFilter(state=state, reason=reason)
        latest = self.page(chosen, limit=1).runs
        counted = self.count(chosen, limit=limit)
        oldest = sa.select(sa.func.min(runs.c.created_at)).where(runs.c.state == state, runs.c.reason == reason)
        with self._database.read() as connection:
            oldest_at = connection.scalar(oldest)
        # The last of them may have moved on between the questions.
        return RunGroup(reason, counted, oldest_at, latest[0]) if latest and oldest_at is not None else None

    def workflows(self) -> list[str]:
        """Give the workflows that there are runs of, by name; the first `MOST_GROUPS`."""
        with self._database.read() as connection:
            return _different(connection, runs.c.workflow, sa.true())

    def waiting_since(self, waiting: Sequence[Run]) -> dict[str, int]:
        """Give the time (ms) since which each run has been waiting in its current step, without having got further."""
        found = sa.select(attempts.c.run_id, attempts.c.step, attempts.c.generation, sa.func.min(attempts.c.ended_at))
        found = found.where(attempts.c.run_id.in_([run.id for run in waiting]), attempts.c.outcome == "waiting")
        found = found.group_by(attempts.c.run_id, attempts.c.step, attempts.c.generation)
        with self._database.read() as connection:
            since = {(row[0], row[1], row[2]): row[3] for row in connection.execute(found)}
        return {run.id: since.get((run.id, run.step, run.generation), run.updated_at) for run in waiting}


def _split(chosen: RunFilter) -> tuple[list[Conditions], Later]:
    """Choose the index: give the ways to read it (two for a user), and the conditions that it cannot decide."""
    wanted = _exact(chosen)
    if chosen.user is not None:
        ways: list[Conditions] = [[runs.c.source == chosen.user], [runs.c.target == chosen.user]]
        decided: set[str] = set()
    else:
        decided = {"state", "reason"} if chosen.state is not None else {"workflow"}
        ways = [[runs.c[name] == value for name, value in wanted.items() if name in decided]]
    rest = [_equals(name, value) for name, value in wanted.items() if name not in decided]
    return ways, rest + ([] if chosen.text is None else [_contains(chosen.text)])


def _exact(chosen: RunFilter) -> dict[str, str]:
    exact = {"state": chosen.state, "reason": chosen.reason, "workflow": chosen.workflow}
    return {name: value for name, value in exact.items() if value is not None}


def _equals(name: str, value: str) -> Callable[[sa.FromClause], sa.ColumnElement[bool]]:
    return lambda rows: rows.c[name] == value


def _contains(text: str) -> Callable[[sa.FromClause], sa.ColumnElement[bool]]:
    return lambda rows: sa.or_(*(rows.c[name].icontains(text, autoescape=True) for name in _SEARCHED))


def _times(chosen: RunFilter) -> list[sa.ColumnElement[bool]]:
    since = [] if chosen.since is None else [runs.c.created_at >= chosen.since]
    return since + ([] if chosen.until is None else [runs.c.created_at < chosen.until])


def _older(place: Cursor) -> sa.ColumnElement[bool]:
    return sa.tuple_(runs.c.created_at, runs.c.id) < sa.tuple_(*place)


def _newest(query: "sa.Select[Any]") -> "sa.Select[Any]":
    return query.order_by(runs.c.created_at.desc(), runs.c.id.desc())


def _read(
    connection: sa.Connection, ways: Sequence[Conditions], limit: int, rest: Later = (), window: int = 0
) -> list[Run]:
    """Read the newest runs of each way, and give the newest of all."""
    found: dict[str, Run] = {}
    for way in ways:
        query = _newest(sa.select(runs).where(*way)).limit(limit)
        if rest:
            looked_at = _newest(sa.select(runs).where(*way)).limit(window).subquery()
            query = sa.select(looked_at).where(*(condition(looked_at) for condition in rest)).limit(limit)
            query = query.order_by(looked_at.c.created_at.desc(), looked_at.c.id.desc())
        found.update({run.id: run for run in map(run_of, connection.execute(query))})
    return sorted(found.values(), key=_place, reverse=True)[:limit]


def _ids(way: Conditions, rest: Later, window: int, limit: int) -> "sa.Select[Any]":
    if not rest:
        return sa.select(runs.c.id).where(*way).limit(limit)
    looked_at = _newest(sa.select(runs).where(*way)).limit(window).subquery()
    return sa.select(looked_at.c.id).where(*(condition(looked_at) for condition in rest)).limit(limit)


def _end_of_window(connection: sa.Connection, way: Conditions, window: int) -> Cursor | None:
    """Give the last run of a window, None if there are fewer runs than that."""
    query = _newest(sa.select(runs.c.created_at, runs.c.id).where(*way)).offset(window - 1).limit(1)
    row = connection.execute(query).first()
    return None if row is None else (row[0], row[1])


def _by_id(chosen: RunFilter) -> "sa.Select[Any] | None":
    """Ask for the chosen runs whose id begins with the text, if it looks like the beginning of one."""
    beginning = (chosen.text or "").strip().lower()
    if not _ID.fullmatch(beginning):
        return None
    # Both bounds are whole ids, so that a collation that skips hyphens orders them as we do.
    low, high = (beginning + bound[len(beginning) :] for bound in (_LOWEST, _HIGHEST))
    begins = sa.func.substr(runs.c.id, 1, len(beginning)) == beginning
    conditions = [_equals(name, value)(runs) for name, value in _exact(chosen).items()]
    if chosen.user is not None:
        conditions.append(sa.or_(runs.c.source == chosen.user, runs.c.target == chosen.user))
    return sa.select(runs).where(runs.c.id.between(low, high), begins, *conditions, *_times(chosen))


def _different(connection: sa.Connection, column: "sa.Column[Any]", condition: sa.ColumnElement[bool]) -> list[str]:
    """Give the different texts of a column, by one step through its index for each."""
    found: list[str] = []
    query = sa.select(sa.func.min(column)).where(condition)
    following = query.where(column > sa.bindparam("last", type_=sa.Text))
    text = connection.scalar(query.where(column.is_not(None)))
    while text is not None and len(found) < MOST_GROUPS:
        found.append(text)
        text = connection.scalar(following, {"last": text})
    return found


def _place(run: Run) -> Cursor:
    return run.created_at, run.id
