"""Metrics: one name each, and one sum over all processes of a worker."""

import os
import subprocess
import sys
from pathlib import Path

from lern import metrics

ROOT = Path(__file__).parents[2]


def test_what_happens_is_counted_under_the_words_of_the_domain() -> None:
    metrics.run_ended("merge", "succeeded")
    metrics.step_ended("merge", "merge.content", "done", 0.02)
    metrics.retried("merge", "merge.content", "wait")
    metrics.lock_waited("merge.content", 0.001)
    metrics.rows_done("user_enrolments", {"read": 3, "copied": 2})
    metrics.event_taken("dev.lms.user.account.merge", "run")
    metrics.dead_letter("dev.lms.user.account.merge", "BAD_JSON")
    metrics.event_sent("dev.telemetry.raw", 2)
    metrics.bridge_lag("dev.lms.user.account.merge", 0, 7)
    metrics.queue("lern", 4, 1.5)
    text = metrics.exposition().decode()
    for line in (
        'lern_runs_total{outcome="succeeded",workflow="merge"}',
        'lern_steps_total{outcome="done",step="merge.content",workflow="merge"}',
        'lern_step_seconds_count{step="merge.content"}',
        'lern_step_retries_total{decision="wait",step="merge.content",workflow="merge"}',
        'lern_lock_wait_seconds_count{step="merge.content"}',
        'lern_rows_total{outcome="copied",table="user_enrolments"}',
        'lern_events_total{outcome="run",topic="dev.lms.user.account.merge"}',
        'lern_dead_letters_total{code="BAD_JSON",topic="dev.lms.user.account.merge"}',
        'lern_events_sent_total{topic="dev.telemetry.raw"}',
        'lern_bridge_lag_events{partition="0",topic="dev.lms.user.account.merge"} 7.0',
        'lern_queue_length{queue="lern"} 4.0',
        "lern_oldest_queued_run_seconds 1.5",
    ):
        assert line in text


def test_a_partition_that_another_bridge_has_is_not_reported_any_more() -> None:
    metrics.bridge_lag("gone", 3, 7)
    metrics.bridge_lost("gone", 3)
    assert 'topic="gone"' not in metrics.exposition().decode()


FORKS = """
import os
from lern import metrics
children = []
for _ in range(3):
    pid = os.fork()
    if pid == 0:
        metrics.run_ended("merge", "succeeded")
        os._exit(0)
    children.append(pid)
for pid in children:
    os.waitpid(pid, 0)
print(metrics.exposition().decode())
"""


def test_the_numbers_of_all_processes_of_a_worker_are_added_up(tmp_path: Path) -> None:
    env = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", FORKS], env=env, cwd=ROOT, capture_output=True, text=True, check=True)
    assert 'lern_runs_total{outcome="succeeded",workflow="merge"} 3.0' in done.stdout
