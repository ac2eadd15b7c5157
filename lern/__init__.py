"""Sunbird Lern's background work on Celery.

For other services: `from lern import Lern`. That imports no driver, and what it needs only when it is asked for.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lern.client import Lern, Run

__all__ = ["Lern", "Run"]


def __getattr__(name: str) -> object:
    """Import the client when it is first asked for: `import lern.rules` must not pay for it."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from lern import client  # noqa: PLC0415 - the reason for this function

    return getattr(client, name)


def __dir__() -> list[str]:
    """List the public names too."""
    return sorted({*globals(), *__all__})
