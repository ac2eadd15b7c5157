"""Who did what, and when."""

from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa

from lern.ledger.records import AuditEntry, safe
from lern.ledger.schema import audit

_NOTE: Final = audit.insert()
_OF_RUN: Final = sa.select(audit).where(audit.c.run_id == sa.bindparam("run_id")).order_by(audit.c.id)


@dataclass(frozen=True, slots=True)
class Act:
    """Something that a person did: `who` is the name that they were known by (user, host, API token)."""

    at: int
    who: str
    action: str
    run_id: str | None = None
    dead_id: int | None = None
    detail: str | None = None


def note(connection: sa.Connection, act: Act) -> None:
    """Write it down, within the transaction that does it."""
    connection.execute(
        _NOTE,
        {
            "at": act.at,
            "who": safe(act.who),
            "action": act.action,
            "run_id": act.run_id,
            "dead_id": act.dead_id,
            "detail": safe(act.detail),
        },
    )


def of_run(connection: sa.Connection, run_id: str) -> tuple[AuditEntry, ...]:
    """Give what was done to a run, the earliest first."""
    return tuple(AuditEntry(*row) for row in connection.execute(_OF_RUN, {"run_id": run_id}))
