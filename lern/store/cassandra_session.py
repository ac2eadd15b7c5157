"""The connection to Cassandra: one session per process, prepared statements."""

import os
import socket
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from cassandra import ConsistencyLevel, ProtocolVersion
from cassandra.auth import PlainTextAuthProvider
from cassandra.cluster import EXEC_PROFILE_DEFAULT, Cluster, ExecutionProfile
from cassandra.connection import DefaultEndPoint
from cassandra.policies import (
    ConstantReconnectionPolicy,
    DCAwareRoundRobinPolicy,
    FallthroughRetryPolicy,
    HostDistance,
    RetryPolicy,
    TokenAwarePolicy,
)
from cassandra.query import BoundStatement

from lern.errors import LernError, Unreachable
from lern.store.cassandra_codec import Cell, Codec
from lern.store.cassandra_errors import translated
from lern.store.cassandra_layout import find
from lern.store.cassandra_place import Place
from lern.store.cassandra_protocol import Mutation, Protocol, write
from lern.store.cassandra_statements import Statements
from lern.store.tables import Key, Table

# What may be on its way at once. More would only queue in the driver, whose connection refuses what it cannot send.
MOST_REQUESTS: Final = 32
MOST_BYTES: Final = 4 * 1024 * 1024

# Rows of one page: a read of any length is held in memory a page at a time. A chunk's rows (1,000) are less than one:
# after a full page the next is asked for, and be it empty.
PAGE: Final = 1_250

# How often (s) a lost node is tried again. The driver's own default waits up to ten minutes.
_RECONNECT: Final = 1.0
_HEARTBEAT: Final = 10

_READ: Final = EXEC_PROFILE_DEFAULT
_WRITE: Final = "write"


@dataclass(frozen=True, slots=True)
class Request:
    """A statement to be sent, and about how many bytes it is."""

    statement: BoundStatement | Mutation
    size: int


@dataclass(frozen=True)
class Shape:
    """One table in one session: how its rows are encoded, and its statements."""

    codec: Codec
    statements: Statements
    partition: tuple[int, ...]
    """Where in the primary key the columns of the partition key are."""

    def is_void(self, slice_: Key) -> bool:
        """Whether no row can stand in a slice: Cassandra has no partition whose key is empty."""
        # A slice names the whole partition key and begins the primary key (`Table.slice`).
        return len(self.partition) == 1 and not slice_[self.partition[0]]


class Sparse:
    """Slices that hold much more than is asked for at a time: not to be read as ranges. A bounded memory."""

    _MOST: Final = 1000

    def __init__(self) -> None:
        """Know of none."""
        self._known: set[tuple[Table, Key]] = set()

    def add(self, place: tuple[Table, Key]) -> None:
        """Remember a slice."""
        if len(self._known) >= self._MOST:
            self._known.clear()
        self._known.add(place)

    def __contains__(self, place: object) -> bool:
        return place in self._known


class Sessions:
    """Gives each process a session of its own, opened at its first use.

    Connections do not cross a fork: the driver's threads stay behind, and what a child wrote would go into the
    parent's conversation. A child keeps the parent's session untouched, as closing it would end it for both.
    """

    def __init__(self, place: Place, names: Mapping[str, str]) -> None:
        """Remember where the cluster is. Nothing is opened yet."""
        self.place = place
        self.names = names
        self._by_process: dict[int, Connected] = {}

    def connected(self) -> "Connected":
        """Give this process's session. Raises `Unreachable` when no node answers."""
        pid = os.getpid()
        session = self._by_process.get(pid)
        if session is None:
            opened = Connected(self.place, self.names)
            # Two threads may both have opened one: the first to be kept is used by both.
            session = self._by_process.setdefault(pid, opened)
            if session is not opened:
                opened.close()
        return session

    def close(self) -> None:
        """Close this process's connections."""
        session = self._by_process.pop(os.getpid(), None)
        if session is not None:
            session.close()


@dataclass(frozen=True)
class Node:
    """One node of the cluster: where it is, its version, and how far its clock is ahead of ours (seconds).

    `ahead`: None for a node that does not answer.
    """

    address: str
    version: str
    ahead: float | None


_NODE: Final = "SELECT release_version, toUnixTimestamp(now()) AS time FROM system.local"


