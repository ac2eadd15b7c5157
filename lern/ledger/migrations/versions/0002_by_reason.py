"""Indexes for whoever looks at what failed, what waits and what is dead, by reason; and at what was done about it."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the indexes."""
    _partly("runs_by_reason", "runs", "state", "reason", "created_at", "id", where="reason IS NOT NULL")
    op.create_index("dead_letters_by_reason", "dead_letters", ["state", "code", "last_at", "id"])
    _partly("audit_by_dead", "audit", "dead_id", "id", where="dead_id IS NOT NULL")


def _partly(name: str, table: str, *columns: str, where: str) -> None:
    op.create_index(name, table, list(columns), sqlite_where=sa.text(where), postgresql_where=sa.text(where))


def downgrade() -> None:
    """Drop them."""
    op.drop_index("audit_by_dead", "audit")
    op.drop_index("dead_letters_by_reason", "dead_letters")
    op.drop_index("runs_by_reason", "runs")
