"""Checks of Cassandra: version, the tables' layouts, our permissions, and every node's clock."""

import re
from collections.abc import Iterable, Iterator
from contextlib import closing
from typing import TYPE_CHECKING, Any, Final

from lern.doctor.finding import Finding, clock
from lern.errors import LernError, Refused, SettingsError
from lern.phrases import many
from lern.settings import Settings
from lern.store import open_store

if TYPE_CHECKING:
    from lern.store.cassandra_place import Place
    from lern.store.cassandra_session import Node

SUPPORTED: Final = ("4.1", "5.0")
_AWAY: Final = "start it, or mend LERN_STORE_URL"
_TOO_FEW: Final = "start the nodes that are away, or mend the keyspace's replication or consistency= in LERN_STORE_URL"
_LOGIN: Final = "mend user and password in LERN_STORE_URL: cassandra://USER:PASSWORD@HOST/…, both percent-encoded"
_PERMISSION: Final = re.compile(r"has no (\w+) permission")
_PLAIN_NAME: Final = re.compile(r"[a-z][a-z0-9_]*")


def examine(settings: Settings) -> Iterator[Finding]:
    """Check everything; what can be asked only of a server that answers is left out if it does not."""
    try:
        store: Any = open_store(settings)
    except SettingsError as error:
        yield Finding("store", "problem", str(error), "mend it; docs/operations.md says more about it")
        return
    with closing(store):
        try:
            yield from _examine(store, settings)
        except Refused as error:
            yield Finding("store", "problem", str(error), _LOGIN)
        except LernError as error:
            yield Finding("store", "problem", str(error), _AWAY)


def _examine(store: Any, settings: Settings) -> Iterator[Finding]:
    nodes = store.nodes()
    yield from _nodes(nodes)
    problems = store.layout_problems()
    for problem in problems:
        advice = "the tables must be as Sunbird's migrations leave them; for tests: lern migrate --create-tables"
        yield Finding("store", "problem", problem, advice)
    for node in nodes:
        if node.ahead is not None:
            yield clock(f"Cassandra's node {node.address}", node.ahead, settings.max_clock_ahead)
    if not problems:
        yield Finding("store", "ok", "all tables are there, in a layout that we know")
        try:
            refusals = store.refusals()
        except LernError as error:
            yield Finding("store", "problem", str(error), _TOO_FEW)
        else:
            yield from _permissions(refusals, store.place)


def _nodes(nodes: "Iterable[Node]") -> Iterator[Finding]:
    answering = [node for node in nodes if node.ahead is not None]
    for version in sorted({node.version for node in answering}):
        detail = f"Cassandra {version}, {many(sum(node.version == version for node in answering), 'node')}"
        if version.startswith(SUPPORTED):
            yield Finding("store", "ok", detail)
        else:
            yield Finding("store", "warning", detail, f"Lern is tested with Cassandra {' and '.join(SUPPORTED)}")
    for node in nodes:
        if node.ahead is None:
            advice = "start it: with too few nodes reads and writes fail; or remove it from the cluster"
            yield Finding("store", "warning", f"Cassandra's node {node.address} does not answer", advice)


def _permissions(refusals: list[tuple[str, str]], place: "Place") -> Iterator[Finding]:
    """Say once what our role may not do: usually it is the same with every table."""
    missing: dict[str, dict[str, None]] = {}
    for table, problem in refusals:
        found = _PERMISSION.search(problem)
        if found is None:
            yield Finding("store", "problem", f"{table}: {problem}", "mend what it says")
        else:
            missing.setdefault(found[1], {})[table] = None
    if missing:
        by_tables: dict[tuple[str, ...], list[str]] = {}
        for permission, tables in missing.items():
            by_tables.setdefault(tuple(tables), []).append(permission)
        said = "; ".join(f"{' or '.join(permissions)} {', '.join(on)}" for on, permissions in by_tables.items())
        grants = "; ".join(
            f"GRANT {permission} ON KEYSPACE {place.keyspace} TO {_role(place)}" for permission in missing
        )
        yield Finding("store", "problem", f"we may not {said}", f"{grants}; or the same ON each of these tables")
    if not refusals:
        yield Finding("store", "ok", "we may read and write the tables")


def _role(place: "Place") -> str:
    """Give our role as CQL has it."""
    if place.user is None:
        return "our role"
    return place.user if _PLAIN_NAME.fullmatch(place.user) else '"' + place.user.replace('"', '""') + '"'
