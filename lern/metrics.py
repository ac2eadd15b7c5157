"""Every metric that Prometheus gets, by name, and the functions that move them. No other file names a metric.

Needs the `worker` extra. A worker's processes share their numbers through files when `PROMETHEUS_MULTIPROC_DIR` names a
directory: whoever starts the worker creates it, empty, and sets the variable before this module is imported.
"""

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Final, Literal

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram, generate_latest, multiprocess

from lern.forks import NO_FORKS

RunOutcome = Literal["succeeded", "failed", "undone"]
EventOutcome = Literal["run", "repeated", "skipped", "dead"]
UpkeepOutcome = Literal["swept", "pruned"]

# From a step with nothing to do to a user with 100,000 rows.
_STEP_SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
# From a free lock to stepping aside (LERN_LOCK_WAIT) and beyond.
_LOCK_SECONDS: Final = (0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

RUNS: Final = Counter("lern_runs", "Runs that ended, by outcome.", ["workflow", "outcome"])
STEPS: Final = Counter(
    "lern_steps",
    "Executions of steps: done, ended (nothing to do), aside (comes back), failed.",
    ["workflow", "step", "outcome"],
)
STEP_SECONDS: Final = Histogram(
    "lern_step_seconds",
    "Time of one execution of a step, waiting for its users included.",
    ["step"],
    buckets=_STEP_SECONDS,
)
RETRIES: Final = Counter(
    "lern_step_retries", "Steps put off: wait (uses up no attempt) or retry.", ["workflow", "step", "decision"]
)
LOCK_WAIT_SECONDS: Final = Histogram(
    "lern_lock_wait_seconds", "Time that a step waited in place for its users.", ["step"], buckets=_LOCK_SECONDS
)
ROWS: Final = Counter(
    "lern_rows",
    "Learner rows and course batches by what a step did: read, copied, merged, left, deleted, transferred ...",
    ["table", "outcome"],
)
EVENTS: Final = Counter("lern_events", "Events taken in, by what became of them.", ["topic", "outcome"])
DEAD_LETTERS: Final = Counter("lern_dead_letters", "Events that can never become a run, by reason.", ["topic", "code"])
SENT: Final = Counter("lern_events_sent", "Outgoing events whose delivery was confirmed.", ["topic"])
BRIDGE_LAG: Final = Gauge(
    "lern_bridge_lag_events",
    "Events of a partition that are not committed yet.",
    ["topic", "partition"],
    multiprocess_mode="livemostrecent",
)
# Looked up by the sweeper, in whichever process that is: the last one to know is right.
QUEUE_LENGTH: Final = Gauge(
    "lern_queue_length", "Step messages waiting in the queue.", ["queue"], multiprocess_mode="mostrecent"
)
OLDEST_QUEUED: Final = Gauge(
    "lern_oldest_queued_run_seconds",
    "Age of the oldest run that is still queued, 0 without any.",
    multiprocess_mode="mostrecent",
)
STUCK_LOCKS: Final = Counter("lern_stuck_locks", "Looks that found a user held by a step that no longer runs.")
UPKEEP: Final = Counter("lern_upkeep", "What upkeep did: swept, pruned.", ["outcome"])

# What is looked up when somebody asks, since no event says it.
_looks: Final[list[Callable[[], None]]] = []


def run_ended(workflow: str, outcome: RunOutcome) -> None:
    """Count a run that has reached its end."""
    RUNS.labels(workflow, outcome).inc()


def step_ended(workflow: str, step: str, outcome: str, seconds: float) -> None:
    """Count one execution of a step and its duration, from the message's arrival to the outcome."""
    STEPS.labels(workflow, step, outcome).inc()
    STEP_SECONDS.labels(step).observe(seconds)


def retried(workflow: str, step: str, decision: str) -> None:
    """Count a step that will be tried again, by what `lern.retry` decided."""
    RETRIES.labels(workflow, step, decision).inc()


def lock_waited(step: str, seconds: float) -> None:
    """Note how long a step waited for its users, whether it got them or stepped aside."""
    LOCK_WAIT_SECONDS.labels(step).observe(seconds)


@contextmanager
def lock_wait(step: str) -> Iterator[None]:
    """Measure a step's wait for its users."""
    began = time.monotonic()
    try:
        yield
    finally:
        lock_waited(step, time.monotonic() - began)


def rows_done(table: str, counts: Mapping[str, int]) -> None:
    """Count rows of a table by what was done: the counts of a step's result (read, copied, merged, left, deleted)."""
    for outcome, count in counts.items():
        ROWS.labels(table, outcome).inc(count)


def event_taken(topic: str, outcome: EventOutcome) -> None:
    """Count an event by what became of it."""
    EVENTS.labels(topic, outcome).inc()


def dead_letter(topic: str, code: str) -> None:
    """Count a dead letter by its reason's code."""
    DEAD_LETTERS.labels(topic, code).inc()


def event_sent(topic: str, count: int = 1) -> None:
    """Count outgoing events that the receiver has confirmed."""
    SENT.labels(topic).inc(count)


def bridge_lag(topic: str, partition: int, events: int) -> None:
    """Set how many events of a partition are still to come."""
    BRIDGE_LAG.labels(topic, str(partition)).set(events)


def bridge_lost(topic: str, partition: int) -> None:
    """Forget the lag of a partition that another bridge has now."""
    BRIDGE_LAG.remove(topic, str(partition))


def queue(name: str, length: float, oldest_seconds: float) -> None:
    """Set the queue's length and the age of the oldest queued run."""
    QUEUE_LENGTH.labels(name).set(length)
    OLDEST_QUEUED.set(oldest_seconds)


def stuck_lock() -> None:
    """Count a lock that was found stuck."""
    STUCK_LOCKS.inc()


def upkeep_done(outcome: UpkeepOutcome, count: int) -> None:
    """Count what upkeep did."""
    UPKEEP.labels(outcome).inc(count)


def look_first(look: Callable[[], None]) -> None:
    """Have this called before every exposition, to set what is to be set then. It must not raise."""
    _looks.append(look)


def exposition() -> bytes:
    """Give all metrics in Prometheus' text form, those of every process of the worker together."""
    with NO_FORKS:
        return _exposition()


def _exposition() -> bytes:
    for look in _looks:
        look()
    if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
        return generate_latest(REGISTRY)
    registry = CollectorRegistry()
    multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return generate_latest(registry)
