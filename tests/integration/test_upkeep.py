"""Upkeep: late rows are brought along, stuck locks are told of, and doing it twice comes to the same as once."""

import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

import tasks.undo  # noqa: F401 - the step that an undo consists of
from celeryconfig import beat_schedule
from lern import late, undo
from lern.ledger import Run
from lern.ledger.schema import runs
from lern.locks import PREFIX
from lern.store.tables import USER_CONTENT_CONSUMPTION, USER_ENROLMENTS
from lern.stuck import LockWatch
from tasks import upkeep
from tasks.app import app
from tasks.step import now_ms
from tasks.upkeep import SWEPT, prune, stuck_locks, sweep
from tests.acceptance.place import Place
from tests.accounts import RELATIONS, Placed, attempt, content, enrolment, two_accounts
from tests.servers.redis import RedisServer

HOUR = late.HOUR
LATE = content("asha-old", "course-1", "b1", "c9", status=2, progress=100, viewcount=1)


@pytest.fixture
def place(tmp_path: Path, own_redis: RedisServer) -> Iterator[Place]:
    here = Place.at(tmp_path, own_redis.url).create()
    here.load(two_accounts("asha-old", "asha"), RELATIONS)
    yield here
    here.close()


def merged_ago(place: Place, ago: int) -> str:
    """Merge the two accounts, and let it be so long ago (ms)."""
    run_id = place.merge("asha-old", "asha")
    age(place, ago)
    return run_id


def age(place: Place, by: int) -> None:
    """Let everything in the ledger have happened earlier."""
    with place.services.ledger._database.write() as connection:
        earlier = {name: runs.c[name] - by for name in ("created_at", "ended_at", "updated_at")}
        connection.execute(runs.update().values(earlier))


def sweeps(place: Place) -> list[Run]:
    return place.services.ledger.runs(workflow=late.WORKFLOW)


def swept(place: Place) -> list[Run]:
    """Sweep, and carry out what was entered."""
    sweep(place.services)
    for run in sweeps(place):
        assert place.carry_out(run.id).state == "succeeded"
    return sweeps(place)


# Late rows


@pytest.mark.parametrize(
    "row",
    [
        LATE,
        enrolment("asha-old", "course-5", "b5", active=True, status=1),
        attempt("asha-old", "course-1", "b1", "c2", "a9", total_score=9.0, last_attempted_on=1),
    ],
    ids=["content", "enrolment", "attempt"],
)
def test_what_a_device_writes_late_to_the_old_account_comes_to_the_new_one(place: Place, row: Placed) -> None:
    merged_ago(place, HOUR)
    place.load([row])
    [run] = swept(place)
    assert (run.source, run.target) == ("asha-old", "asha")
    table, columns = row
    key = tuple("asha" if name == table.user else columns[name] for name in table.key)
    assert key in place.services.store.read(table, [key])
    assert columns not in place.rows(table, "asha-old")


def test_counters_that_were_given_before_are_not_given_again(place: Place) -> None:
    merged_ago(place, HOUR)
    again = content("asha-old", "course-1", "b1", "c1", status=1, viewcount=2)
    place.load([again])
    key = ("asha", "course-1", "b1", "c1")
    before = place.services.store.read(USER_CONTENT_CONSUMPTION, [key])[key]["viewcount"]
    swept(place)
    swept(place)
    assert place.services.store.read(USER_CONTENT_CONSUMPTION, [key])[key]["viewcount"] == before + 2


def test_an_account_without_late_rows_gets_no_run(place: Place) -> None:
    merged_ago(place, HOUR)
    # The row of course-3, by which nobody ever enrolled, has stayed at the source: that is no reason either.
    assert place.rows(USER_ENROLMENTS, "asha-old")
    assert sweep(place.services) == {"looked": 1, "entered": 0}
    assert sweeps(place) == []


def test_rows_that_are_to_stay_at_the_source_are_no_reason_for_a_run(tmp_path: Path, own_redis: RedisServer) -> None:
    with closing(Place.at(tmp_path, own_redis.url, merge_source_rows="keep").create()) as place:
        place.load(two_accounts("asha-old", "asha"), RELATIONS)
        merged_ago(place, HOUR)
        assert sweep(place.services)["entered"] == 0


def test_it_is_looked_when_it_is_due_and_not_before(place: Place) -> None:
    merged_ago(place, HOUR - 60_000)
    place.load([LATE])
    assert sweep(place.services)["looked"] == 0
    age(place, 60_000)
    assert len(swept(place)) == 1
    place.load([LATE])
    assert len(swept(place)) == 1, "the next look is due after four hours"
    age(place, 3 * HOUR)
    assert len(swept(place)) == 2


def test_a_row_that_cannot_be_read_keeps_nobody_elses_late_rows_back_and_is_named_by_a_run(place: Place) -> None:
    place.load(two_accounts("bad-old", "bad"))
    place.merge("bad-old", "bad", "m2")
    place.sql(
        "INSERT INTO user_content_consumption (userid, courseid, batchid, contentid, status) VALUES (?, ?, ?, ?, ?)",
        *("bad-old", "course-1", "b1", "c1", "not a number"),
    )
    merged_ago(place, HOUR)
    place.load([LATE])
    assert sweep(place.services) == {"looked": 2, "entered": 2}
    ended = {run.source: place.carry_out(run.id) for run in sweeps(place)}
    assert ended["asha-old"].state == "succeeded"
    assert (ended["bad-old"].state, ended["bad-old"].reason) == ("failed", "BAD_ROW")


