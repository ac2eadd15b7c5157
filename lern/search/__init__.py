"""The documents of course batches: what is promised (`base`), in Elasticsearch, or over the store itself."""

from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from lern.search.base import Document, Search, Update

if TYPE_CHECKING:
    from lern.settings import Settings
    from lern.store.base import Store

__all__ = ["Document", "Search", "Update", "open_search"]


def open_search(settings: "Settings", store: "Store") -> Search:
    """Give the search that `LERN_SEARCH_URL` names, or the store's own rows. Nothing is connected to yet."""
    if settings.search_url is not None:
        # The driver is imported where it is used: without a search server nobody need have it.
        from lern.search.elasticsearch import ElasticsearchSearch  # noqa: PLC0415 - see above

        return ElasticsearchSearch(settings.search_url, ca=settings.search_ca)
    from lern.search.sql import StoreSearch  # noqa: PLC0415 - as above

    return StoreSearch(store, ZoneInfo(settings.time_zone))
