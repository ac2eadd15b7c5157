"""Cassandra: one node, 5.0.5 unless `LERN_TEST_CASSANDRA_VERSION` names another. 4.1.9 works as well."""

import socket
import struct
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar, Final

import pytest
from cassandra.cluster import Cluster, NoHostAvailable, Session
from cassandra.policies import ConstantReconnectionPolicy

from lern.store.cassandra import CassandraStore
from lern.store.tables import TABLES
from tests.servers.given import given
from tests.servers.jars import fetched, filled, jar
from tests.servers.server import HOST, JavaServer, Server, running

VERSION: Final = "5.0.5"

# What Cassandra's own start script opens to it of the JDK.
_EXPORTS: Final = (
    "java.base/java.lang.ref",
    "java.base/jdk.internal.misc",
    "java.management.rmi/com.sun.jmx.remote.internal.rmi",
    "java.rmi/sun.rmi.registry",
    "java.rmi/sun.rmi.server",
    "java.sql/java.sql",
    "jdk.attach/sun.tools.attach",
    "jdk.compiler/com.sun.tools.javac.file",
    "jdk.unsupported/sun.misc",
)
_OPENS: Final = (
    "java.base/java.io",
    "java.base/java.lang",
    "java.base/java.lang.module",
    "java.base/java.lang.reflect",
    "java.base/java.nio",
    "java.base/java.util",
    "java.base/java.util.concurrent",
    "java.base/java.util.concurrent.atomic",
    "java.base/jdk.internal.loader",
    "java.base/jdk.internal.math",
    "java.base/jdk.internal.module",
    "java.base/jdk.internal.ref",
    "java.base/jdk.internal.reflect",
    "java.base/jdk.internal.util.jar",
    "java.base/sun.nio.ch",
    "jdk.compiler/com.sun.tools.javac",
    "jdk.management/com.sun.management.internal",
)

# Of the native protocol: a request's header, and the two operations of the handshake that need no session.
_HEADER: Final = struct.Struct(">BBhBi")
_OPTIONS, _SUPPORTED = 5, 6


# Tests kill the server and count the rows afterwards: what was acknowledged must be on disk. In Cassandra's own
# default, periodic, it is acknowledged first: a cluster has it on its other nodes, but one node loses it.
DURABLE: Final = "commitlog_sync: batch"
PERIODIC: Final = "commitlog_sync: periodic\ncommitlog_sync_period: 1000ms"


# The role that Cassandra itself begins with, and its password.
SUPERUSER: Final = "cassandra"

# What was just granted counts at once.
_GUARD: Final = """
authenticator: PasswordAuthenticator
authorizer: CassandraAuthorizer
role_manager: CassandraRoleManager
permissions_validity: 0ms
roles_validity: 0ms
credentials_validity: 0ms
"""


class Cassandra(JavaServer):
    """A node. `address` is host:port of the native protocol; the data centre is datacenter1.

    `sync`: when a write is acknowledged, DURABLE unless PERIODIC is chosen (before the start), as for a bench.
    """

    name = "cassandra"
    heap = "512m"
    other_ports: ClassVar[tuple[str, ...]] = ("STORAGE_PORT", "SSL_STORAGE_PORT")
    sync = DURABLE

    def arguments(self) -> list[str]:
        """Write the configuration."""
        lib = fetched("cassandra", VERSION=given("CASSANDRA_VERSION") or VERSION)
        yaml, logback = self.home / "cassandra.yaml", self.home / "logback.xml"
        yaml.write_text(filled("cassandra.yaml", COMMITLOG_SYNC=self.sync, DATA=self.data, **self.ports))
        logback.write_text(filled("cassandra-logback.xml", LOG=self.home / "server.log"))
        return [
            "-Xss512k",
            "-XX:MaxDirectMemorySize=256m",
            *(word for name in _EXPORTS for word in ("--add-exports", f"{name}=ALL-UNNAMED")),
            *(word for name in _OPENS for word in ("--add-opens", f"{name}=ALL-UNNAMED")),
            f"-javaagent:{jar(lib, 'jamm')}",
            "-Djdk.attach.allowAttachSelf=true",
            "-Dio.netty.tryReflectionSetAccessible=true",
            f"-Djna.tmpdir={self.home}",
            f"-Djava.io.tmpdir={self.home}",
            f"-Dlogback.configurationFile={logback}",
            f"-Dcassandra.config=file://{yaml}",
            f"-Dcassandra.storagedir={self.data}",
            f"-Dcassandra.logdir={self.home}",
            "-Dcassandra-foreground=yes",
            # There is no other node to wait for, at start or end.
            "-Dcassandra.skip_wait_for_gossip_to_settle=0",
            "-Dcassandra.ring_delay_ms=0",
            "-Dcassandra.shutdown_announce_in_ms=0",
            "-cp",
            f"{lib}/*",
            "org.apache.cassandra.service.CassandraDaemon",
        ]

    def answers(self) -> bool:
        """Tell whether the node says which protocols it speaks."""
        try:
            with socket.create_connection((HOST, self.port), timeout=2) as connection:
                connection.sendall(_HEADER.pack(4, 0, 0, _OPTIONS, 0))
                answer = connection.recv(_HEADER.size, socket.MSG_WAITALL)
        except OSError:
            return False
        return len(answer) == _HEADER.size and _HEADER.unpack(answer)[3] == _SUPPORTED


