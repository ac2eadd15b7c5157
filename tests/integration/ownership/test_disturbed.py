"""Transfers beside a live lms-service, with servers that fail: no edit is lost, and both stores agree in the end."""

import time
from pathlib import Path
from typing import Any, Final

import pytest
from elasticsearch import ApiError
from elasticsearch import ConnectionError as NoConnectionError

import tasks.undo  # noqa: F401 - the step that an undo consists of
from lern import undo
from lern.ownership import Follower
from lern.search.elasticsearch import ElasticsearchSearch
from lern.store.tables import COURSE_BATCH, Row
from tasks.step import Aside, now_ms
from tests.batches import OTHER, SOURCE, TARGET, ZONE, World, batch, document, key_of, transfer_event
from tests.integration.ownership.beside import beside
from tests.integration.ownership.conftest import INDEX, MakeWorld, Servers
from tests.workers import Process, until

# Seconds.
MINUTE: Final = 60
BATCHES, SEARCH = "ownership.batches", "ownership.search"


def edit(world: World, row: Row, **columns: Any) -> None:
    """Change columns of a batch and nothing else, as lms-service does."""
    key = dict(zip(COURSE_BATCH.key, key_of(row), strict=True))
    world.services.store.insert(COURSE_BATCH, [{**key, **columns}])


def reindex(world: World, row: Row) -> None:
    """Replace a batch's document whole, as lms-service does."""
    if world.search.own:
        world.search.insert([document(row)])


def test_the_whole_plan_is_journalled_before_the_first_write(make_world: MakeWorld) -> None:
    world = make_world(CHUNK_ROWS="10")
    world.load([batch(number) for number in range(35)])
    seen: list[int] = []
    beside(world, "store", "compare_and_set", lambda: seen.append(len(world.services.ledger.open_chunks([SOURCE]))))
    world.succeed()
    assert seen == [4]


def test_nothing_is_written_unless_both_users_are_held(world: World) -> None:
    world.load([batch(1)])
    held: list[set[str]] = []

    def look() -> None:
        held.append({user for user, _ in world.services.locks.all_held()})

    beside(world, "store", "compare_and_set", look)
    beside(world, "search", "update", look)
    world.succeed()
    assert held
    assert all({SOURCE, TARGET} <= users for users in held)


