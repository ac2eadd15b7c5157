"""The steps of the merge of two accounts, in the order in which they run.

Each brings one kind of row from the source's account to the target's; the last computes progress again.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any, Final

from lern import metrics
from lern.chunks import merge, sync
from lern.lms_cache import forget_enrolment_list
from lern.rules.merge import EnrolmentPolicy
from lern.store.base import Look, Store
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
from tasks.ahead import ahead, behind
from tasks.app import step_task
from tasks.step import Result, Work

CONTENT: Final = "merge.content"
ENROLMENTS: Final = "merge.enrolments"
AGGREGATES: Final = "merge.aggregates"
ASSESSMENTS: Final = "merge.assessments"
SYNC: Final = "merge.batch_enrolment_sync"

# How often the source is read from the start while somebody keeps writing to it. What comes later is
# the sweep's.
PASSES: Final = 5
# Enrolments whose progress is computed together: all contents of their courses are held in memory, several times.
PAIRS_AT_ONCE: Final = 10
CONTENTS_AT_ONCE: Final = 1_000
# Attempts carry their questions, enrolments a state for each content: chunks of them are bounded more tightly.
ATTEMPTS_AT_ONCE: Final = 100
ENROLMENTS_AT_ONCE: Final = 25
# Slices that are read together, and how many rows of each at first: what is read is held in memory.
SLICES_AT_ONCE: Final = 32
ROWS_OF_EACH: Final = 20
# A warning names so many rows at most; the rest is a number.
NAMED_AT_MOST: Final = 5

_TABLES: Final = (USER_CONTENT_CONSUMPTION, USER_ENROLMENTS, USER_ACTIVITY_AGG, ASSESSMENT_AGGREGATOR)
_LEGACY_TABLES: Final = (CONTENT_CONSUMPTION, USER_COURSES)


@step_task(CONTENT)
def content(work: Work) -> Result:
    """Merge what the source has seen of every content."""
    # All that the steps go through: no account is left halfway because of what can be seen now.
    work.services.store.must_fit([*_TABLES, *(_LEGACY_TABLES if _legacy(work) else ())])
    slices = [_Slices(USER_CONTENT_CONSUMPTION, [(work.source,)])]
    if _legacy(work):
        slices.append(_Slices(CONTENT_CONSUMPTION, [(work.source,)]))
    return _merge(work, slices)


@step_task(ENROLMENTS)
def enrolments(work: Work) -> Result:
    """Merge the source's enrolments."""
    return _merge(work, _enrolments(work))


@step_task(AGGREGATES)
def aggregates(work: Work) -> Result:
    """Merge the aggregates of the scope's courses and of every unit above the merged contents."""
    activities = _activities(work)
    slices = [("Course", activity, work.source) for activity in sorted(activities)]
    return _merge(work, [_Slices(USER_ACTIVITY_AGG, slices)], activities)


@step_task(ASSESSMENTS)
def assessments(work: Work) -> Result:
    """Merge the attempts of the scope's courses and batches."""
    pairs = sorted({(course, batch) for course, batch, _ in _scope(work)})
    slices = [(work.source, course, batch) for course, batch in pairs]
    return _merge(work, [_Slices(ASSESSMENT_AGGREGATOR, slices, ATTEMPTS_AT_ONCE)])


@step_task(SYNC)
def batch_enrolment_sync(work: Work) -> Result:
    """Compute the progress of the target's enrolments in the scope again, and announce it."""
    services, settings = work.services, work.services.settings
    topics = sync.Topics(
        settings.topic("coursebatch_job_request"),
        settings.topic("issue_certificate_request"),
        settings.topic("telemetry_raw"),
    )
    run = work.run
    planner = sync.Planner(services.store, services.relations, topics, run.id, work.target, run.event_time)
    pairs = sorted(
        {
            (course, batch)
            for scope in services.ledger.scope_of_run(run.id)
            for course, batches in scope.items()
            for batch in batches
        }
    )
    enrolments, unknown = 0, set[str]()
    for start in range(0, len(pairs), PAIRS_AT_ONCE):
        planned = _synced(work, planner, pairs[start : start + PAIRS_AT_ONCE])
        enrolments += len(planned.chunk.items)
        unknown.update(planned.unknown)
    if unknown:
        work.warnings.append(f"progress not computed, relations are missing: {_named(sorted(unknown))}")
    result = {"enrolments": enrolments, "computed": 0, **_counted(work)}
    _forget_lists(work)
    return result