class Connected:
    """A session of the driver, with the statements that were prepared in it."""

    def __init__(self, place: Place, names: Mapping[str, str]) -> None:
        """Connect. Raises `Unreachable` when no node answers."""
        self.place = place
        self._names = names
        self._prepared: dict[str, Any] = {}
        # The driver forgets a statement that nobody holds; a write that is on its way holds but its id.
        self._held: dict[bytes, Any] = {}
        self._shapes: dict[Table, Shape] = {}
        self.sparse = Sparse()
        self.cluster = _cluster(place)
        try:
            with translated(self.cluster, writing=False):
                self.session = self.cluster.connect()
        except BaseException as error:
            centres = self.centres
            self.cluster.shutdown()
            if isinstance(error, Unreachable) and centres and place.dc not in {None, *centres}:
                # The driver only says that it has nobody to connect to.
                raise Unreachable(
                    "store", f"there is no data centre {place.dc!r}; the cluster has {', '.join(centres)}"
                ) from error
            raise
        self.session.client_protocol_handler = Protocol
        self.session.default_fetch_size = PAGE

    @property
    def keyspace(self) -> Any:
        """The driver's metadata of the keyspace; None if there is none."""
        return self.cluster.metadata.keyspaces.get(self.place.keyspace)

    @property
    def centres(self) -> list[str]:
        """The names of the cluster's data centres."""
        return sorted({host.datacenter for host in self.cluster.metadata.all_hosts() if host.datacenter})

    @property
    def version(self) -> tuple[int, ...]:
        """The lowest version of the cluster's nodes, (5, 0) for 5.0.5."""
        versions = [host.release_version for host in self.cluster.metadata.all_hosts() if host.release_version]
        return min((tuple(int(part) for part in version.split(".")[:2]) for version in versions), default=(0, 0))

    def shape(self, table: Table) -> Shape:
        """Give the table as it stands here. Raises `Refused` if we cannot work with it.

        Migrations run beside us: what they add to a table must not be lost with the rows that we move. The driver
        is told of it by the server, so that looking costs nothing.
        """
        shape = self._shapes.get(table)
        keyspace = self.keyspace
        if shape is None or keyspace is None or not shape.codec.found.is_current(keyspace):
            found = find(keyspace, table, self._names.get(table.name, table.name))
            # What was prepared before would give results as they were then.
            self._prepared.clear()
            codec = Codec(table, found)
            partition = tuple(table.key.index(column) for column in found.layout.partition)
            statements = Statements(self.place.keyspace, table, found, codec.order)
            shape = self._shapes[table] = Shape(codec, statements, partition)
        return shape

    def bound(self, cql: str, cells: Sequence[Cell]) -> BoundStatement:
        """Give a prepared statement with its encoded values."""
        template = self._template(cql)
        # A copy of one that was made properly: making one takes longer than encoding its values.
        statement = BoundStatement.__new__(BoundStatement)
        statement.__dict__.update(template.__dict__)
        statement.values = cells
        return statement

    def beginning(self, cql: str, cells: int) -> bytes:
        """Give what a prepared write with so many cells begins with in a `Mutation`."""
        return write(self._template(cql).prepared_statement.query_id, cells)

    def _template(self, cql: str) -> BoundStatement:
        template = self._prepared.get(cql)
        if template is None:
            with translated(self.cluster, writing=False):
                template = self._prepared[cql] = BoundStatement(self.session.prepare(cql))
            self._held[template.prepared_statement.query_id] = template.prepared_statement
        return template

    def read(self, statement: BoundStatement) -> Any:
        """Run one read. Gives the driver's result."""
        with translated(self.cluster, writing=False):
            future = self.session.execute_async(statement)
        return _result_of(future, writing=False)

    def reads(self, requests: Iterable[Request]) -> Iterator[Any]:
        """Run reads side by side, the first of which are on their way when this returns.

        Gives the driver's results, in the order of the requests.
        """
        return self._results(requests, _READ, lambda: None, writing=False)

    def write(self, requests: Iterable[Request], guard: Callable[[], None]) -> None:
        """Run writes side by side, and return when all are confirmed. `guard` is called before each."""
        for _ in self._results(requests, _WRITE, guard, writing=True):
            pass

    def swaps(self, requests: Iterable[Request], guard: Callable[[], None]) -> Iterator[bool]:
        """Run conditional writes side by side; tell of each, in order, whether its condition was met."""
        for result in self._results(requests, _WRITE, guard, writing=True):
            yield bool(result.current_rows[0][0])

    def execute(self, cql: str) -> None:
        """Run a statement that changes the schema."""
        with translated(self.cluster, writing=True):
            self.session.execute(cql, timeout=60)

    def nodes(self) -> list[Node]:
        """Ask every node for its version and its time: those of our data centre, as others are not connected to."""
        with translated(self.cluster, writing=False):
            # All have answered then, or have not in the time that they had.
            session = self.cluster.connect(wait_for_all_pools=True)
        try:
            ours = self.cluster.profile_manager
            hosts = [h for h in self.cluster.metadata.all_hosts() if ours.distance(h) != HostDistance.IGNORED]
            return [_node(session, host) for host in sorted(hosts, key=lambda host: str(host.endpoint))]
        finally:
            session.shutdown()

    def close(self) -> None:
        """Close the connections."""
        self.cluster.shutdown()

    def _results(
        self, requests: Iterable[Request], profile: object, guard: Callable[[], None], *, writing: bool
    ) -> Iterator[Any]:
        results = self._in_order(requests, profile, guard, writing=writing)
        next(results)
        return results

    def _in_order(
        self, requests: Iterable[Request], profile: object, guard: Callable[[], None], *, writing: bool
    ) -> Iterator[Any]:
        """Give None once as many are on their way as may be, then the results."""
        waiting: deque[tuple[Any, int]] = deque()
        size = 0
        is_begun = False
        try:
            for request in requests:
                while waiting and (len(waiting) >= MOST_REQUESTS or size + request.size > MOST_BYTES):
                    if not is_begun:
                        is_begun = True
                        yield None
                    future, done = waiting.popleft()
                    size -= done
                    yield _result_of(future, writing=writing)
                guard()
                with translated(self.cluster, writing=writing):
                    waiting.append(
                        (self.session.execute_async(request.statement, execution_profile=profile), request.size)
                    )
                size += request.size
            if not is_begun:
                yield None
            while waiting:
                future, _ = waiting.popleft()
                yield _result_of(future, writing=writing)
        finally:
            # Nobody is to be told that we have failed while writes of ours are still on their way.
            for future, _ in waiting:
                with suppress(Exception):
                    future.result()


