"""The later check: what a slow writer took back is settled again, and nothing else is touched."""

from collections.abc import Iterator
from pathlib import Path

import pytest

import tasks.undo
import tasks.verify  # noqa: F401 - the steps that a check and an undo consist of
from lern import undo, verification
from lern.chunks.undo import UndoChunk
from lern.errors import Unreachable
from lern.ledger import Ledger, NewRun
from lern.store.base import Change, Store
from lern.store.tables import USER_CONTENT_CONSUMPTION, USER_ENROLMENTS, Key, Row, Table
from tasks.step import now_ms
from tests.acceptance.place import Place
from tests.accounts import RELATIONS, two_accounts
from tests.servers.redis import RedisServer

SEEN = ("asha", "course-1", "b1", "c2")
ENROLLED = ("asha", "course-1", "b1")


@pytest.fixture
def place(tmp_path: Path, own_redis: RedisServer) -> Iterator[Place]:
    here = Place.at(tmp_path, own_redis.url).create()
    here.load(two_accounts("asha-old", "asha"), RELATIONS)
    yield here
    here.close()


def row(place: Place, table: Table, key: Key) -> Row:
    return place.services.store.read(table, [key])[key]


def write(place: Place, table: Table, change: Change) -> None:
    with place.services.store.unit(lambda: None) as unit:
        unit.settle(table, [change.key], lambda _: [change])


def check(place: Place, merge: str) -> NewRun:
    new = verification.of(place.run(merge))
    place.services.ledger.enter([new], [], now_ms())
    assert place.carry_out(new.id).state == "succeeded"
    return new


def test_a_stale_row_that_a_slow_writer_wrote_after_the_merge_is_mended(place: Place) -> None:
    merge = place.merge("asha-old", "asha")
    merged = row(place, USER_CONTENT_CONSUMPTION, SEEN)
    place.services.store.insert(
        USER_CONTENT_CONSUMPTION,
        [dict(zip(USER_CONTENT_CONSUMPTION.key, SEEN, strict=True)) | {"status": 1, "progress": 5}],
    )
    check(place, merge)
    assert row(place, USER_CONTENT_CONSUMPTION, SEEN) == merged


def test_a_check_that_finds_nothing_changes_nothing(place: Place) -> None:
    merge = place.merge("asha-old", "asha")
    before, sent = place.tables(), place.sent()
    check(place, merge)
    assert place.tables() == before
    assert place.sent() == sent


def test_what_moved_on_stays_moved_on(place: Place) -> None:
    merge = place.merge("asha-old", "asha")
    key = ("asha", "course-1", "b1", "c1")
    write(place, USER_CONTENT_CONSUMPTION, Change(key, {"viewcount": 50, "last_access_time": 1_900_000_000_000}))
    after = place.tables()
    check(place, merge)
    assert place.tables() == after


def test_a_learner_who_left_the_batch_since_is_not_enrolled_again(place: Place) -> None:
    merge = place.merge("asha-old", "asha")
    write(place, USER_ENROLMENTS, Change(ENROLLED, {"active": False}))
    check(place, merge)
    assert row(place, USER_ENROLMENTS, ENROLLED)["active"] is False


def test_rows_that_went_on_to_another_account_are_not_brought_back(place: Place) -> None:
    merge = place.merge("asha-old", "asha")
    place.merge("asha", "asha-new", "m2")
    before = place.tables()
    check(place, merge)
    assert place.tables() == before
    assert place.rows(USER_CONTENT_CONSUMPTION, "asha") == []


def test_an_undo_that_failed_before_it_did_anything_keeps_no_check_from_its_merge(place: Place) -> None:
    before = place.tables()
    merge = place.merge("asha-old", "asha")
    merged = place.tables()
    ledger = place.services.ledger
    failed = undo.request(ledger, merge, now_ms()).run_id
    ledger.begin(failed, undo.STEP, 1, "token", now_ms(), 1)
    ledger.fail(failed, undo.STEP, 1, "token", now_ms(), "UNREACHABLE", "the store was away", None)
    key = dict(zip(USER_CONTENT_CONSUMPTION.key, SEEN, strict=True))
    place.services.store.insert(USER_CONTENT_CONSUMPTION, [key | {"status": 1, "progress": 5}])
    check(place, merge)
    assert place.tables() == merged
    ledger.retry(failed, now_ms(), "ada")
    assert place.carry_out(failed).state == "succeeded"
    assert place.tables() == before


def test_a_merge_that_was_undone_is_not_settled_again(place: Place) -> None:
    merge = place.merge("asha-old", "asha")
    new = verification.of(place.run(merge))
    entered = undo.request(place.services.ledger, merge, now_ms())
    assert place.carry_out(entered.run_id).state == "succeeded"
    before = place.tables()
    place.services.ledger.enter([new], [], now_ms())
    assert place.carry_out(new.id).state == "succeeded"
    assert place.tables() == before


def test_a_merge_that_is_being_undone_is_not_settled_again(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """The check comes while the undo waits between two chunks."""
    before = place.tables()
    merge = place.merge("asha-old", "asha")
    entered = undo.request(place.services.ledger, merge, now_ms())
    look = UndoChunk.beside

    def look_at_all_but_contents(chunk: UndoChunk, store: Store, ledger: Ledger) -> UndoChunk:
        if any(item.table is USER_CONTENT_CONSUMPTION for item in chunk.items):
            raise Unreachable("store", "it restarts")
        return look(chunk, store, ledger)

    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(UndoChunk, "beside", look_at_all_but_contents)
        place.step(entered.run_id)
    assert place.run(entered.run_id).state == "waiting"
    check(place, merge)
    [due] = place.services.ledger.due(now_ms() + 1_000_000)
    assert place.services.ledger.requeue(due, now_ms())
    assert place.carry_out(entered.run_id).state == "succeeded"
    assert place.tables() == before
