"""Checks of Cassandra: version, the tables' layouts, our permissions, and every node's clock."""

import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any, Final

from lern.doctor.finding import Finding, clock
from lern.errors import LernError
from lern.settings import Settings
from lern.store import open_store

SUPPORTED: Final = ("4.1", "5.0")


def examine(settings: Settings) -> Iterator[Finding]:
    """Check everything; what can be asked only of a server that answers is left out if it does not."""
    with closing(open_store(settings)) as store:
        cassandra: Any = store
        try:
            nodes = cassandra.nodes()
            yield from _versions(nodes)
            problems = cassandra.layout_problems()
        except LernError as error:
            yield Finding("store", "problem", str(error), "start it, or mend LERN_STORE_URL")
            return
        for problem in problems:
            advice = "the tables must be as Sunbird's migrations leave them; for tests: lern migrate --create-tables"
            yield Finding("store", "problem", problem, advice)
        if not problems:
            yield Finding("store", "ok", "all tables are there, in a layout that we know")
            yield from _permissions(cassandra)
        for node in nodes:
            yield clock(f"Cassandra's node {node.address}", node.time / 1000 - time.time(), settings.max_clock_ahead)


def _versions(nodes: Any) -> Iterator[Finding]:
    for version in sorted({node.version for node in nodes}):
        detail = f"Cassandra {version}, {sum(node.version == version for node in nodes)} nodes"
        if version.startswith(SUPPORTED):
            yield Finding("store", "ok", detail)
        else:
            yield Finding("store", "warning", detail, f"Lern is tested with Cassandra {' and '.join(SUPPORTED)}")


def _permissions(cassandra: Any) -> Iterator[Finding]:
    refused = cassandra.refused_writes()
    for problem in refused:
        yield Finding("store", "problem", problem, "GRANT SELECT, MODIFY ON the table TO our role")
    if not refused:
        yield Finding("store", "ok", "we may read and write the tables")