def _node(session: Any, host: Any) -> Node:
    """Ask one node."""
    asked = time.time()
    try:
        with translated(session.cluster, writing=False):
            version, at = session.execute(_NODE, host=host).one()
    except LernError:
        return Node(str(host.endpoint), host.release_version or "of a version that is not known", None)
    # Its time is that of the middle, as far as can be told.
    return Node(str(host.endpoint), version, at / 1000 - (asked + time.time()) / 2)


def _result_of(future: Any, *, writing: bool) -> Any:
    """Wait for the answer to what was sent."""
    with translated(future.session.cluster, writing=writing):
        result = future.result()
    _forget_timer(future)
    return result


def next_page(result: Any) -> None:
    """Have a result's next page take the place of the one before."""
    future = result.response_future
    # Left to itself the driver waits for it for ever, or, without a timer, counts from when the first was asked for.
    future._start_time = time.time()  # noqa: SLF001 - the driver has no other way
    with translated(future.session.cluster, writing=False):
        result.fetch_next_page()
    _forget_timer(future)


def _forget_timer(future: Any) -> None:
    # The two hold each other, and a page of rows with them, which would stay until Python's collector comes.
    future._timer = None  # noqa: SLF001 - the driver has no other way


def _as_they_are(_names: Sequence[str], rows: Sequence[Any]) -> Sequence[Any]:
    return rows


def _cluster(place: Place) -> Cluster:
    consistency = ConsistencyLevel.name_to_value[place.consistency]

    serial = ConsistencyLevel.LOCAL_SERIAL if place.consistency.startswith("LOCAL_") else ConsistencyLevel.SERIAL

    def profile(retry: Any) -> ExecutionProfile:
        policy = DCAwareRoundRobinPolicy(local_dc=place.dc) if place.dc else DCAwareRoundRobinPolicy()
        return ExecutionProfile(
            load_balancing_policy=TokenAwarePolicy(policy),
            retry_policy=retry,
            consistency_level=consistency,
            serial_consistency_level=serial,
            request_timeout=place.request_timeout,
            row_factory=_as_they_are,
        )

    return Cluster(
        [DefaultEndPoint(host, port) for host, port in place.hosts],
        port=place.hosts[0][1],
        # What Cassandra 4.0 and later speak. Left to itself, the driver begins with what no Cassandra speaks.
        protocol_version=ProtocolVersion.V5,
        # A write is never repeated by the driver, nor sent twice to be faster: a list written twice with one time is
        # doubled. Reads are tried on the next node.
        execution_profiles={_READ: profile(RetryPolicy()), _WRITE: profile(FallthroughRetryPolicy())},
        auth_provider=PlainTextAuthProvider(place.user, place.password) if place.user else None,
        ssl_context=place.tls,
        connect_timeout=place.connect_timeout,
        # Seconds between hearing that a table has changed and looking at it. The driver would wait for two, in which
        # what is written to a new column is not seen.
        schema_event_refresh_window=0,
        control_connection_timeout=place.connect_timeout,
        reconnection_policy=ConstantReconnectionPolicy(_RECONNECT, max_attempts=None),
        idle_heartbeat_interval=_HEARTBEAT,
        idle_heartbeat_timeout=_HEARTBEAT,
        # The driver leaves it off, and a large batch then waits 40 ms for the acknowledgement of its first part.
        sockopts=[(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)],
    )
