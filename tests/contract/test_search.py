"""What every search promises (`lern.search.base`), over Elasticsearch 7.17 and 8 and over the store itself."""

import json
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from lern.errors import LernError, Overloaded, Refused, Transient, Unreachable
from lern.search import Document, Search, Update
from lern.search.elasticsearch import ElasticsearchSearch
from lern.search.sql import StoreSearch
from lern.store.sql import SqlStore
from tests.batches import OTHER, SOURCE, TARGET, ZONE, batch, document
from tests.servers.sunbird import sunbird


@pytest.fixture(params=["store", "elasticsearch", "elasticsearch8"])
def search(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Search]:
    if request.param == "store":
        store = SqlStore(f"sqlite:///{tmp_path}/learners.sqlite")
        store.create()
        yield StoreSearch(store, ZONE)
        store.close()
        return
    index = f"course-batch-{uuid.uuid4().hex[:8]}"
    opened = ElasticsearchSearch(request.getfixturevalue(request.param).address, index)
    assert opened.create()
    yield opened
    opened._client.indices.delete(index=index)
    opened.close()


def ids(found: Any) -> list[str]:
    return sorted(document.id for document in found)


def test_an_index_is_created_once(search: Search) -> None:
    assert not search.create()
    search.check()


def test_every_batch_of_a_user_is_found_however_many(search: Search) -> None:
    rows = [batch(number, mentors=[SOURCE] if number % 3 == 0 else None) for number in range(2_345)]
    search.insert(document(row) for row in rows)
    assert ids(search.owned_by(SOURCE)) == [row["batchid"] for row in rows]


def test_a_user_is_found_as_creator_and_as_one_of_the_mentors(search: Search) -> None:
    rows = [batch(1), batch(2, createdby=OTHER, mentors=[TARGET, SOURCE]), batch(3, createdby=OTHER)]
    search.insert(map(document, rows))
    assert ids(search.owned_by(SOURCE)) == ["Batch-00001", "Batch-00002"]


def test_capitals_are_found_and_told_apart(search: Search) -> None:
    search.insert(
        [document(batch(1)), document(batch(2, createdby=SOURCE.lower())), document(batch(3, createdby="İd-ß"))]
    )
    assert ids(search.owned_by(SOURCE)) == ["Batch-00001"]
    assert ids(search.owned_by(SOURCE.upper())) == []
    assert ids(search.owned_by("İd-ß")) == ["Batch-00003"]


def test_batches_whose_ids_differ_only_in_case_are_all_found(search: Search) -> None:
    """Across a page's end, too: in the order of the index they tie."""
    names = [f"b{number:04}" for number in range(600)] + [f"B{number:04}" for number in range(600)]
    search.insert(document(batch(1, batchid=name)) for name in names)
    assert ids(search.owned_by(SOURCE)) == sorted(names)


def test_only_the_statuses_asked_for_are_found(search: Search) -> None:
    search.insert(document(batch(number, status=number)) for number in range(3))
    assert ids(search.owned_by(SOURCE, (0, 1))) == ["Batch-00000", "Batch-00001"]
    assert ids(search.owned_by(SOURCE, (2,))) == ["Batch-00002"]


def test_an_id_is_no_query(search: Search) -> None:
    odd = 'a b "c" OR * (d) /e/ \\ é'
    search.insert([document(batch(1, createdby=odd)), document(batch(2))])
    assert ids(search.owned_by(odd)) == ["Batch-00001"]
    assert ids(search.owned_by("*")) == []


def test_fields_are_put_in_and_the_others_stay(search: Search) -> None:
    search.insert([document(batch(1))])
    [read] = search.read(["Batch-00001"]).values()
    assert search.update([Update(read, {"createdBy": TARGET, "mentors": [TARGET, OTHER]})]) == {"Batch-00001"}
    [now] = search.read(["Batch-00001"]).values()
    assert now.fields == {**read.fields, "createdBy": TARGET, "mentors": [TARGET, OTHER]}
    assert now.version != read.version


def test_mentors_can_be_taken_away(search: Search) -> None:
    search.insert([document(batch(1))])
    [read] = search.read(["Batch-00001"]).values()
    search.update([Update(read, {"createdBy": TARGET, "mentors": []})])
    [now] = search.read(["Batch-00001"]).values()
    assert now.fields.get("mentors") in (None, [])