def test_no_more_batches_are_written_at_once_than_the_setting_says(
    make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make_world(OWNERSHIP_WRITE_SIZE="10")
    world.load([batch(number) for number in range(25)])
    sizes: list[int] = []
    store: Any = world.services.store
    write = store.compare_and_set

    def counted(table: Any, swaps: Any, guard: Any) -> Any:
        sizes.append(len(swaps))
        return write(table, swaps, guard)

    monkeypatch.setattr(store, "compare_and_set", counted)
    world.succeed()
    assert sizes == [10, 10, 5]


def test_edits_in_the_database_meanwhile_survive(world: World) -> None:
    row = batch(1, mentors=[SOURCE])
    world.load([row, batch(2)])
    edited = {"name": "new", "end_date": 1_800_000_000_000, "mentors": ["first", SOURCE, "last"]}

    def act() -> None:
        edit(world, row, **edited, updated_date=now_ms())
        reindex(world, world.row(row))

    beside(world, "store", "compare_and_set", act)
    world.succeed()
    now = world.row(row)
    assert {**now, "updated_date": 0} == {
        **row, **edited, "createdby": TARGET, "mentors": ["first", TARGET, "last"], "updated_date": 0
    }  # fmt: skip
    world.agree([row, batch(2)])


def test_edits_of_a_document_meanwhile_survive(server_world: World) -> None:
    world = server_world
    row = batch(1)
    world.load([row, batch(2)])

    def act() -> None:
        edit(world, row, name="new", mentors=[OTHER, "new"])
        reindex(world, world.row(row))

    beside(world, "search", "update", act)
    world.succeed()
    assert world.document(row).fields["name"] == "new"
    assert world.document(row).fields["mentors"] == [OTHER, "new"]
    world.agree([row, batch(2)])


def test_documents_that_are_reindexed_all_the_time_follow_in_the_end(server_world: World) -> None:
    world = server_world
    rows = [batch(number) for number in range(20)]
    world.load(rows)
    beside(world, "search", "update", *[lambda: world.search.insert(map(document, world.rows().values()))] * 5)
    world.succeed()
    world.agree(rows)


def test_a_document_that_is_put_back_from_a_stale_read_is_mended(server_world: World) -> None:
    world = server_world
    row = batch(1)
    world.load([row])
    beside(world, "search", "update", lambda: reindex(world, row), after=True)
    run = world.succeed()
    assert world.document(row).fields["createdBy"] == TARGET
    assert world.result(run, SEARCH)["mended"] == 1


def test_a_batch_that_is_put_back_between_the_steps_is_mended(world: World) -> None:
    row = batch(1)
    world.load([row])
    run_id = world.enter(transfer_event())
    world.place.step(run_id)
    edit(world, row, **{column: row[column] for column in ("createdby", "mentors", "name")})
    reindex(world, row)
    assert world.place.carry_out(run_id).state == "succeeded"
    assert world.row(row)["createdby"] == TARGET
    world.agree([row])


def test_a_batch_that_is_deleted_meanwhile_does_not_come_back(world: World) -> None:
    gone, stays = batch(1), batch(2)
    world.load([gone, stays])

    def act() -> None:
        with world.services.store.unit(lambda: None) as unit:
            assert unit.remove(COURSE_BATCH, [gone]) == []

    beside(world, "store", "compare_and_set", act)
    world.succeed()
    assert world.rows().keys() == {key_of(stays)}


def test_a_document_whose_batch_is_deleted_between_the_steps_is_listed(server_world: World) -> None:
    world = server_world
    gone = batch(1)
    world.load([gone, batch(2)])
    run_id = world.enter(transfer_event())
    world.place.step(run_id)
    with world.services.store.unit(lambda: None) as unit:
        unit.remove(COURSE_BATCH, [world.row(gone)])
    run = world.place.carry_out(run_id)
    assert run.warnings == ("documents of batches that are gone, left as they are: Batch-00001",)
    assert world.result(run, SEARCH)["documents"] == 1


def test_a_document_that_changes_together_with_its_batch_while_both_are_read_keeps_that(server_world: World) -> None:
    world = server_world
    row = batch(1, createdby=OTHER)
    world.load([row], documents=False)
    world.search.insert([document(batch(1))])

    def act() -> None:
        edit(world, row, createdby="third", mentors=["new"])
        reindex(world, world.row(row))

    acts = [act]
    for part in ("store", "search"):
        # Whichever is read first.
        beside(world, part, "read", lambda: acts.pop()() if acts else None, after=True)
    Follower(world.services.store, world.search, ZONE).follow([key_of(row)], lambda: None)
    assert world.row(row)["createdby"] == "third"
    world.agree([row])


def test_a_batch_that_is_given_to_somebody_else_meanwhile_is_theirs(world: World) -> None:
    row = batch(1)
    world.load([row])
    beside(world, "store", "compare_and_set", lambda: edit(world, row, createdby="third"))
    world.succeed()
    assert world.row(row)["createdby"] == "third"


# --- clocks


def plain(world: World, row: Row, seconds: float, **columns: str) -> None:
    """Write columns with a clock that is ahead, or behind. Values are CQL."""
    store: Any = world.services.store
    connected = store._sessions.connected()
    at = int((time.time() + seconds) * 1_000_000)
    sets = ", ".join(f"{column} = {value}" for column, value in columns.items())
    course, batch_id = key_of(row)
    connected.execute(
        # No statement of the store may have a time of the caller's choice.
        f"UPDATE {connected.place.keyspace}.course_batch USING TIMESTAMP {at} SET {sets}"  # noqa: S608 - ids of this test's own
        f" WHERE courseid = '{course}' AND batchid = '{batch_id}'"
    )


def test_a_cell_that_is_far_ahead_of_the_clock_fails_the_run_by_name_and_stands_in_nobodys_way(
    make_world: MakeWorld, servers: Servers
) -> None:
    """All other batches have changed hands by then, in both stores; accounts are merged, and it can be taken back."""
    world = make_world(**servers.settings, CHUNK_ROWS="2")
    rows = [batch(number) for number in range(6)]
    world.load(rows)
    plain(world, rows[1], 3_600, createdby=f"'{SOURCE}'")
    run = world.transfer()
    assert (run.state, run.reason) == ("failed", "CLOCK_AHEAD")
    assert "Batch-00001" in (run.error or "")
    assert "createdby" in (run.error or "")
    assert [world.row(row)["createdby"] for row in rows] == [TARGET, SOURCE, TARGET, TARGET, TARGET, TARGET]
    world.agree(rows)
    world.place.merge("Learner", TARGET)
    entered = undo.request(world.services.ledger, run.id, now_ms())
    assert world.place.carry_out(entered.run_id).state == "succeeded"
    assert {world.row(row)["createdby"] for row in rows} == {SOURCE}
    world.agree(rows)
    assert world.services.ledger.open_chunks([SOURCE]) == []


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_cell_that_is_a_little_ahead_is_waited_for(make_world: MakeWorld, servers: Servers, when: str) -> None:
    world = make_world(**servers.settings, RETRY_BASE="0.01", MAX_ATTEMPTS="1000")
    row = batch(1)
    world.load([row])
    ahead = {"createdby": f"'{SOURCE}'", "mentors": f"['x', '{SOURCE}', 'new']"}
    beside(world, "store", "compare_and_set", lambda: plain(world, row, 1.5, **ahead), after=when == "after")
    run_id = world.enter(transfer_event())
    assert isinstance(world.place.step(run_id), Aside)
    while world.place.run(run_id).state not in {"succeeded", "failed"}:
        world.place.step(run_id)
    assert world.row(row)["createdby"] == TARGET
    assert world.row(row)["mentors"] == ["x", TARGET, "new"]
    world.agree([row])


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_stale_plain_write_gives_nothing_back(server_world: World, when: str) -> None:
    """Of a list written as a whole the elements have times of their own, so that some of a stale one may remain."""
    world = server_world
    row = batch(1, mentors=["x", SOURCE])
    world.load([row])
    stale = {"createdby": f"'{SOURCE}'", "mentors": f"['x', '{SOURCE}', 'new']"}
    beside(world, "store", "compare_and_set", lambda: plain(world, row, -3_600, **stale), after=when == "after")
    world.succeed()
    now = world.row(row)
    assert (now["createdby"], now["mentors"].count(TARGET), now["mentors"].count(SOURCE)) == (TARGET, 1, 0)
    assert len(set(now["mentors"])) == len(now["mentors"])
    world.agree([row])


# --- servers that fail


def client(world: World) -> Any:
    search = world.search
    assert isinstance(search, ElasticsearchSearch)
    return search._client


def test_while_elasticsearch_is_down_the_run_waits_and_uses_up_no_attempt(
    server_world: World, servers: Servers
) -> None:
    world = server_world
    rows = [batch(number) for number in range(30)]
    world.load(rows)
    run_id = world.enter(transfer_event())
    world.place.step(run_id)
    servers.elasticsearch.stop()
    with pytest.raises(NoConnectionError):
        client(world).info()
    assert isinstance(world.place.step(run_id), Aside)
    waiting = world.place.run(run_id)
    assert (waiting.state, waiting.reason, waiting.attempts) == ("waiting", "UNREACHABLE", 0)
    servers.elasticsearch.start()
    assert world.place.carry_out(run_id).state == "succeeded"
    world.agree(rows)


def test_elasticsearch_may_be_away_for_a_minute_in_the_middle(
    make_world: MakeWorld, servers: Servers, tmp_path: Path
) -> None:
    """A worker of its own goes on by itself when it is back, where some documents have followed by then."""
    world = make_world(**servers.settings, CHUNK_ROWS="20", MAX_ATTEMPTS="2", RETRY_CAP="5")
    rows = [batch(number) for number in range(1_000)]
    world.load(rows)

    def followed() -> int:
        return [
            found.fields["createdBy"] for found in world.search.read([key_of(row)[1] for row in rows]).values()
        ].count(TARGET)

    with Process("worker", world.services.settings, tmp_path / "worker.log") as worker:
        run_id = world.enter(transfer_event())
        until(followed)
        servers.elasticsearch.kill()
        gone = time.monotonic()
        until(lambda: world.place.run(run_id).state == "waiting")
        until(lambda: time.monotonic() - gone >= MINUTE)
        waiting = world.place.run(run_id)
        assert (waiting.state, waiting.reason, waiting.attempts) == ("waiting", "UNREACHABLE", 0)
        servers.elasticsearch.start()
        assert 0 < followed() < len(rows)
        until(lambda: world.place.run(run_id).state not in {"waiting", "queued", "running"})
        assert worker.stop() == 0
    ended = world.place.run(run_id)
    assert ended.state == "succeeded", (ended.reason, ended.error, worker.text[-3000:])
    assert {row["createdby"] for row in world.rows().values()} == {TARGET}
    world.agree(rows)


def test_while_cassandra_is_down_the_run_waits(server_world: World, servers: Servers) -> None:
    world = server_world
    world.load([batch(1)])
    run_id = world.enter(transfer_event())
    servers.cassandra.kill()
    assert isinstance(world.place.step(run_id), Aside)
    assert world.place.run(run_id).attempts == 0
    servers.cassandra.start()
    while world.place.run(run_id).state != "succeeded":
        world.place.step(run_id)
    world.agree([batch(1)])


@pytest.mark.parametrize(("block", "status"), [("read_only_allow_delete", 429), ("write", 403)])
def test_while_an_index_is_read_only_the_run_waits_and_uses_up_no_attempt(
    make_world: MakeWorld, servers: Servers, block: str, status: int
) -> None:
    """In the middle: some documents have followed by then. The first block is what a nearly full disk brings."""
    world = make_world(**servers.settings, CHUNK_ROWS="10", MAX_ATTEMPTS="2")
    rows = [batch(number) for number in range(30)]
    world.load(rows)
    server = client(world)

    def set_block(value: str | None) -> None:
        server.indices.put_settings(index=INDEX, settings={f"index.blocks.{block}": value})

    beside(world, "search", "update", lambda: set_block("true"), after=True)
    run_id = world.enter(transfer_event())
    world.place.step(run_id)
    for _ in range(3):
        assert isinstance(world.place.step(run_id), Aside)
    with pytest.raises(ApiError) as refused:
        server.index(index=INDEX, id="another", document={})
    assert refused.value.status_code == status
    waiting = world.place.run(run_id)
    assert (waiting.state, waiting.reason, waiting.attempts) == ("waiting", "OVERLOADED", 0)
    assert "search takes no more work at the moment: course-batch is read-only" in (waiting.error or "")
    creators = [world.document(row).fields["createdBy"] for row in rows]
    assert (creators.count(TARGET), creators.count(SOURCE)) == (10, 20)
    set_block(None)
    assert world.place.carry_out(run_id).state == "succeeded"
    world.agree(rows)


def test_without_the_index_nothing_is_written_and_the_reason_is_said(server_world: World) -> None:
    world = server_world
    world.load([batch(1)])
    client(world).indices.delete(index=INDEX)
    run = world.transfer()
    assert (run.state, run.reason) == ("failed", "REFUSED")
    assert "search has no index course-batch" in (run.error or "")
    assert world.row(batch(1)) == batch(1)
    world.search.create()
    reindex(world, batch(1))
    world.services.ledger.retry(run.id, now_ms(), "admin")
    assert world.place.carry_out(run.id).state == "succeeded"
    world.agree([batch(1)])


def test_an_index_that_goes_before_the_very_write_is_told_from_a_document_that_goes(server_world: World) -> None:
    """The server makes another index of that write, in which nobody is found."""
    world = server_world
    world.load([batch(1)])
    indices = client(world).indices
    beside(world, "search", "update", lambda: indices.delete(index=INDEX))
    run = world.transfer()
    assert (run.state, run.reason) == ("failed", "REFUSED")
    assert "index course-batch has not Sunbird's mapping" in (run.error or "")
    indices.delete(index=INDEX)
    world.search.create()
    reindex(world, batch(1))
    world.services.ledger.retry(run.id, now_ms(), "admin")
    assert world.place.carry_out(run.id).state == "succeeded"
    world.agree([batch(1)])


def test_one_write_of_many_that_is_put_off_is_made_up_for(server_world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world = server_world
    rows = [batch(number) for number in range(4)]
    world.load(rows)
    server = client(world)
    write, refusal = server.bulk, {"type": "es_rejected_execution_exception", "reason": "queue full"}

    def full(index: str, operations: list[Any]) -> Any:
        """Write all but the second, as a server does whose queue is full."""
        monkeypatch.setattr(server, "bulk", write)
        items = list(write(index=index, operations=[*operations[:2], *operations[4:]])["items"])
        items.insert(1, {"update": {**operations[2]["update"], "status": 429, "error": refusal}})
        return {"items": items}

    monkeypatch.setattr(server, "bulk", full)
    run_id = world.enter(transfer_event())
    world.place.step(run_id)
    assert isinstance(world.place.step(run_id), Aside)
    waiting = world.place.run(run_id)
    assert (waiting.reason, waiting.attempts) == ("OVERLOADED", 0)
    assert [world.document(row).fields["createdBy"] for row in rows].count(SOURCE) == 1
    assert world.place.carry_out(run_id).state == "succeeded"
    world.agree(rows)


def test_an_alias_is_as_good_as_an_index_and_one_of_two_indices_is_refused_at_once(server_world: World) -> None:
    world = server_world
    server, url = client(world), world.services.settings.search_url or ""
    server.indices.delete(index=INDEX)
    names = [f"{INDEX}-v{number}" for number in (1, 2)]
    try:
        for name in names:
            ElasticsearchSearch(url, name).create()
        server.indices.put_alias(index=names[0], name=INDEX)
        assert not world.search.create()
        world.load([batch(1)])
        world.succeed()
        world.agree([batch(1)])
        server.indices.put_alias(index=names[1], name=INDEX)
        run = world.transfer(source=TARGET, target="Third", key="2")
        assert (run.state, run.reason) == ("failed", "REFUSED")
        assert "course-batch stands for several indices" in (run.error or "")
        assert world.row(batch(1))["createdby"] == TARGET
    finally:
        server.indices.delete(index=",".join(names))


def test_an_index_that_goes_between_the_steps_fails_the_run_and_a_retry_mends_it(server_world: World) -> None:
    world = server_world
    world.load([batch(1)])
    run_id = world.enter(transfer_event())
    world.place.step(run_id)
    client(world).indices.delete(index=INDEX)
    assert world.place.carry_out(run_id).reason == "REFUSED"
    world.search.create()
    reindex(world, batch(1))
    world.services.ledger.retry(run_id, now_ms(), "admin")
    assert world.place.carry_out(run_id).state == "succeeded"
    world.agree([batch(1)])
