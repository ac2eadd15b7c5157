"""The ledger: runs, steps, journal, outbox, dead letters and merged accounts. The truth about what happened.

One `Ledger` per process and database. Every call is one short transaction of its own, may be killed at
any point, and may be repeated; any number of processes may call at once. Every call raises `Unreachable`
when the database does not answer (or its lock is not free within 30 seconds), `Transient` when it
rejected the call for something that may go right the next time, `SchemaMissing` before `migrate`.
"""

from contextlib import AbstractContextManager

from lern.ledger.about import About, Server
from lern.ledger.audit import Act
from lern.ledger.beginnings import Beginnings
from lern.ledger.concern import Concern, Concerned
from lern.ledger.database import Database
from lern.ledger.dead_letters import DeadLetters
from lern.ledger.intake import Intake
from lern.ledger.journal import Journal
from lern.ledger.looking import ChunkHead, DeadGroup, Looking
from lern.ledger.merged_accounts import MergedAccounts
from lern.ledger.migration import Migration
from lern.ledger.outbox import Outbox
from lern.ledger.paging import Counted, Paging, RunFilter, RunGroup, RunPage
from lern.ledger.pending import Sweeping
from lern.ledger.records import (
    Attempt,
    AuditEntry,
    Begin,
    Chunk,
    DeadLetter,
    Entered,
    Finished,
    LostTooOften,
    MergedAccount,
    NewChunk,
    NewDeadLetter,
    NewRun,
    Pending,
    Pruned,
    Refusal,
    Run,
    RunDetail,
    Stale,
    Started,
    Step,
)
from lern.ledger.retention import Retention
from lern.ledger.runs import Runs
from lern.ledger.second_chance import SecondChance
from lern.ledger.steps import Steps

__all__ = [
    "Act",
    "Attempt",
    "AuditEntry",
    "Begin",
    "Chunk",
    "ChunkHead",
    "Concerned",
    "Counted",
    "DeadGroup",
    "DeadLetter",
    "Entered",
    "Finished",
    "Ledger",
    "LostTooOften",
    "MergedAccount",
    "NewChunk",
    "NewDeadLetter",
    "NewRun",
    "Pending",
    "Pruned",
    "Refusal",
    "Run",
    "RunDetail",
    "RunFilter",
    "RunGroup",
    "RunPage",
    "Server",
    "Stale",
    "Started",
    "Step",
]


class Ledger(
    Migration,
    About,
    Intake,
    Steps,
    Journal,
    Outbox,
    DeadLetters,
    Beginnings,
    MergedAccounts,
    Concern,
    Sweeping,
    Runs,
    Paging,
    Looking,
    SecondChance,
    Retention,
):
    """All of the ledger: each part's file tells of its calls."""

    def __init__(self, url: str) -> None:
        """Remember where the ledger is (an SQLAlchemy URL of SQLite or PostgreSQL); nothing is opened yet.

        May be used from several threads, and by forked children: each process has connections of its own.
        """
        self._database = Database(url)

    def keep_connection(self) -> AbstractContextManager[None]:
        """Have this thread's calls within the block share a connection, where they are many and each is small."""
        return self._database.keep()

    def close(self) -> None:
        """Close this process's connections. Using the ledger again opens new ones."""
        self._database.close()