def test_after_the_last_day_nobody_looks_any_more() -> None:
    assert late.delays(30)[-1] == 30 * late.DAY
    assert late.delays(10) == (HOUR, 4 * HOUR, late.DAY, 3 * late.DAY, 7 * late.DAY, 10 * late.DAY)
    assert late.delays(0) == ()


def test_two_who_sweep_at_once_enter_one_run(place: Place) -> None:
    merged_ago(place, HOUR)
    place.load([LATE])
    both = [threading.Thread(target=sweep, args=(place.services,)) for _ in range(2)]
    for one in both:
        one.start()
    for one in both:
        one.join()
    place.services.broker.delete(SWEPT % HOUR)
    sweep(place.services)
    assert len(sweeps(place)) == 1
    length: Any = place.services.broker.llen(place.settings.queue)
    assert length == 2, "the merge's chain and the sweep's"


def test_a_merge_that_was_undone_is_not_swept(place: Place) -> None:
    run_id = merged_ago(place, HOUR)
    entered = undo.request(place.services.ledger, run_id, now_ms())
    assert place.carry_out(entered.run_id).state == "succeeded"
    before = place.tables()
    assert sweep(place.services) == {"looked": 0, "entered": 0}
    assert place.tables() == before


def test_a_sweep_can_be_undone_and_then_its_merge(place: Place) -> None:
    before = place.rows(USER_CONTENT_CONSUMPTION)
    run_id = merged_ago(place, HOUR)
    place.load([LATE])
    [late_run] = swept(place)
    for one in (late_run.id, run_id):
        entered = undo.request(place.services.ledger, one, now_ms())
        assert place.carry_out(entered.run_id).state == "succeeded"
    after = place.rows(USER_CONTENT_CONSUMPTION)
    assert after == sorted([*before, LATE[1]], key=USER_CONTENT_CONSUMPTION.key_of)


def test_a_sweep_is_followed_to_where_the_account_went_since(place: Place) -> None:
    merged_ago(place, HOUR)
    place.merge("asha", "asha-new", "m2")
    place.load([LATE])
    swept(place)
    assert place.rows(USER_CONTENT_CONSUMPTION, "asha") == []
    key = ("asha-new", "course-1", "b1", "c9")
    assert key in place.services.store.read(USER_CONTENT_CONSUMPTION, [key])


# Retention


def test_old_runs_go_and_with_them_nothing_that_a_later_event_needs(place: Place) -> None:
    merged_ago(place, 401 * late.DAY)
    assert prune(place.services) == {"runs": 1, "letters": 0}
    assert prune(place.services) == {"runs": 0, "letters": 0}
    place.load([LATE])
    place.merge("asha-old", "asha", "m2")
    assert place.rows(USER_CONTENT_CONSUMPTION, "asha-old") == []
    assert place.services.ledger.final_account("asha-old") == "asha"


def test_runs_outlive_the_sweeps_that_need_them(tmp_path: Path, own_redis: RedisServer) -> None:
    with closing(Place.at(tmp_path, own_redis.url, retention_days="1", sweep_days="30").create()) as place:
        place.load(two_accounts("asha-old", "asha"), RELATIONS)
        merged_ago(place, 30 * late.DAY)
        assert prune(place.services)["runs"] == 0
        age(place, 2 * late.DAY)
        assert prune(place.services)["runs"] == 1


# Stuck locks


def watch(place: Place) -> LockWatch:
    return LockWatch(place.services.locks, place.services.ledger, place.services.broker, patience=30_000)


def test_a_lock_without_a_running_step_is_told_of_when_it_has_stood_too_long(place: Place) -> None:
    with place.services.locks.hold(["asha"], "token", 0, "run-1 merge.content"):
        assert watch(place).look(now=1_000) == []
        assert watch(place).look(now=30_999) == []
        [stuck] = watch(place).look(now=31_000)
        assert (stuck.user, stuck.token, stuck.holder, stuck.since) == ("asha", "token", "run-1 merge.content", 1_000)
    assert watch(place).look(now=99_000) == []


def test_a_lock_that_somebody_has_set_by_hand_is_told_of(place: Place) -> None:
    place.services.broker.set(f"{PREFIX}asha", "mine")
    watch(place).look(now=0)
    assert [stuck.user for stuck in watch(place).look(now=30_000)] == ["asha"]
    assert stuck_locks(place.services) == {"stuck": 1}


def test_the_lock_of_a_running_step_is_no_stuck_one(place: Place) -> None:
    run_id = place.enter("asha-old", "asha")
    place.services.ledger.begin(run_id, "merge.content", 1, "token", now_ms(), 5)
    with place.services.locks.hold(["asha-old", "asha"], "token", 0, f"{run_id} merge.content"):
        assert watch(place).look(now=0) == []
        assert watch(place).look(now=99_000) == []


def test_another_lock_on_the_same_user_starts_anew(place: Place) -> None:
    for now, token in ((0, "one"), (30_000, "two")):
        with place.services.locks.hold(["asha"], token, 0, "run"):
            assert watch(place).look(now) == []


# Beat


def test_beat_sends_tasks_that_exist() -> None:
    assert {entry["task"] for entry in beat_schedule.values()} == {upkeep.SWEEP, upkeep.PRUNE, upkeep.LOCKS}
    assert {entry["task"] for entry in beat_schedule.values()} <= app.tasks.keys()