def _synced(work: Work, planner: sync.Planner, pairs: Sequence[tuple[str, str]]) -> sync.Synced:
    """Compute some enrolments again; once more where a learner has come to the end of a course meanwhile."""
    while True:
        planned = planner.plan(pairs)
        known = work.services.ledger.known_mids([event.mid for event in planned.events])
        outgoing = tuple(event for event in planned.events if event.mid not in known)
        if not planned.chunk.rows_to_change and not outgoing:
            return planned
        if not work.journal(sync.KIND, planned.chunk, outgoing=outgoing).again:
            return planned


def _enrolments(work: Work) -> Iterator["_Slices"]:
    yield _Slices(USER_ENROLMENTS, [(work.source,)], ENROLMENTS_AT_ONCE)
    if _legacy(work):
        # Asked for only now: which batches there are is known when the enrolments have been gone over.
        batches = sorted({batch for _, batch, _ in _scope(work)})
        yield _Slices(USER_COURSES, [(batch, work.source) for batch in batches], ENROLMENTS_AT_ONCE)


def _forget_lists(work: Work) -> None:
    """Make lms-service read the enrolments of both accounts afresh."""
    client = work.services.lms_cache
    if client is not None:
        forget_enrolment_list(client, work.source)
        forget_enrolment_list(client, work.target)


@dataclass(frozen=True)
class _Slices:
    """The slices of one table that a step merges, and how many rows make a chunk (None: the setting)."""

    table: Table
    wheres: Sequence[Key]
    rows_at_once: int | None = None


def _merge(work: Work, slices: Iterable[_Slices], course_of: dict[str, str] | None = None) -> Result:
    """Merge slice by slice, and read each source once more until nothing is left to do."""
    settings = work.services.settings
    planner = merge.Planner(
        work.services.store,
        work.services.ledger,
        work.source,
        work.target,
        EnrolmentPolicy(settings.merge_enrolments),
        keep=settings.merge_source_rows == "keep",
    )
    left: dict[Key, str] = {}
    for part in slices:
        at_once = min(part.rows_at_once or settings.chunk_rows, settings.chunk_rows)
        left_now: dict[Key, str] = {}
        for again in range(PASSES):
            left_now = {}
            if not _pass(work, planner, part, at_once, left_now, course_of or {}, first=not again):
                break
        else:
            work.warnings.append(f"{part.table.name}: the source is still being written; a sweep takes the rest")
        left.update(left_now)
        metrics.rows_done(part.table.name, {"left": len(left_now)})
    for reason in sorted(set(left.values())):
        keys = [list(key) for key, why in left.items() if why == reason]
        work.warnings.append(f"left at the source, {reason}: {_named(keys)}")
    return {**_counted(work), "left": len(left)}


def _pass(
    work: Work,
    planner: merge.Planner,
    part: _Slices,
    at_once: int,
    left: dict[Key, str],
    course_of: dict[str, str],
    *,
    first: bool,
) -> bool:
    """Go over the source's rows once, from the start; tell whether there was anything to do.

    Rows that stay as and where they are belong to the scope, too: their attempts and aggregates do not. They are
    journalled for that, in the `first` pass alone.
    """
    found = has_more = False
    with behind() as while_we_go_on:
        for rows, look in _looked(planner, part, at_once):
            work.go_on()
            planned = planner.plan(part.table, rows, look)
            left.update(planned.left)
            # Where the store profits, a chunk is carried out while the next is planned: they have no row in common.
            has_more = planner.store.reads_ahead and (has_more or len(rows) == at_once)
            if planned.chunk.entries or first:
                found = found or bool(planned.chunk.entries)
                saved = work.plan(merge.KIND, planned.chunk, merge.scope_of(part.table, rows, course_of))
                carry_out = partial(work.carry_out, saved, planned.chunk)
                while_we_go_on(carry_out) if has_more else carry_out()
    return found