def test_a_document_that_was_changed_meanwhile_is_left_alone(search: Search) -> None:
    search.insert([document(batch(1)), document(batch(2))])
    read = search.read(["Batch-00001", "Batch-00002"])
    search.insert([document(batch(1, name="another"))])
    updates = [Update(one, {"createdBy": TARGET}) for one in read.values()]
    assert search.update(updates) == {"Batch-00002"}
    assert search.read(["Batch-00001"])["Batch-00001"].fields["createdBy"] == SOURCE
    assert search.read(["Batch-00001"])["Batch-00001"].fields["name"] == "another"


def test_a_document_that_is_gone_is_not_created(search: Search) -> None:
    search.insert([document(batch(1))])
    read = search.read(["Batch-00001"])
    search.remove(["Batch-00001"])
    assert search.update([Update(read["Batch-00001"], {"createdBy": TARGET})]) == frozenset()
    assert search.read(["Batch-00001"]) == {}
    assert list(search.owned_by(TARGET)) == []


def test_everything_can_be_gone_through(search: Search) -> None:
    search.insert(document(batch(number, createdby=OTHER)) for number in range(1_234))
    assert len(ids(search.scan())) == 1_234


def test_what_was_written_just_now_is_found(search: Search) -> None:
    search.insert([document(batch(1))])
    [read] = search.read(["Batch-00001"]).values()
    search.update([Update(read, {"createdBy": TARGET})])
    assert ids(search.owned_by(TARGET)) == ["Batch-00001"]
    assert ids(search.owned_by(SOURCE)) == []


@pytest.mark.parametrize(
    ("status", "body", "kind", "reason"),
    [
        (429, {"error": {"type": "circuit_breaking_exception", "reason": "too large"}}, Overloaded, "429 too large"),
        (503, {"error": {"type": "no_shard_available_action_exception", "reason": ""}}, Unreachable, "503"),
        (403, {"error": {"type": "cluster_block_exception", "reason": "read-only"}}, Overloaded, "is read-only"),
        (400, {"error": {"type": "index_closed_exception", "reason": "closed"}}, Transient, "closed"),
        (403, {"error": {"type": "security_exception", "reason": "no"}}, Refused, "does not let us"),
        (404, {"error": {"type": "index_not_found_exception", "reason": "no"}}, Refused, "lern migrate --create-index"),
    ],
)
def test_what_elasticsearch_refuses_is_named(status: int, body: object, kind: type[LernError], reason: str) -> None:
    with answering(status, body) as search, pytest.raises(kind, match=reason):
        list(search.owned_by(SOURCE))


@pytest.mark.parametrize(
    ("problem", "status", "kind"),
    [
        ("illegal_index_shard_state_exception", 404, Unreachable),
        ("no_shard_available_action_exception", 503, Unreachable),
        ("es_rejected_execution_exception", 429, Overloaded),
        ("index_not_found_exception", 404, Refused),
        ("mapper_exception", 500, Transient),
    ],
)
def test_of_single_documents_a_server_that_is_coming_back_is_told_from_one_that_fails(
    problem: str, status: int, kind: type[LernError]
) -> None:
    """It reads some and not others, and says no status; of those to be written, perhaps 404 as of one that is gone."""
    error = {"type": problem, "reason": "CurrentState[RECOVERING]"}
    with answering(200, {"docs": [{"_id": "Batch-00001", "error": error}]}) as search, pytest.raises(kind):
        search.read(["Batch-00001"])
    update = {"_id": "Batch-00001", "status": status, "error": error}
    with answering(200, {"errors": True, "items": [{"update": update}]}) as search, pytest.raises(kind):
        search.update([Update(Document("Batch-00001", {}, (1, 1)), {"createdBy": TARGET})])


@contextmanager
def answering(status: int, body: object) -> Iterator[ElasticsearchSearch]:
    """Give the index of a server that says the same to everything."""
    answer = (status, "application/vnd.elasticsearch+json;compatible-with=8", json.dumps(body).encode())
    with sunbird(lambda _path, _: answer, {"x-elastic-product": "Elasticsearch"}) as server:
        search = ElasticsearchSearch(server.url)
        yield search
        search.close()
