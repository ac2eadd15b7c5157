"""Worlds to transfer batches in: everything embedded, and real Cassandra with real Elasticsearch."""

import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from lern.search import Search
from lern.search.elasticsearch import ElasticsearchSearch
from lern.store.base import Store
from lern.store.cassandra import CassandraStore
from lern.store.tables import COURSE_BATCH
from tests.acceptance.place import Place
from tests.batches import World
from tests.servers.redis import RedisServer
from tests.servers.server import Server

INDEX = "course-batch"

MakeWorld = Callable[..., World]


@dataclass(frozen=True)
class Servers:
    """Cassandra with a keyspace of our own, and Elasticsearch."""

    cassandra: Server
    elasticsearch: Server
    keyspace: str

    @property
    def settings(self) -> Mapping[str, str]:
        """Give the settings that name them."""
        store = f"cassandra://{self.cassandra.address}/{self.keyspace}"
        return {"STORE_URL": store, "SEARCH_URL": self.elasticsearch.address}


@pytest.fixture(scope="package")
def keyspace(cassandra_server: Server) -> str:
    """A keyspace with the learner tables. Creating them takes longer than most tests."""
    name = f"ownership_{uuid.uuid4().hex[:12]}"
    cassandra_server.start()
    store = CassandraStore(f"cassandra://{cassandra_server.address}/{name}")
    store.create()
    store.close()
    return name


@pytest.fixture
def servers(cassandra: Server, elasticsearch: Server, keyspace: str) -> Servers:
    """Both servers, running."""
    return Servers(cassandra, elasticsearch, keyspace)


@pytest.fixture
def make_world(tmp_path: Path, own_redis: RedisServer) -> Iterator[MakeWorld]:
    """Makes a world with the settings given; what it leaves in servers goes with it."""
    made: list[tuple[World, Store, Search]] = []

    def make(**settings: str) -> World:
        place = Place.at(tmp_path / str(len(made)), own_redis.url, **settings)
        place.services.ledger.migrate()
        if "STORE_URL" not in settings:
            place.services.store.create()
        world = World(place)
        # As they are now: tests put others in their places.
        made.append((world, world.services.store, world.search))
        world.search.create()
        return world

    yield make
    for world, store, search in made:
        _empty(store, search)
        world.place.close()


@pytest.fixture(params=["embedded", "servers"])
def world(request: pytest.FixtureRequest, make_world: MakeWorld) -> World:
    """An empty world, of either kind."""
    if request.param == "embedded":
        return make_world()
    return make_world(**request.getfixturevalue("servers").settings)


@pytest.fixture
def server_world(make_world: MakeWorld, servers: Servers) -> World:
    """An empty world with servers."""
    return make_world(**servers.settings)


def _empty(store: Store, search: Search) -> None:
    if isinstance(store, CassandraStore):
        connected = store._sessions.connected()
        connected.execute(f"TRUNCATE {connected.place.keyspace}.{COURSE_BATCH.name}")
    if isinstance(search, ElasticsearchSearch):
        search._client.indices.delete(index=INDEX, ignore_unavailable=True)
        search.close()
