"""Decisions, their pictures, feedback, erasure and its audit trail.

Revision ID: 0001
Revises:
"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

MOMENT = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "picture",
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("media_type", sa.String(32), nullable=False),
        sa.Column("bytes", sa.Integer, nullable=False),
        sa.Column("deleted_at", MOMENT),
        sa.Column("purged_at", MOMENT),
        sa.PrimaryKeyConstraint("sha256", name="pk_picture"),
    )
    marked = sa.text("deleted_at IS NOT NULL AND purged_at IS NULL")
    op.create_index("ix_picture_marked", "picture", ["sha256"], sqlite_where=marked, postgresql_where=marked)
    op.create_table(
        "decision",
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.Column("caller", sa.String(64), nullable=False),
        sa.Column("question", sa.String(64), nullable=False),
        sa.Column("product", sa.String(256)),
        sa.Column("mode", sa.String(16), nullable=False),
        sa.Column("checkpoint", sa.String(80), nullable=False),
        sa.Column("outcome", sa.String(16), nullable=False),
        sa.Column("choice", sa.String(1)),
        sa.Column("confidence", sa.Float, nullable=False),
        sa.Column("needs_review", sa.Boolean, nullable=False),
        sa.Column("answer", sa.JSON, nullable=False),
        sa.Column("retain_until", MOMENT),
        sa.PrimaryKeyConstraint("id", name="pk_decision"),
    )
    for columns in (["created_at"], ["question"], ["product", "id"], ["checkpoint", "id"], ["retain_until"]):
        op.create_index(f"ix_decision_{columns[0]}", "decision", columns)
    op.create_table(
        "decision_picture",
        sa.Column("decision_id", sa.String(64), nullable=False),
        sa.Column("position", sa.Integer, nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.PrimaryKeyConstraint("decision_id", "position", name="pk_decision_picture"),
        sa.ForeignKeyConstraint(
            ["decision_id"], ["decision.id"], name="fk_decision_picture_decision_id", ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["sha256"], ["picture.sha256"], name="fk_decision_picture_sha256"),
    )
    op.create_index("ix_decision_picture_sha256", "decision_picture", ["sha256"])
    op.create_table(
        "feedback",
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("decision_id", sa.String(64), nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.Column("caller", sa.String(64), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("options", sa.String(4)),
        sa.Column("comment", sa.Text),
        sa.Column("idempotency_key", sa.String(255)),
        sa.PrimaryKeyConstraint("id", name="pk_feedback"),
        sa.ForeignKeyConstraint(["decision_id"], ["decision.id"], name="fk_feedback_decision_id", ondelete="CASCADE"),
        sa.UniqueConstraint("decision_id", "caller", "idempotency_key", name="uq_feedback_request"),
    )
    op.create_index("ix_feedback_decision_id", "feedback", ["decision_id"])
    op.create_table(
        "erased_decision",
        sa.Column("decision_id", sa.String(64), nullable=False),
        sa.Column("erased_at", MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("decision_id", name="pk_erased_decision"),
    )
    op.create_table(
        "audit",
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("at", MOMENT, nullable=False),
        sa.Column("caller", sa.String(64), nullable=False),
        sa.Column("action", sa.String(32), nullable=False),
        sa.Column("subject", sa.String(128), nullable=False),
        sa.Column("decisions", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_audit"),
    )


def downgrade() -> None:
    for table in ("audit", "erased_decision", "feedback", "decision_picture", "decision", "picture"):
        op.drop_table(table)
