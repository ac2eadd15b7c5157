"""Connections to PostgreSQL notice that a server has vanished, not only that it has ended."""

from typing import Any, Final

import sqlalchemy as sa

# A host that lost its power, or that a firewall has cut off, says nothing. By itself the kernel asks after two hours
# whether it is still there, and what was sent is repeated for a quarter of an hour: so long would a step wait, with
# its users locked. These are seconds, and milliseconds (`tcp_user_timeout`): half a minute in all.
_WATCHED: Final = {
    "connect_timeout": 5,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}


def watched(url: str | sa.URL) -> dict[str, Any]:
    """Give the options with which to connect, less those that the URL says itself."""
    said = sa.make_url(url).query
    return {name: value for name, value in _WATCHED.items() if name not in said}
