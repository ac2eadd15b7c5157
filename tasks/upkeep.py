"""Upkeep, sent by beat: late rows are swept, what is old is let go of, stuck locks are reported.

What touches learner rows is a run of its own, with steps like any other. Everything here may be sent twice,
be done by two workers at once, or be killed anywhere: it is done again and comes to the same.
"""

import time
from collections.abc import Callable
from typing import Any, Final

import structlog
from redis import RedisError

from lern import late, metrics
from lern.errors import Stopping, Transient, Unreachable
from lern.ledger import Run
from lern.services import Services
from lern.stopping import STOP
from lern.stuck import LockWatch
from tasks import merge
from tasks.app import app, services
from tasks.step import now_ms

log = structlog.get_logger()

SWEEP: Final = "upkeep.sweep"
PRUNE: Final = "upkeep.prune"
LOCKS: Final = "upkeep.locks"

# Redis key: up to which ended merge (time and run) the sweep of this delay has looked.
SWEPT: Final = "{lern}:swept:%d"
AT_ONCE: Final = 200
# Merges are looked for this far (ms) back where Redis does not say how far we have come.
LOOK_BACK: Final = late.DAY
# How long (s) one call may let go of what is old: workers are there for merges.
PRUNE_SECONDS: Final = 60.0
STEPS: Final = (merge.CONTENT, merge.ENROLMENTS, merge.AGGREGATES, merge.ASSESSMENTS, merge.SYNC)


def upkeep_task(name: str) -> Callable[[Callable[[Services], dict[str, int]]], Callable[[Services], dict[str, int]]]:
    """Make a piece of upkeep a Celery task; it stays callable without Celery."""

    def register(body: Callable[[Services], dict[str, int]]) -> Callable[[Services], dict[str, int]]:
        def run() -> None:
            try:
                done = body(services())
            except (Stopping, Unreachable, Transient, RedisError) as error:
                # Beat sends the next one soon.
                log.warning("upkeep is put off", task=name, reason=str(error))
                return
            log.info("upkeep done", task=name, **done)

        app.task(run, name=name)
        return body

    return register


@upkeep_task(SWEEP)
def sweep(parts: Services) -> dict[str, int]:
    """Enter a sweep for every account whose time has come and that has rows again; give how many were looked at."""
    lookout = late.Lookout(parts.settings, parts.store, parts.ledger)
    looked = entered = 0
    for delay in late.delays(parts.settings.sweep_days):
        while merges := _due(parts, delay):
            # The sweeps of a merge are merges to the ledger, and no reason to sweep.
            own = [run for run in merges if run.workflow != late.WORKFLOW]
            entered += sum(_enter(parts, run, delay) for run in own if _has_rows(lookout, run))
            looked += len(own)
            parts.broker.set(SWEPT % delay, f"{merges[-1].ended_at} {merges[-1].id}")
    metrics.upkeep_done("swept", entered)
    return {"looked": looked, "entered": entered}


def _due(parts: Services, delay: int) -> list[Run]:
    """Give the next merges that ended `delay` ms ago or longer, beyond those that were looked at."""
    until = now_ms() - delay
    place: Any = parts.broker.get(SWEPT % delay)
    ended_at, _, run_id = (place or b"").decode().partition(" ")
    after = (int(ended_at), run_id) if ended_at else (until - LOOK_BACK, "")
    return parts.ledger.merged(after, until, AT_ONCE)


def _has_rows(lookout: late.Lookout, run: Run) -> bool:
    STOP.check()
    return lookout.sees(run)


def _enter(parts: Services, run: Run, delay: int) -> int:
    """Enter a sweep and send it; give 1 if nobody had."""
    [entered] = parts.ledger.enter([late.of(run, delay, STEPS)], [], now_ms())
    if entered.refused is not None:
        log.info("no sweep", merge=run.id, reason=entered.refused.reason)
        return 0
    # One that was entered by somebody who died before it was sent is the sweeper's.
    if entered.new:
        parts.queue.send_chain(entered.run_id, entered.generation, STEPS)
    return int(entered.new)


@upkeep_task(PRUNE)
def prune(parts: Services) -> dict[str, int]:
    """Let go of runs and replayed dead letters beyond the retention, in small bunches; the rest is the next call's."""
    settings = parts.settings
    # A sweep needs to know where the rows of its merge were, so runs outlive the sweeps.
    days = max(settings.retention_days, settings.sweep_days + 1)
    before = now_ms() - days * late.DAY
    runs = letters = 0
    until = time.monotonic() + PRUNE_SECONDS
    while time.monotonic() < until:
        STOP.check()
        gone = parts.ledger.prune(before)
        if not gone.runs and not gone.letters:
            break
        runs, letters = runs + gone.runs, letters + gone.letters
        metrics.upkeep_done("pruned", gone.runs + gone.letters)
    return {"runs": runs, "letters": letters}


@upkeep_task(LOCKS)
def stuck_locks(parts: Services) -> dict[str, int]:
    """Report users who are held by steps that do not run."""
    patience = round(parts.settings.lock_ttl * 3000)
    found = LockWatch(parts.locks, parts.ledger, parts.broker, patience).look(now_ms())
    for lock in found:
        metrics.stuck_lock()
        log.warning(
            "a user is held by a step that does not run",
            user=lock.user,
            holder=lock.holder,
            token=lock.token,
            since=lock.since,
        )
    return {"stuck": len(found)}
