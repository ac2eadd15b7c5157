"""The documents in Elasticsearch. The contract is in `lern.search.base`.

The client is of major version 8 and speaks with servers of 7.17 as well: tested with 7.17.15 and 8.14.1.
"""

import json
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.resources import files
from itertools import islice
from pathlib import Path
from typing import Any, Final

import elasticsearch as client
from elasticsearch import ApiError, Elasticsearch, TransportError

from lern.errors import LernError, Overloaded, Refused, Transient, Unreachable
from lern.rules.ownership import document_roles
from lern.search.base import FIELDS, Document, Fields, Update
from lern.urls import redacted

MAPPING: Final = "course_batch.json"

# Documents of one page, and of one bulk of writes.
_PAGE: Final = 1000
_BULK: Final = 200
# What of a document names users.
_NAMING: Final = ("createdBy", "mentors")
_ACCEPT: Final = {"accept": "application/json"}
_KEEP_ALIVE: Final = "5m"
_TIMEOUT: Final = 30.0

_NOT_FOUND, _CONFLICT, _TOO_MANY = 404, 409, 429
# The server is there, but cannot do its work at the moment: no master, a shard that moves, a proxy without it.
_AWAY: Final = frozenset({502, 503, 504})
# What it says of single documents instead, with another status or none, while a node of it comes or goes.
_COMING: Final = frozenset(
    {
        "illegal_index_shard_state_exception",
        "index_shard_closed_exception",
        "index_shard_not_started_exception",
        "index_shard_recovering_exception",
        "master_not_discovered_exception",
        "no_shard_available_action_exception",
        "node_closed_exception",
        "node_disconnected_exception",
        "node_not_connected_exception",
        "process_cluster_event_timeout_exception",
        "shard_not_found_exception",
        "unavailable_shards_exception",
    }
)
_FULL: Final = frozenset({"circuit_breaking_exception", "es_rejected_execution_exception"})
_NO_INDEX: Final = "index_not_found_exception"
# A disk that is nearly full makes indices read-only (429); they become writable by themselves when there is room.
# So may an administrator, for as long as that takes (403).
_BLOCKED: Final = "cluster_block_exception"


def trust(ca: Path | None) -> dict[str, Any]:
    """Give what a client is told of whose signature to trust; None: the public authorities'."""
    return {} if ca is None else {"ca_certs": str(ca)}


def why(error: TransportError) -> str:
    """Say why a server was not reached; "TLS error" alone tells nobody whose certificate is not trusted."""
    text = str(error)
    return text if error.message in text else f"{text}: {error.message}"


