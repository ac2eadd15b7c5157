"""What the driver's errors mean, and what they say in words that need no knowledge of it."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

from cassandra import (
    AuthenticationFailed,
    DriverException,
    OperationTimedOut,
    RequestValidationException,
    Timeout,
    Unavailable,
    UnresolvableContactPoints,
)
from cassandra.cluster import Cluster, NoHostAvailable
from cassandra.connection import ConnectionBusy, ConnectionException, ConnectionShutdown, ProtocolError
from cassandra.policies import HostDistance
from cassandra.pool import NoConnectionsAvailable
from cassandra.protocol import ErrorMessage, SyntaxException

from lern.errors import LernError, Refused, Transient, Unreachable

# The driver's errors have no common base.
_ERRORS: Final = (
    DriverException,
    ErrorMessage,
    NoHostAvailable,
    ConnectionException,
    ConnectionBusy,
    NoConnectionsAvailable,
    ProtocolError,
)
# No node answers, or too few. `OperationTimedOut` is not among them: what it means depends on what was asked.
_AWAY: Final = (NoHostAvailable, ConnectionException, Unavailable, UnresolvableContactPoints)
# What the same statement will always be told.
_WRONG: Final = (RequestValidationException, SyntaxException, AuthenticationFailed)

# How a server's words stand in an error, and what the driver puts around those of the system.
_FROM_SERVER: Final = re.compile(r'<?Error from server: code=\w+ \[(.*?)\] message="(.*)"( info=\{.*\})?>?', re.DOTALL)
_LAST_ERROR: Final = "Last error: "
# A cluster may have hundreds of nodes, which mostly say the same.
_NODES_AT_MOST: Final = 5


@contextmanager
def translated(cluster: Cluster, *, writing: bool) -> Iterator[None]:
    """Raise what the driver says as this system's errors: `Unreachable`, `Transient` or `Refused`."""
    try:
        yield
    except _ERRORS as error:
        raise _meaning(error, cluster, writing=writing) from error


def _meaning(error: Exception, cluster: Cluster, *, writing: bool) -> LernError:
    if refused := _refused_logins(error):
        return Refused(f"Cassandra refuses our login: {'; '.join(refused)}")
    problem = in_words(error, cluster)
    if isinstance(error, _WRONG):
        return Refused(f"Cassandra refuses: {problem}")
    # No answer at all: to a read, that the server is away; to a write, that nobody knows whether it was done.
    if isinstance(error, _AWAY) or (isinstance(error, OperationTimedOut) and not writing):
        return Unreachable("store", problem)
    return Transient(f"store: {problem}")


def _refused_logins(error: Exception) -> list[str]:
    """Say why every node that was tried refused user and password; nothing if one of them had another reason."""
    causes = (
        list(error.errors.values()) if isinstance(error, NoHostAvailable) and isinstance(error.errors, dict) else []
    )
    are_refusals = all(isinstance(cause, AuthenticationFailed) for cause in causes)
    return list(dict.fromkeys(map(_said, causes))) if are_refusals else []


def in_words(error: Exception, cluster: Cluster) -> str:
    """Say what went wrong: of nodes that do not do what they should, which ones, and what each has said."""
    if isinstance(error, NoHostAvailable):
        causes = error.errors if isinstance(error.errors, Mapping) else dict.fromkeys(error.errors, "no connection")
        # Nodes that are known to be down are not asked, and so have said nothing.
        return _each(causes or dict.fromkeys(_nodes(cluster), "down")) or "none of its nodes is known"
    if isinstance(error, OperationTimedOut) and error.last_host is not None:
        return _each({error.last_host: error})
    return _said(error)


def _nodes(cluster: Cluster) -> list[Any]:
    """Give the nodes that may be asked: those of our data centre."""
    distance = cluster.profile_manager.distance
    return [host for host in cluster.metadata.all_hosts() if distance(host) != HostDistance.IGNORED]


def _each(causes: Mapping[Any, Any]) -> str:
    """Say of each node what it has said; those that say the same together."""
    nodes: dict[str, list[str]] = {}
    for node, cause in causes.items():
        nodes.setdefault(_said(cause), []).append(str(node))
    return "; ".join(f"{_named(sorted(some))}: {said}" for said, some in sorted(nodes.items()))


def _named(nodes: list[str]) -> str:
    more = len(nodes) - _NODES_AT_MOST
    return ", ".join(nodes[:_NODES_AT_MOST]) + (f" and {more} more" if more > 0 else "")


def _said(cause: Any) -> str:
    """Give one cause in words."""
    if isinstance(cause, OperationTimedOut):
        return "no answer in time"
    if isinstance(cause, ConnectionShutdown):
        return "connection lost"
    if isinstance(cause, NoConnectionsAvailable | ConnectionBusy):
        return "too many requests are on their way"
    if isinstance(cause, OSError):
        text = str(cause.strerror or cause).rpartition(_LAST_ERROR)[2]
        return text[:1].lower() + text[1:]
    if type(cause) is ConnectionException and re.search(r"marked down|Pool is shutdown", str(cause)):
        return "down"
    text = _FROM_SERVER.sub(lambda found: found[2] or found[1], str(cause))
    return (" ".join(text.split()) or type(cause).__name__) + _counted(cause)


def _counted(cause: Any) -> str:
    """Say how many of the nodes that hold a row were there, or answered."""
    if isinstance(cause, Unavailable):
        return f" ({cause.alive_replicas} of {cause.required_replicas} nodes that are needed are up)"
    if isinstance(cause, Timeout):
        return f" ({cause.received_responses} of {cause.required_responses} nodes that are needed have answered)"
    return ""
