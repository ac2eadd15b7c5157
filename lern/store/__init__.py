"""Learner rows: what a row is (`tables`), what a store promises (`base`), and the stores."""

from typing import TYPE_CHECKING, Final

from lern.errors import Refused
from lern.store.tables import TABLES

if TYPE_CHECKING:
    from lern.settings import Settings
    from lern.store.base import Store

_SQL: Final = frozenset({"sqlite", "postgresql"})
_CASSANDRA: Final = "cassandra"

# Where these are not merged they need not exist.
_LEGACY: Final = frozenset({"content_consumption", "user_courses"})


def open_store(settings: "Settings") -> "Store":
    """Give the store that `LERN_STORE_URL` names. Nothing is connected to yet.

    Raises `Refused` for a URL of a kind that no store speaks.
    """
    url = settings.store_url_or_default
    names = {name: getattr(settings, f"table_{name}") for name in TABLES}
    scheme = url.partition(":")[0].partition("+")[0]
    if scheme in _SQL:
        # Drivers are imported where they are used: whoever speaks to another store need not have them.
        from lern.store.sql import SqlStore  # noqa: PLC0415 - see above

        return SqlStore(url, names)
    if scheme == _CASSANDRA:
        from lern.store.cassandra import CassandraStore  # noqa: PLC0415 - see above

        legacy = () if "legacy" in settings.merge_tables else _LEGACY
        used = [name for name in TABLES if name not in legacy]
        return CassandraStore(url, names, tables=used, max_clock_ahead=settings.max_clock_ahead)
    known = ", ".join(sorted({*_SQL, _CASSANDRA}))
    raise Refused(f"LERN_STORE_URL: no store speaks {scheme}; one of {known} was expected")
