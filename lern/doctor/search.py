"""Checks of Elasticsearch: version, the index and its mapping, whether we may write to it, and its nodes' clocks."""

import time
from collections.abc import Iterator
from typing import Any, Final

from lern.doctor.finding import PATIENCE, Finding, clock
from lern.settings import Settings
from lern.urls import with_reason

SUPPORTED: Final = ("7.17", "8.")
INDEX: Final = "course-batch"
_BLOCKS: Final = ("index.blocks.read_only", "index.blocks.read_only_allow_delete", "index.blocks.write")


def examine(settings: Settings) -> Iterator[Finding]:
    """Check the server, then the index; nothing is changed."""
    import elasticsearch as driver  # noqa: PLC0415 - a driver, imported where it is needed

    from lern.search.elasticsearch import trust, why  # noqa: PLC0415 - as above

    url = settings.search_url or ""
    client: Any = driver.Elasticsearch(url, request_timeout=PATIENCE, max_retries=0, **trust(settings.search_ca))
    try:
        version = str(client.info()["version"]["number"])
        exists = bool(client.indices.exists(index=INDEX))
        fields = client.indices.get_mapping(index=INDEX) if exists else {}
        writing = list(_writing(client)) if exists else []
        clocks = list(_clocks(client, settings))
    except (driver.ApiError, driver.TransportError) as error:
        detail = with_reason(url, why(error) if isinstance(error, driver.TransportError) else error)
        yield Finding("search", "problem", detail, "start it, or mend LERN_SEARCH_URL and its user's permissions")
        return
    finally:
        client.close()
    if version.startswith(SUPPORTED):
        yield Finding("search", "ok", f"Elasticsearch {version}")
    else:
        yield Finding("search", "warning", f"Elasticsearch {version}", "Lern is tested with 7.17 and 8.14")
    yield _index(exists=exists, fields=fields)
    yield from writing
    yield from clocks


def _index(*, exists: bool, fields: Any) -> Finding:
    if not exists:
        return Finding("search", "problem", f"there is no index {INDEX}", "lern migrate --create-index, for tests")
    properties = next(iter(fields.values()))["mappings"].get("properties", {})
    missing = [name for name in ("createdBy", "mentors") if "raw" not in properties.get(name, {}).get("fields", {})]
    if missing:
        detail = f"index {INDEX}: {' and '.join(missing)} cannot be searched by exact value (no field .raw)"
        return Finding("search", "problem", detail, "use Sunbird's mapping of the index")
    return Finding("search", "ok", f"index {INDEX} is there, with Sunbird's mapping")


def _writing(client: Any) -> Iterator[Finding]:
    """Check that our user and the index allow a write, as far as that can be asked without one."""
    import elasticsearch as driver  # noqa: PLC0415 - as above

    blocked = [name for name, value in _blocks(client) if value == "true"]
    if blocked:
        detail = f"index {INDEX} takes no writes: {', '.join(blocked)}"
        advice = "make room on its disk, then set that to null in the index's settings"
        yield Finding("search", "problem", detail, advice)
    try:
        asked = {"names": [INDEX], "privileges": ["read", "write"]}
        allowed = client.security.has_privileges(index=[asked])["index"][INDEX]
    except driver.ApiError:
        # Without security, or without a user, there is nobody who could be refused.
        return
    refused = [name for name, granted in allowed.items() if not granted]
    if refused:
        detail = f"we may not {' or '.join(refused)} index {INDEX}"
        yield Finding("search", "problem", detail, f"give our user a role with read and write on {INDEX}")
    else:
        yield Finding("search", "ok", f"we may read and write index {INDEX}")


def _blocks(client: Any) -> Iterator[tuple[str, str]]:
    """Give the settings by which an index, or all of them, refuses writes."""
    for index in client.indices.get_settings(index=INDEX, flat_settings=True).values():
        yield from ((name, str(value)) for name, value in index["settings"].items() if name in _BLOCKS)


def _clocks(client: Any, settings: Settings) -> Iterator[Finding]:
    """Check every node's clock; a user who may not monitor the cluster is not told."""
    import elasticsearch as driver  # noqa: PLC0415 - as above

    try:
        nodes = client.nodes.stats(metric="process")["nodes"]
    except driver.ApiError:
        return
    for node in nodes.values():
        yield clock(
            f"Elasticsearch's node {node['name']}", node["timestamp"] / 1000 - time.time(), settings.max_clock_ahead
        )
