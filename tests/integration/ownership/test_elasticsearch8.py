"""A transfer and its undo with Elasticsearch 8, by the client that speaks with 7.17 as well."""

import tasks.undo  # noqa: F401 - the step that an undo consists of
from lern import undo
from lern.search.elasticsearch import ElasticsearchSearch
from tasks.step import now_ms
from tests.batches import OTHER, SOURCE, TARGET, batch, document, key_of
from tests.integration.ownership.beside import beside
from tests.integration.ownership.conftest import MakeWorld
from tests.servers.server import Server


def test_batches_change_hands_and_come_back(make_world: MakeWorld, elasticsearch8: Server) -> None:
    """More than a page of them, beside an lms-service that indexes documents again from what it has read before."""
    world = make_world(SEARCH_URL=elasticsearch8.address)
    search = world.search
    assert isinstance(search, ElasticsearchSearch)
    assert search._client.info()["version"]["number"].startswith("8.")
    created = [batch(number, mentors=[OTHER, SOURCE]) for number in range(1_100)]
    mentored, lost = batch(2_000, createdby=OTHER, mentors=[SOURCE]), batch(2_001)
    rows = [*created, mentored]
    world.load(rows)
    world.load([lost], documents=False)
    beside(world, "search", "update", lambda: search.insert(map(document, created[:50])), after=True)
    run = world.succeed()
    assert [one.id for one in search.owned_by(SOURCE)] == []
    assert len(list(search.owned_by(TARGET))) == len(rows)
    world.agree(rows)
    assert run.warnings == ("batches without a document: Batch-02001",)
    entered = undo.request(world.services.ledger, run.id, now_ms())
    assert world.place.carry_out(entered.run_id).state == "succeeded"
    assert world.rows() == {key_of(row): row for row in [*rows, lost]}
    world.agree(rows)
