"""Which event starts which chain of which steps."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Final

from lern import events
from lern.events import BadEvent, Json
from lern.phrases import shortened
from lern.settings import Settings, Topic
from tasks import merge, ownership


@dataclass(frozen=True)
class Starting:
    """What a workflow needs to begin: the users it locks, the event's time (ms) and message id."""

    source: str
    target: str
    time: int | None
    mid: str | None


@dataclass(frozen=True)
class Workflow:
    """One workflow: its name in the ledger, the topic that starts it (a setting's name), its actions and steps."""

    name: str
    topic: Topic
    actions: frozenset[str]
    steps: tuple[str, ...]
    read: Callable[[Json], Starting]


def _read_merge(event: Json) -> Starting:
    wanted = events.merge(event)
    return Starting(wanted.source, wanted.target, wanted.time, wanted.mid)


MERGE: Final = Workflow(
    name="merge",
    topic="user_account_merge",
    actions=frozenset({events.MERGE_ACTION}),
    steps=(merge.CONTENT, merge.ENROLMENTS, merge.AGGREGATES, merge.ASSESSMENTS, merge.SYNC),
    read=_read_merge,
)


def _read_ownership(event: Json) -> Starting:
    wanted = events.ownership(event)
    return Starting(wanted.source, wanted.target, wanted.time, wanted.mid)


OWNERSHIP: Final = Workflow(
    name="ownership",
    topic="user_ownership_transfer",
    actions=frozenset({events.OWNERSHIP_ACTION}),
    steps=(ownership.BATCHES, ownership.SEARCH),
    read=_read_ownership,
)

WORKFLOWS: Final[Mapping[str, Workflow]] = {workflow.name: workflow for workflow in (MERGE, OWNERSHIP)}


# Topics on which other jobs exchange events of their own: those are none of our business.
SHARED: Final[frozenset[Topic]] = frozenset({"coursebatch_job_request"})


@dataclass(frozen=True)
class Skipped:
    """An event of a shared topic that is meant for another job."""

    topic: str
    action: str


def topics(settings: Settings) -> list[str]:
    """Give the topics whose workflow exists, by their full names."""
    return sorted({settings.topic(workflow.topic) for workflow in WORKFLOWS.values()})


def workflow_for(event: Json, topic: str | None, settings: Settings) -> Workflow | Skipped:
    """Choose the workflow of an event: by its topic if that is known, else by its action.

    A topic that serves one workflow may leave the action out. Raises `BadEvent`.
    """
    return choose(event, topic, settings, WORKFLOWS, SHARED)


def choose(
    event: Json,
    topic: str | None,
    settings: Settings,
    workflows: Mapping[str, Workflow],
    shared: Collection[Topic],
) -> Workflow | Skipped:
    """Choose among these workflows; see `workflow_for`."""
    served = [w for w in workflows.values() if topic is None or settings.topic(w.topic) == topic]
    if topic is not None and not served:
        raise BadEvent("UNKNOWN_TOPIC", "", f"no workflow is started by topic {topic}")
    action = events.action(event)
    is_shared = topic is not None and any(w.topic in shared for w in served)
    if action is None and topic is not None and len(served) == 1 and not is_shared:
        return served[0]
    for workflow in served:
        if action in workflow.actions:
            return workflow
    known = ", ".join(sorted(name for w in served for name in w.actions))
    if action is None:
        raise BadEvent("MISSING_FIELD", "edata.action", f"missing; one of {known} was expected")
    if is_shared:
        return Skipped(topic or "", action)
    raise BadEvent("UNKNOWN_ACTION", "edata.action", f"{shortened(repr(action))}; one of {known} was expected")