def _looked(planner: merge.Planner, part: _Slices, at_once: int) -> Iterator[tuple[list[Row], Look]]:
    """Read the source's rows, in bunches of at most `at_once`, and their targets.

    Where the store profits, the next bunch is read while the one in hand is being merged. No row is in two of them,
    so that it makes no difference to what is found.
    """
    store, table = planner.store, part.table
    bunches = ((rows, planner.look(table, rows)) for rows in _bunches(store, table, part.wheres, at_once))
    first = next(bunches, None)
    if first is not None:
        yield first
        # Nearly every learner's rows are one bunch: a thread for nothing would cost them more than it gives.
        yield from ahead(bunches) if store.reads_ahead and len(first[0]) == at_once else bunches


def _bunches(store: Store, table: Table, wheres: Sequence[Key], limit: int) -> Iterator[list[Row]]:
    """Read slices in bunches of at most `limit` rows."""
    rows = _rows(store, table, wheres, limit)
    while bunch := list(islice(rows, limit)):
        yield bunch
        if len(bunch) < limit:
            return


def _rows(store: Store, table: Table, wheres: Sequence[Key], limit: int) -> Iterator[Row]:
    """Read slices one after the other, at most `limit` rows at a time; several at once as far as they are small."""
    for start in range(0, len(wheres), SLICES_AT_ONCE):
        some = wheres[start : start + SLICES_AT_ONCE]
        room = limit if len(some) == 1 else min(limit, ROWS_OF_EACH)
        for where, rows in zip(some, store.slices(table, some, room), strict=True):
            yield from rows
            while len(rows) == room:
                room = limit
                rows = store.rows(table, where, table.order_of(rows[-1]), room)  # noqa: PLW2901 - the next of them
                yield from rows
            room = limit if len(some) == 1 else min(limit, ROWS_OF_EACH)


def _scope(work: Work) -> Iterator[tuple[str, str, list[str]]]:
    """Give (course, batch, contents) of everything ever merged away from the source's account.

    Of every run, not just this one: what a sweep finds late belongs to courses that were merged before.
    """
    for scope in work.services.ledger.scope_of_source(work.source):
        for course, batches in scope.items():
            for batch, contents in batches.items():
                yield course, batch, contents


def _activities(work: Work) -> dict[str, str]:
    """Give the activities to merge, courses and units, each with its course; warn where units are unknown."""
    result: dict[str, str] = {}
    unknown: set[str] = set()
    for contents in _contents(work):
        result.update(zip(contents, contents, strict=True))
        for course, above in work.services.relations.above(contents).items():
            if not above.known:
                unknown.add(course)
            for unit in above.collections:
                result.setdefault(unit, course)
    if unknown:
        work.warnings.append(f"units not merged, relations are missing: {_named(sorted(unknown))}")
    return result


def _contents(work: Work) -> Iterator[dict[str, list[str]]]:
    """Give the scope's contents by course, so many at a time that asking about them is one round trip or two."""
    contents: dict[str, list[str]] = {}
    room = CONTENTS_AT_ONCE
    for course, _, some in _scope(work):
        contents.setdefault(course, []).extend(some)
        room -= len(some)
        if room <= 0:
            yield contents
            contents, room = {}, CONTENTS_AT_ONCE
    if contents:
        yield contents


def _legacy(work: Work) -> bool:
    return "legacy" in work.services.settings.merge_tables


def _counted(work: Work) -> dict[str, Any]:
    """Add up what the marked chunks of this step came to, whichever attempt carried them out."""
    counts, warnings = work.tally()
    work.warnings.extend(warnings)
    return counts


def _named(things: Sequence[Any]) -> str:
    more = len(things) - NAMED_AT_MOST
    return ", ".join(str(thing) for thing in things[:NAMED_AT_MOST]) + (f" and {more} more" if more > 0 else "")