class GuardedCassandra(Cassandra):
    """A node that lets in only whom it knows, and asks its roles for their permissions; at first SUPERUSER alone."""

    name = "guarded_cassandra"
    heap = "320m"

    def arguments(self) -> list[str]:
        """Write the configuration."""
        arguments = super().arguments()
        yaml = self.home / "cassandra.yaml"
        yaml.write_text(yaml.read_text() + _GUARD)
        # It has nobody to wait for: there is no other node that may have the role already.
        return ["-Dcassandra.superuser_setup_delay_ms=0", *arguments]


@pytest.fixture
def guarded_cassandra(tmp_path: Path) -> Iterator[Server]:
    """A Cassandra of the test's own that asks for a login. It takes half a minute: one test has it."""
    with running(GuardedCassandra, tmp_path / "cassandra") as server:
        yield server


@pytest.fixture(scope="session")
def cassandra_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The one Cassandra of this test run. Tests take `cassandra`, which makes sure that it runs."""
    with running(Cassandra, tmp_path_factory.mktemp("cassandra")) as server:
        yield server


@pytest.fixture
def cassandra(cassandra_server: Server) -> Iterator[Server]:
    """Cassandra, running; a test may stop, kill and start it."""
    yield cassandra_server
    cassandra_server.start()


@pytest.fixture(scope="session")
def _keyspace(cassandra_server: Server) -> Iterator[tuple[str, Session]]:
    """A keyspace with the learner tables, for as long as the tests run."""
    name = f"lern_{uuid.uuid4().hex[:8]}"
    url = f"cassandra://{cassandra_server.address}/{name}"
    store = CassandraStore(url)
    store.create()
    store.close()
    host, _, port = cassandra_server.address.rpartition(":")
    with Cluster([host], port=int(port), reconnection_policy=ConstantReconnectionPolicy(0.2, None)) as cluster:
        session = cluster.connect(name)
        yield url, session
        _execute(session, f"DROP KEYSPACE {name}")


@pytest.fixture
def cassandra_url(_keyspace: tuple[str, Session], cassandra: Server) -> str:
    """The URL of a store in Cassandra, whose tables are empty."""
    del cassandra  # only to have it running
    url, session = _keyspace
    for table in TABLES.values():
        # Only a key: of a row that a test has made unreadable for the driver, too.
        if _execute(session, f"SELECT {table.key[0]} FROM {table.name} LIMIT 1"):  # noqa: S608 - our own tables
            _execute(session, f"TRUNCATE {table.name}")
    return url


def _execute(session: Session, cql: str) -> list[object]:
    """Run a statement as soon as the session has noticed that the server runs again."""
    deadline = time.monotonic() + 60
    while True:
        try:
            return list(session.execute(cql, timeout=60))
        except NoHostAvailable:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


@pytest.fixture
def cassandra_session(_keyspace: tuple[str, Session], cassandra_url: str) -> Session:
    """A session in that keyspace, as another service would have it."""
    del cassandra_url  # only to have it empty
    return _keyspace[1]
