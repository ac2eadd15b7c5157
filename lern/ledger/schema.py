"""The ledger's tables, as the newest migration leaves them (`HEAD`).

A run is a cursor over its chain: `runs.steps` names the steps, `runs.step` is the one that is at work or
to come next, and `step_state`, `attempts`, `lost`, `token` and the times beside it speak of that step
alone. What lies behind the cursor has succeeded and is told by `attempts`; what lies before it is pending.
So every change of state is a compare-and-set on one row.

Times are milliseconds since 1970 UTC. JSON is text, because the ledger never looks into it.
"""

from typing import Final

import sqlalchemy as sa

HEAD: Final = "0003"
"""The revision that this code was written for."""

Number: Final = sa.BigInteger().with_variant(sa.Integer, "sqlite")
"""SQLite counts up by itself only a column that is called INTEGER."""

metadata: Final = sa.MetaData()

runs: Final = sa.Table(
    "runs",
    metadata,
    sa.Column("number", Number, primary_key=True, autoincrement=True),
    sa.Column("id", sa.Text, nullable=False),
    sa.Column("workflow", sa.Text, nullable=False),
    sa.Column("steps", sa.Text, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("generation", sa.Integer, nullable=False),
    sa.Column("step", sa.Text),
    sa.Column("step_state", sa.Text),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("lost", sa.Integer, nullable=False),
    sa.Column("token", sa.Text),
    sa.Column("queued_at", sa.BigInteger),
    sa.Column("started_at", sa.BigInteger),
    sa.Column("next_at", sa.BigInteger),
    sa.Column("reason", sa.Text),
    sa.Column("error", sa.Text),
    sa.Column("source", sa.Text, nullable=False),
    sa.Column("target", sa.Text, nullable=False),
    sa.Column("merge", sa.Integer, nullable=False),
    sa.Column("undo_of", sa.Text),
    sa.Column("event_time", sa.BigInteger, nullable=False),
    sa.Column("mid", sa.Text),
    sa.Column("topic", sa.Text, nullable=False),
    sa.Column("partition", sa.Integer),
    sa.Column("offset", sa.BigInteger),
    sa.Column("warnings", sa.Text, nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("updated_at", sa.BigInteger, nullable=False),
    sa.Column("ended_at", sa.BigInteger),
)
sa.Index("runs_id", runs.c.id, unique=True)
sa.Index("runs_newest", runs.c.created_at, runs.c.id)
sa.Index("runs_by_state", runs.c.state, runs.c.created_at, runs.c.id)
sa.Index("runs_by_workflow", runs.c.workflow, runs.c.created_at, runs.c.id)
sa.Index("runs_by_source", runs.c.source, runs.c.created_at, runs.c.id)
sa.Index("runs_by_target", runs.c.target, runs.c.created_at, runs.c.id)


def _partly(name: str, *columns: sa.Column[object], where: str) -> None:
    """Declare an index over the few rows that `where` picks: it stays small when the table grows."""
    sa.Index(name, *columns, sqlite_where=sa.text(where), postgresql_where=sa.text(where))


_partly("runs_at_work", runs.c.step_state, runs.c.id, where="step_state IS NOT NULL")
_partly("runs_due", runs.c.next_at, runs.c.id, where="next_at IS NOT NULL")
_partly("runs_queued", runs.c.step_state, runs.c.queued_at, runs.c.id, where="step_state = 'queued'")
_partly("runs_undoing", runs.c.undo_of, where="undo_of IS NOT NULL")
_partly("runs_by_reason", runs.c.state, runs.c.reason, runs.c.created_at, runs.c.id, where="reason IS NOT NULL")
_partly("runs_merged", runs.c.ended_at, runs.c.id, where="merge = 1 AND state = 'succeeded'")

# Apart from the runs, so that changing a run's state does not rewrite its event, and a list does not read it.
events: Final = sa.Table(
    "events",
    metadata,
    sa.Column("run_id", sa.Text, primary_key=True),
    sa.Column("value", sa.LargeBinary, nullable=False),
)

attempts: Final = sa.Table(
    "attempts",
    metadata,
    sa.Column("id", Number, primary_key=True, autoincrement=True),
    sa.Column("run_id", sa.Text, nullable=False),
    sa.Column("step", sa.Text, nullable=False),
    sa.Column("generation", sa.Integer, nullable=False),
    sa.Column("number", sa.Integer, nullable=False),
    sa.Column("token", sa.Text),
    sa.Column("started_at", sa.BigInteger),
    sa.Column("ended_at", sa.BigInteger, nullable=False),
    sa.Column("outcome", sa.Text, nullable=False),
    sa.Column("reason", sa.Text),
    sa.Column("error", sa.Text),
    sa.Column("result", sa.Text),
)
sa.Index("attempts_by_run", attempts.c.run_id, attempts.c.id)

chunks: Final = sa.Table(
    "chunks",
    metadata,
    sa.Column("id", Number, primary_key=True, autoincrement=True),
    sa.Column("run_id", sa.Text, nullable=False),
    sa.Column("step", sa.Text, nullable=False),
    sa.Column("number", sa.BigInteger, nullable=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("source", sa.Text, nullable=False),
    sa.Column("target", sa.Text, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("counts", sa.Text, nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("ended_at", sa.BigInteger),
    sa.Column("scope", sa.LargeBinary),
    sa.Column("payload", sa.LargeBinary, nullable=False),
)
sa.Index("chunks_by_place", chunks.c.run_id, chunks.c.step, chunks.c.number, unique=True)
sa.Index("chunks_by_run", chunks.c.run_id, chunks.c.id)
sa.Index("chunks_by_source", chunks.c.source, chunks.c.id)
_partly("chunks_open_source", chunks.c.source, where="state = 'open'")
_partly("chunks_open_target", chunks.c.target, where="state = 'open'")

outbox: Final = sa.Table(
    "outbox",
    metadata,
    sa.Column("sequence", Number, primary_key=True, autoincrement=True),
    sa.Column("mid", sa.Text, nullable=False),
    sa.Column("run_id", sa.Text, nullable=False),
    sa.Column("step", sa.Text, nullable=False),
    sa.Column("topic", sa.Text, nullable=False),
    sa.Column("key", sa.LargeBinary),
    sa.Column("value", sa.LargeBinary, nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("delivered_at", sa.BigInteger),
)
sa.Index("outbox_mid", outbox.c.mid, unique=True)
sa.Index("outbox_by_run", outbox.c.run_id, outbox.c.sequence)
_partly("outbox_undelivered", outbox.c.sequence, outbox.c.run_id, where="delivered_at IS NULL")

dead_letters: Final = sa.Table(
    "dead_letters",
    metadata,
    sa.Column("id", Number, primary_key=True, autoincrement=True),
    sa.Column("topic", sa.Text, nullable=False),
    sa.Column("hash", sa.Text, nullable=False),
    sa.Column("partition", sa.Integer),
    sa.Column("offset", sa.BigInteger),
    sa.Column("key", sa.LargeBinary),
    sa.Column("value", sa.LargeBinary, nullable=False),
    sa.Column("code", sa.Text, nullable=False),
    sa.Column("field", sa.Text),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("count", sa.Integer, nullable=False),
    sa.Column("first_at", sa.BigInteger, nullable=False),
    sa.Column("last_at", sa.BigInteger, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("run_id", sa.Text),
)
sa.Index("dead_letters_event", dead_letters.c.topic, dead_letters.c.hash, unique=True)
sa.Index("dead_letters_newest", dead_letters.c.last_at, dead_letters.c.id)
sa.Index("dead_letters_by_state", dead_letters.c.state, dead_letters.c.last_at, dead_letters.c.id)
sa.Index("dead_letters_by_code", dead_letters.c.code, dead_letters.c.last_at, dead_letters.c.id)
sa.Index(
    "dead_letters_by_reason",
    dead_letters.c.state,
    dead_letters.c.code,
    dead_letters.c.last_at,
    dead_letters.c.id,
)

merged_accounts: Final = sa.Table(
    "merged_accounts",
    metadata,
    sa.Column("source", sa.Text, primary_key=True),
    sa.Column("target", sa.Text, nullable=False),
    sa.Column("run_id", sa.Text, nullable=False),
    sa.Column("merged_at", sa.BigInteger, nullable=False),
)
sa.Index("merged_accounts_by_target", merged_accounts.c.target)

contributed: Final = sa.Table(
    "contributed",
    metadata,
    sa.Column("source", sa.Text, primary_key=True),
    sa.Column("table_name", sa.Text, primary_key=True),
    sa.Column("identity", sa.Text, primary_key=True),
    sa.Column("counters", sa.Text, nullable=False),
)

audit: Final = sa.Table(
    "audit",
    metadata,
    sa.Column("id", Number, primary_key=True, autoincrement=True),
    sa.Column("at", sa.BigInteger, nullable=False),
    sa.Column("who", sa.Text, nullable=False),
    sa.Column("action", sa.Text, nullable=False),
    sa.Column("run_id", sa.Text),
    sa.Column("dead_id", sa.BigInteger),
    sa.Column("detail", sa.Text),
)
sa.Index("audit_by_run", audit.c.run_id, audit.c.id)
_partly("audit_by_dead", audit.c.dead_id, audit.c.id, where="dead_id IS NOT NULL")

beginnings: Final = sa.Table(
    "beginnings",
    metadata,
    sa.Column("consumer_group", sa.Text, primary_key=True),
    sa.Column("topic", sa.Text, primary_key=True),
    sa.Column("since", sa.BigInteger, nullable=False),
)
