"""Checks of the ledger: it answers, its schema is this version's; of PostgreSQL also version, permissions and clock."""

import time
from collections.abc import Iterator
from contextlib import closing
from typing import Final

from sqlalchemy.exc import DBAPIError

from lern.doctor.finding import Finding, clock
from lern.errors import Damaged, LernError
from lern.ledger import Ledger
from lern.ledger.schema import HEAD
from lern.settings import Settings
from lern.urls import redacted, redacted_url

# What the tests run with; older ones lack nothing that is known of.
SUPPORTED: Final = 15


def examine(settings: Settings) -> Iterator[Finding]:
    """Check everything; nothing is written or created."""
    with closing(Ledger(settings.ledger_url_or_default)) as ledger:
        try:
            yield from _server(settings, ledger)
            yield _schema(settings, ledger)
        except Damaged as error:
            yield Finding("ledger", "problem", str(error), error.advice)
        except LernError as error:
            yield Finding("ledger", "problem", str(error), "start it, or mend LERN_LEDGER_URL")
        except DBAPIError as error:
            yield Finding("ledger", "problem", redacted(str(error.orig)), "mend what it says, or LERN_LEDGER_URL")


def _schema(settings: Settings, ledger: Ledger) -> Finding:
    where = redacted_url(settings.ledger_url_or_default)
    version = ledger.version()
    if version == HEAD:
        return Finding("ledger", "ok", f"{where}, version {version}")
    if version is None and settings.ledger_url is None:
        return Finding("ledger", "ok", f"{where}: is created when it is first used")
    detail = f"{where}: version {version or 'none'}, this version of Lern needs {HEAD}"
    return Finding("ledger", "problem", detail, "run: lern migrate")


def _server(settings: Settings, ledger: Ledger) -> Iterator[Finding]:
    server = ledger.server()
    if server is None:
        return
    if server.version < SUPPORTED:
        advice = f"Lern is tested with PostgreSQL {SUPPORTED}"
        yield Finding("ledger", "warning", f"PostgreSQL {server.version}", advice)
    else:
        yield Finding("ledger", "ok", f"PostgreSQL {server.version}")
    if server.standby:
        yield Finding("ledger", "problem", "it follows another server, and takes no writes", "name the first one")
    if server.refused:
        detail = f"we may not {', '.join(server.refused)}"
        advice = "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO our role"
        yield Finding("ledger", "problem", detail, advice)
    else:
        yield Finding("ledger", "ok", "we may read and write its tables")
    yield clock("PostgreSQL", server.now / 1000 - time.time(), settings.max_clock_ahead)