class ElasticsearchSearch:
    """The index `course-batch` of one cluster. Nothing is connected before the first use."""

    own = True

    def __init__(self, url: str, index: str = "course-batch", ca: Path | None = None) -> None:
        """Remember where the index is. `url` may carry user and password; `ca`: who has signed the certificate."""
        self._url, self._index, self._ca = url, index, ca
        self._by_process: dict[int, Elasticsearch] = {}

    def create(self) -> bool:
        """Create the index as Sunbird's own migrations do."""
        body = json.loads(files("lern.search").joinpath(MAPPING).read_text(encoding="utf-8"))
        with self._translated():
            try:
                self._client.indices.create(index=self._index, settings=body["settings"], mappings=body["mappings"])
            except ApiError:
                # An alias of this name is as good as an index.
                if not self._client.indices.exists(index=self._index):
                    raise
            else:
                return True
        self.check()
        return False

    def check(self) -> None:
        """Ask for the fields that are searched, which needs no permission but to read."""
        with self._translated():
            # The client's own method puts the fields where 7.17 does not look for them.
            path, fields = f"/{self._index}/_field_caps", ",".join(f"{field}.raw" for field in _NAMING)
            answer = self._client.perform_request("GET", path, params={"fields": fields}, headers=_ACCEPT)
        if len(answer["indices"]) != 1:
            indices = ", ".join(answer["indices"])
            raise Refused(f"search: {self._index} stands for several indices ({indices}), and none can be written to")
        if unmapped := [field for field in _NAMING if f"{field}.raw" not in answer["fields"]]:
            raise Refused(
                f"search: index {self._index} has not Sunbird's mapping ({' and '.join(unmapped)} cannot be searched "
                "for), like one that was deleted and came back by a write: delete it, create it with "
                "`lern migrate --create-index`, and have lms-service index the batches again"
            )

    def owned_by(self, user: str, statuses: Collection[int] | None = None) -> Iterator[Document]:
        """Find them page by page, as they stood at one moment."""
        # By `match` and not `term`: the server then brings the id into the form of the index, which ignores case.
        either = [{"match": {f"{field}.raw": {"query": user}}} for field in _NAMING]
        query: dict[str, Any] = {"bool": {"should": either, "minimum_should_match": 1}}
        if statuses is not None:
            query["bool"]["filter"] = [{"terms": {"status": sorted(statuses)}}]
        return (document for document in self._found(query) if document_roles(document.fields, user))

    def read(self, ids: Collection[str]) -> dict[str, Document]:
        """Read documents from the shards, not from what was made searchable."""
        remaining = iter(ids)
        result: dict[str, Document] = {}
        while page := list(islice(remaining, _PAGE)):
            with self._translated():
                answer = self._client.mget(index=self._index, ids=page, source_includes=FIELDS)
            for found in answer["docs"]:
                if "error" in found:
                    raise self._meaning(found.get("status", 0), found["error"])
                if found["found"]:
                    result[found["_id"]] = _document(found)
        return result

    def update(self, updates: Sequence[Update]) -> frozenset[str]:
        """Write partial updates, each under the version that was read."""
        written: set[str] = set()
        for start in range(0, len(updates), _BULK):
            operations: list[Mapping[str, Any]] = []
            for update in updates[start : start + _BULK]:
                number, term = update.document.version
                place = {"_id": update.document.id, "if_seq_no": number, "if_primary_term": term}
                operations += [{"update": place}, {"doc": update.fields}]
            with self._translated():
                answer = self._client.bulk(index=self._index, operations=operations)
            items = [item["update"] for item in answer["items"]]
            written.update(self._written(items))
            if any(item["status"] == _NOT_FOUND for item in items):
                # Documents that stood a moment ago. Were they deleted, or was the index? To one that is gone, this
                # very call has brought another into being, of no use to anybody: the server leaves us no way not to.
                self.check()
        return frozenset(written)

    def scan(self) -> Iterator[Document]:
        """Read every document."""
        return self._found({"match_all": {}})

    def insert(self, documents: Iterable[Fields]) -> None:
        """Index documents as lms-service does, whole."""
        self._refreshed(({"index": {"_id": fields["batchId"]}}, fields) for fields in documents)

    def remove(self, ids: Collection[str]) -> None:
        """Delete documents."""
        self._refreshed(({"delete": {"_id": one}},) for one in ids)

    def close(self) -> None:
        """Close this process's connections."""
        opened = self._by_process.pop(os.getpid(), None)
        if opened is not None:
            opened.close()

    @property
    def _client(self) -> Elasticsearch:
        """This process's client: sockets do not cross a fork."""
        pid = os.getpid()
        if pid not in self._by_process:
            # Neither does the client repeat a call (the step does, after a look at what stands there), nor does it
            # put a node aside: a server that has come back is to be used at once.
            self._by_process[pid] = Elasticsearch(
                self._url,
                request_timeout=_TIMEOUT,
                **trust(self._ca),
                max_retries=0,
                retry_on_timeout=False,
                dead_node_backoff_factor=0,
                http_compress=True,
            )
        return self._by_process[pid]

    def _found(self, query: Mapping[str, Any]) -> Iterator[Document]:
        """Page through a query's answer. A point in time keeps out what changes meanwhile, and breaks ties."""
        with self._translated():
            self._client.indices.refresh(index=self._index)
            point = self._client.open_point_in_time(index=self._index, keep_alive=_KEEP_ALIVE)["id"]
        try:
            after: list[Any] | None = None
            while True:
                with self._translated():
                    answer = self._client.search(
                        pit={"id": point, "keep_alive": _KEEP_ALIVE},
                        query=query,
                        sort=[{"batchId.raw": {"order": "asc", "unmapped_type": "keyword"}}],
                        search_after=after,
                        size=_PAGE,
                        source_includes=FIELDS,
                        seq_no_primary_term=True,
                        track_total_hits=False,
                        allow_partial_search_results=False,
                    )
                hits = answer["hits"]["hits"]
                yield from map(_document, hits)
                if len(hits) < _PAGE:
                    return
                after, point = hits[-1]["sort"], answer["pit_id"]
        finally:
            self._close_point(point)

    def _close_point(self, point: str) -> None:
        try:
            self._client.close_point_in_time(id=point)
        except (ApiError, TransportError):
            # It ends by itself; what went wrong before is of more interest.
            return

    def _written(self, items: Iterable[Mapping[str, Any]]) -> Iterator[str]:
        for item in items:
            status = item["status"]
            # Of the document; a shard that is not there answers with that status as well.
            if status in {_CONFLICT, _NOT_FOUND} and item["error"]["type"] not in {_NO_INDEX, *_COMING}:
                continue
            if "error" in item:
                raise self._meaning(status, item["error"])
            yield item["_id"]

    def _refreshed(self, operations: Iterable[tuple[Mapping[str, Any], ...]]) -> None:
        remaining = iter(operations)
        while page := list(islice(remaining, _PAGE)):
            with self._translated():
                answer = self._client.bulk(
                    index=self._index, operations=[part for operation in page for part in operation], refresh=True
                )
            for item in answer["items"]:
                for outcome in item.values():
                    if "error" in outcome:
                        raise self._meaning(outcome["status"], outcome["error"])

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (client.ConnectionError, client.ConnectionTimeout) as error:
            raise Unreachable("search", redacted(why(error))) from error
        except ApiError as error:
            body = error.body if isinstance(error.body, dict) else {}
            raise self._meaning(error.status_code, body.get("error") or error.message) from error
        except TransportError as error:
            raise Transient(f"search: {redacted(str(error))}") from error

    def _meaning(self, status: int, problem: Any) -> LernError:
        """Say what a refusal of the server means."""
        kind, reason = _kind_and_reason(problem)
        if kind == _NO_INDEX:
            return Refused(f"search has no index {self._index}: `lern migrate --create-index` creates it")
        if kind == _BLOCKED:
            return Overloaded("search", f"{self._index} is read-only ({reason})")
        if status == _TOO_MANY or kind in _FULL:
            return Overloaded("search", f"{status or kind} {reason}")
        if status in _AWAY or kind in _COMING:
            return Unreachable("search", f"{status or kind} {reason}")
        if status in {401, 403}:
            return Refused(f"search does not let us ({status}): {reason}")
        return Transient(f"search: {status} {kind} {reason}".rstrip())


def _kind_and_reason(problem: Any) -> tuple[str, str]:
    if isinstance(problem, dict):
        causes = problem.get("root_cause") or [problem]
        return str(causes[0].get("type", problem.get("type"))), str(causes[0].get("reason", problem.get("reason")))
    return str(problem), ""


def _document(found: Mapping[str, Any]) -> Document:
    return Document(found["_id"], dict(found.get("_source") or {}), (found["_seq_no"], found["_primary_term"]))
