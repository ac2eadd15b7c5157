"""Checks of Elasticsearch: version, the index and its mapping."""

from collections.abc import Iterator
from typing import Any, Final

from lern.doctor.finding import PATIENCE, Finding
from lern.settings import Settings

SUPPORTED: Final = ("7.17", "8.")
INDEX: Final = "course-batch"


def examine(settings: Settings) -> Iterator[Finding]:
    """Check the server, then the index; nothing is changed."""
    import elasticsearch as driver  # noqa: PLC0415 - a driver, imported where it is needed

    from lern.search.elasticsearch import trust, why  # noqa: PLC0415 - as above
    from lern.urls import redacted  # noqa: PLC0415 - beside what it is for

    url = settings.search_url or ""
    client: Any = driver.Elasticsearch(url, request_timeout=PATIENCE, max_retries=0, **trust(settings.search_ca))
    try:
        version = str(client.info()["version"]["number"])
        exists = bool(client.indices.exists(index=INDEX))
        fields = client.indices.get_mapping(index=INDEX) if exists else {}
    except (driver.ApiError, driver.TransportError) as error:
        detail = redacted(f"{url}: {why(error) if isinstance(error, driver.TransportError) else error}")
        yield Finding("search", "problem", detail, "start it, or mend LERN_SEARCH_URL and its user's permissions")
        return
    finally:
        client.close()
    if version.startswith(SUPPORTED):
        yield Finding("search", "ok", f"Elasticsearch {version}")
    else:
        yield Finding("search", "warning", f"Elasticsearch {version}", "Lern is tested with 7.17 and 8.14")
    yield _index(exists=exists, fields=fields)


def _index(*, exists: bool, fields: Any) -> Finding:
    if not exists:
        return Finding("search", "problem", f"there is no index {INDEX}", "lern migrate --create-index, for tests")
    properties = next(iter(fields.values()))["mappings"].get("properties", {})
    missing = [name for name in ("createdBy", "mentors") if "raw" not in properties.get(name, {}).get("fields", {})]
    if missing:
        detail = f"index {INDEX}: {' and '.join(missing)} cannot be searched by exact value (no field .raw)"
        return Finding("search", "problem", detail, "use Sunbird's mapping of the index")
    return Finding("search", "ok", f"index {INDEX} is there, with Sunbird's mapping")
