"""The first schema: runs, journal, outbox, dead letters, merged accounts, contributed counters, audit."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

Number = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    """Create all tables."""
    _runs()
    _events()
    _attempts()
    _chunks()
    _outbox()
    _dead_letters()
    _merged_accounts()
    _contributed()
    _audit()


def _runs() -> None:
    op.create_table(
        "runs",
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
    op.create_index("runs_id", "runs", ["id"], unique=True)
    op.create_index("runs_newest", "runs", ["created_at", "id"])
    op.create_index("runs_by_state", "runs", ["state", "created_at", "id"])
    op.create_index("runs_by_workflow", "runs", ["workflow", "created_at", "id"])
    op.create_index("runs_by_source", "runs", ["source", "created_at", "id"])
    op.create_index("runs_by_target", "runs", ["target", "created_at", "id"])
    _partly("runs_at_work", "runs", "step_state", "id", where="step_state IS NOT NULL")
    _partly("runs_due", "runs", "next_at", "id", where="next_at IS NOT NULL")
    _partly("runs_queued", "runs", "step_state", "queued_at", "id", where="step_state = 'queued'")
    _partly("runs_undoing", "runs", "undo_of", where="undo_of IS NOT NULL")
    _partly("runs_merged", "runs", "ended_at", "id", where="merge = 1 AND state = 'succeeded'")


def _events() -> None:
    op.create_table(
        "events",
        sa.Column("run_id", sa.Text, primary_key=True),
        sa.Column("value", sa.LargeBinary, nullable=False),
    )


def _attempts() -> None:
    op.create_table(
        "attempts",
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
    op.create_index("attempts_by_run", "attempts", ["run_id", "id"])


def _chunks() -> None:
    op.create_table(
        "chunks",
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
    op.create_index("chunks_by_place", "chunks", ["run_id", "step", "number"], unique=True)
    op.create_index("chunks_by_run", "chunks", ["run_id", "id"])
    op.create_index("chunks_by_source", "chunks", ["source", "id"])
    _partly("chunks_open_source", "chunks", "source", where="state = 'open'")
    _partly("chunks_open_target", "chunks", "target", where="state = 'open'")


def _outbox() -> None:
    op.create_table(
        "outbox",
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
    op.create_index("outbox_mid", "outbox", ["mid"], unique=True)
    op.create_index("outbox_by_run", "outbox", ["run_id", "sequence"])
    _partly("outbox_undelivered", "outbox", "sequence", "run_id", where="delivered_at IS NULL")


def _dead_letters() -> None:
    op.create_table(
        "dead_letters",
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
    op.create_index("dead_letters_event", "dead_letters", ["topic", "hash"], unique=True)
    op.create_index("dead_letters_newest", "dead_letters", ["last_at", "id"])
    op.create_index("dead_letters_by_state", "dead_letters", ["state", "last_at", "id"])
    op.create_index("dead_letters_by_code", "dead_letters", ["code", "last_at", "id"])


def _merged_accounts() -> None:
    op.create_table(
        "merged_accounts",
        sa.Column("source", sa.Text, primary_key=True),
        sa.Column("target", sa.Text, nullable=False),
        sa.Column("run_id", sa.Text, nullable=False),
        sa.Column("merged_at", sa.BigInteger, nullable=False),
    )
    op.create_index("merged_accounts_by_target", "merged_accounts", ["target"])


def _contributed() -> None:
    op.create_table(
        "contributed",
        sa.Column("source", sa.Text, primary_key=True),
        sa.Column("table_name", sa.Text, primary_key=True),
        sa.Column("identity", sa.Text, primary_key=True),
        sa.Column("counters", sa.Text, nullable=False),
    )


def _audit() -> None:
    op.create_table(
        "audit",
        sa.Column("id", Number, primary_key=True, autoincrement=True),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("who", sa.Text, nullable=False),
        sa.Column("action", sa.Text, nullable=False),
        sa.Column("run_id", sa.Text),
        sa.Column("dead_id", sa.BigInteger),
        sa.Column("detail", sa.Text),
    )
    op.create_index("audit_by_run", "audit", ["run_id", "id"])


def _partly(name: str, table: str, *columns: str, where: str) -> None:
    op.create_index(name, table, list(columns), sqlite_where=sa.text(where), postgresql_where=sa.text(where))


def downgrade() -> None:
    """Drop all tables, and with them everything the ledger knows."""
    for table in (
        "audit",
        "contributed",
        "merged_accounts",
        "dead_letters",
        "outbox",
        "chunks",
        "attempts",
        "events",
        "runs",
    ):
        op.drop_table(table)
