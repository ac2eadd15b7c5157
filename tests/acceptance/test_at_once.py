"""What comes at once: the same event several times, merges with an account in common, somebody else who writes."""

import json
import sqlite3
import threading
from collections import Counter
from collections.abc import Callable, Sequence

import pytest

from lern.store.tables import TABLES, USER_CONTENT_CONSUMPTION, USER_ENROLMENTS
from lern.urls import sqlite_file
from tests.acceptance.conftest import MakePlace
from tests.acceptance.place import Place, Tables
from tests.acceptance.workers import Workers
from tests.accounts import DAY, RELATIONS, account, content, enrolment, two_accounts
from workflows import MERGE


def at_once(acts: Sequence[Callable[[], object]]) -> None:
    """Do several things at the same moment, each in a thread of its own."""
    together = threading.Barrier(len(acts))
    problems: list[BaseException] = []

    def act(one: Callable[[], object]) -> None:
        try:
            together.wait()
            one()
        except BaseException as problem:  # noqa: BLE001 - a thread's error is the test's
            problems.append(problem)

    threads = [threading.Thread(target=act, args=(one,)) for one in acts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []


def another_user_of(place: Place) -> Place:
    """The same place with connections of its own, as another process has them."""
    return Place.at(place.settings.data_dir, place.services.broker_url)


def unordered(tables: Tables) -> dict[str, list[list[object]]]:
    """Take maps as what they are: the order in which accounts were merged is the order of their entries."""
    return {name: [[_parsed(cell) for cell in row] for row in rows] for name, rows in tables.items()}


def _parsed(cell: object) -> object:
    return json.loads(cell) if isinstance(cell, str) and cell.startswith("{") else cell


def owners(place: Place) -> Counter[str]:
    """How many learner rows each account has."""
    return Counter(row[str(table.user)] for table in TABLES.values() if table.user for row in place.rows(table))


def test_one_event_five_times_to_two_workers_is_one_merge(workers: Workers, make_place: MakePlace) -> None:
    reference = make_place(merge_tables="current,legacy")
    reference.load(two_accounts("from", "to"), RELATIONS)
    merged = reference.merge("from", "to")

    place = workers.place
    place.load(two_accounts("from", "to"), RELATIONS)
    workers.start(), workers.start()
    places = [another_user_of(place) for _ in range(5)]
    at_once([lambda one=one: one.enter("from", "to") for one in places])  # type: ignore[misc]  # mypy takes the default for an argument
    [run] = workers.until_ended([merged])
    assert run.state == "succeeded"
    assert len(place.services.ledger.runs()) == 1
    assert place.sent() == reference.sent()
    for table in ("user_content_consumption", "user_enrolments", "user_activity_agg", "assessment_aggregator"):
        assert place.tables()[table] == reference.tables()[table]
    for one in places:
        one.close()


def test_five_copies_of_one_chain_are_one_merge(workers: Workers, make_place: MakePlace) -> None:
    """A broker may deliver a message again while it is being worked on."""
    reference = make_place()
    place = workers.place
    for one in (reference, place):
        one.load(two_accounts("from", "to"), RELATIONS)
    reference.merge("from", "to")
    run_id = place.enter("from", "to")
    for _ in range(4):
        place.services.queue.send_chain(run_id, 1, MERGE.steps)
    workers.start(), workers.start()
    [run] = workers.until_ended([run_id])
    assert run.state == "succeeded"
    workers.until(lambda: place.services.broker.llen(place.settings.queue) == 0, "every copy was taken")
    assert place.tables() == reference.tables()
    assert place.sent() == reference.sent()
    detail = place.detail(run_id)
    assert [step.result for step in detail.steps] == [step.result for step in reference.detail(run_id).steps]


def test_two_merges_into_one_account_at_once_lose_nothing(workers: Workers, make_place: MakePlace) -> None:
    reference = make_place()
    place = workers.place
    for one in (reference, place):
        for user in ("first", "second", "to"):
            one.load(account(user, ["course-1", user], contents=20))
    for source in ("first", "second"):
        reference.merge(source, "to", source)
    workers.start(), workers.start()
    runs = [place.enter(source, "to", source) for source in ("first", "second")]
    assert {run.state for run in workers.until_ended(runs)} == {"succeeded"}
    assert unordered(place.tables()) == unordered(reference.tables())
    assert owners(place).keys() == {"to"}


def test_a_late_event_follows_the_account_to_where_it_went(workers: Workers, make_place: MakePlace) -> None:
    """A into B and B into C, at once; later an offline device brings rows of A, and an event for A into C."""
    reference = make_place()
    place = workers.place
    late = content("a", "course-1", "course-1", "late", status=2, viewcount=7)
    for one in (reference, place):
        for user in ("a", "b", "c"):
            one.load(account(user, ["course-1", user], contents=5))
    for source, target in (("a", "b"), ("b", "c")):
        reference.merge(source, target)
    reference.load([late])
    reference.merge("a", "c")

    workers.start(), workers.start()
    runs = [place.enter("a", "b"), place.enter("b", "c")]
    assert {run.state for run in workers.until_ended(runs)} == {"succeeded"}
    place.load([late])
    [run] = workers.until_ended([place.enter("a", "c")])
    assert run.state == "succeeded"
    assert unordered(place.tables()) == unordered(reference.tables())
    assert owners(place).keys() == {"c"}


def test_a_merge_of_an_account_that_went_elsewhere_is_refused(place: Place) -> None:
    for user in ("a", "b", "c"):
        place.load(account(user, ["course-1"]))
    place.merge("a", "b")
    place.merge("b", "c")
    before = place.tables()
    place.enter("a", "d")
    place.enter("c", "a")
    letters = {letter.code: letter for letter in place.services.ledger.dead_letters()}
    assert letters["ALREADY_MERGED"].field == "edata.fromAccountId"
    assert letters["MERGE_CIRCLE"].field == "edata.toAccountId"
    assert place.tables() == before


class Learner(threading.Thread):
    """Goes on learning, through a service that writes absolute values: what it has read, and a `step` more.

    A view changes the row of a content, or makes it, and the enrolment with it. `gone_back`: what was found to be
    less than this learner had made it. `progress`: the furthest that was written.
    """

    def __init__(self, place: Place, user: str, contents: int, step: int) -> None:
        super().__init__()
        self._file = sqlite_file(place.settings.store_url_or_default)
        self._user = user
        self._contents = contents
        self._step = step
        self._enough = threading.Event()
        self._seen: dict[str, tuple[int, int, int]] = {}
        self.views: Counter[str] = Counter()
        self.gone_back: list[str] = []
        self.progress = 0

    def run(self) -> None:
        connection = sqlite3.connect(str(self._file), isolation_level=None, timeout=30)
        while not self._enough.is_set():
            for number in range(self._contents):
                connection.execute("BEGIN IMMEDIATE")
                self._view(connection, f"c{number}")
                self._go_on(connection, f"c{number}")
                connection.execute("COMMIT")
                # Whoever waits for the file looks now and then, and would find it taken.
                self._enough.wait(0.002)
        connection.close()

    def stop(self) -> None:
        self._enough.set()
        self.join()

    def _view(self, connection: sqlite3.Connection, name: str) -> None:
        found = connection.execute(
            "SELECT viewcount, status, coalesce(progress, 0) FROM user_content_consumption"
            " WHERE userid = ? AND courseid = 'course-1' AND batchid = 'b' AND contentid = ?",
            (self._user, name),
        ).fetchone()
        now, before = found or (0, 0, 0), self._seen.get(name, (0, 0, 0))
        if any(one < other for one, other in zip(now, before, strict=True)):
            self.gone_back.append(f"{name}: {now} after {before}")
        connection.execute(
            "INSERT INTO user_content_consumption (userid, courseid, batchid, contentid, viewcount, status, progress)"
            " VALUES (?, 'course-1', 'b', ?, ?, 2, 100) ON CONFLICT DO UPDATE"
            " SET viewcount = excluded.viewcount, status = 2, progress = 100",
            (self._user, name, now[0] + self._step),
        )
        self._seen[name] = (now[0] + self._step, 2, 100)
        self.views[name] += self._step

    def _go_on(self, connection: sqlite3.Connection, name: str) -> None:
        found = connection.execute(
            "SELECT progress, coalesce(contentstatus, '{}') FROM user_enrolments"
            " WHERE userid = ? AND courseid = 'course-1' AND batchid = 'b'",
            (self._user,),
        ).fetchone()
        progress, statuses = found or (0, "{}")
        if progress < self.progress:
            self.gone_back.append(f"progress: {progress} after {self.progress}")
        self.progress = max(self.progress, progress + 1)
        connection.execute(
            "INSERT INTO user_enrolments"
            " (userid, courseid, batchid, active, enrolled_date, progress, contentstatus)"
            " VALUES (?, 'course-1', 'b', 1, ?, ?, ?) ON CONFLICT DO UPDATE"
            " SET progress = excluded.progress, contentstatus = excluded.contentstatus",
            (self._user, DAY, progress + 1, json.dumps({**json.loads(statuses), f"{self._user}-{name}": 2})),
        )


@pytest.mark.parametrize("workers", [{"chunk_rows": "5"}], indirect=True)
def test_whoever_goes_on_learning_during_the_merge_loses_nothing(workers: Workers) -> None:
    """At both accounts, with contents that they have, with new ones, and with the enrolment; in many chunks."""
    place = workers.place
    had, contents = 20, 30
    for user, views in (("from", 100_000), ("to", 5)):
        place.load(content(user, "course-1", "b", f"c{n}", status=1, viewcount=views) for n in range(had))
        place.load([enrolment(user, "course-1", "b", active=True, enrolled_date=DAY, progress=0, contentstatus={})])
    # What the target has gained since the chunk was journalled is taken for the source's share if it is as much. So
    # what the source learns is counted in thousands.
    learners = [Learner(place, "from", contents, 1_000), Learner(place, "to", contents, 1)]
    for learner in learners:
        learner.start()
    workers.until(lambda: all(learner.views["c0"] for learner in learners), "both have begun")
    workers.start()
    run_id = place.enter("from", "to")
    [run] = workers.until_ended([run_id])
    for learner in learners:
        learner.stop()
    assert run.state == "succeeded"
    assert place.services.ledger.next_number(run_id, "merge.content") > had / 5
    # What the source has learnt since it was read for the last time is carried over by whoever looks again.
    [again] = workers.until_ended([place.enter("from", "to", "again")])
    assert again.state == "succeeded"

    seen = learners[0].views + learners[1].views
    rows = {row["contentid"]: row for row in place.rows(USER_CONTENT_CONSUMPTION)}
    assert rows.keys() == seen.keys()
    for name, row in rows.items():
        assert (row["userid"], row["status"], row["progress"]) == ("to", 2, 100)
        assert row["viewcount"] == seen[name] + (100_005 if int(name[1:]) < had else 0)
    [enrolled] = place.rows(USER_ENROLMENTS)
    assert (enrolled["userid"], enrolled["active"]) == ("to", True)
    assert enrolled["progress"] == max(learner.progress for learner in learners)
    assert enrolled["contentstatus"] == {f"{user}-{name}": 2 for user in ("from", "to") for name in seen}
    assert learners[1].gone_back == []
