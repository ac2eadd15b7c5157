"""Which workflow an event starts: by its topic and its action; on shared topics the others' events are left alone."""

from typing import Any

import pytest

from lern.events import BadEvent
from lern.settings import Settings
from workflows import MERGE, WORKFLOWS, Skipped, Workflow, choose, topics, workflow_for

SETTINGS = Settings(env="prod")
TOPIC = "prod.lms.user.account.merge"
REQUESTS = "prod.coursebatch.job.request"
PROGRESS = Workflow(
    name="progress",
    topic="coursebatch_job_request",
    actions=frozenset({"batch-enrolment-sync", "batch-enrolment-update"}),
    steps=("progress.compute",),
    read=MERGE.read,
)


def event(action: object = None) -> dict[str, Any]:
    return {"edata": {} if action is None else {"action": action}}


def of_all(action: object, topic: str | None) -> Workflow | Skipped:
    return choose(event(action), topic, SETTINGS, {**WORKFLOWS, "progress": PROGRESS}, {"coursebatch_job_request"})


def code(action: object, topic: str | None) -> str:
    with pytest.raises(BadEvent) as refused:
        of_all(action, topic)
    return refused.value.code


def test_only_topics_whose_workflow_exists_are_read() -> None:
    assert topics(SETTINGS) == sorted({SETTINGS.topic(workflow.topic) for workflow in WORKFLOWS.values()})
    assert TOPIC in topics(SETTINGS)
    assert REQUESTS not in topics(SETTINGS)


def test_on_a_topic_of_one_workflow_the_action_may_be_missing_but_not_unknown() -> None:
    assert workflow_for(event(), TOPIC, SETTINGS) is MERGE
    assert workflow_for(event("merge-user-courses-and-cert"), TOPIC, SETTINGS) is MERGE
    assert code("merge", TOPIC) == "UNKNOWN_ACTION"


def test_on_a_shared_topic_other_jobs_events_are_skipped() -> None:
    assert of_all("batch-enrolment-sync", REQUESTS) is PROGRESS
    assert of_all("issue-certificate", REQUESTS) == Skipped(REQUESTS, "issue-certificate")


def test_on_a_shared_topic_an_event_without_an_action_is_nobody_s() -> None:
    assert code(None, REQUESTS) == "MISSING_FIELD"
    assert code(7, REQUESTS) == "WRONG_TYPE"


def test_without_a_topic_the_action_decides() -> None:
    assert of_all("batch-enrolment-update", None) is PROGRESS
    assert of_all("merge-user-courses-and-cert", None) is MERGE
    assert code("issue-certificate", None) == "UNKNOWN_ACTION"


def test_an_unknown_action_is_named_however_long_it_is() -> None:
    with pytest.raises(BadEvent) as found:
        of_all("x" * 8_000, None)
    assert "'xxx" in found.value.reason
    assert len(found.value.reason) < 200


def test_a_topic_that_starts_nothing_is_a_mistake() -> None:
    assert code("merge-user-courses-and-cert", "prod.telemetry.raw") == "UNKNOWN_TOPIC"


def test_of_a_topic_that_starts_nothing_the_topic_is_what_is_wrong() -> None:
    """Whatever its events look like: other topics have other ones."""
    with pytest.raises(BadEvent, match=r"prod\.telemetry\.raw"):
        workflow_for({"eid": "ASSESS"}, "prod.telemetry.raw", SETTINGS)
