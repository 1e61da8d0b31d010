"""The review queue: tasks, leases, reviews, consensus, gold questions and exports.

Revision ID: 0002
Revises: 0001
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

MOMENT = sa.DateTime(timezone=True)
TABLES = (
    "export_task", "export", "gold", "consensus", "verdict", "review", "review_lease", "review_slot",
    "task_picture", "review_task", "queue_run",
)  # fmt: skip


def upgrade() -> None:
    op.create_table(
        "queue_run",
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("at", MOMENT, nullable=False),
        sa.Column("caller", sa.String(64), nullable=False),
        sa.Column("since", MOMENT),
        sa.Column("until", MOMENT, nullable=False),
        sa.Column("seed", sa.Integer, nullable=False),
        sa.Column("sizes", sa.JSON, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_queue_run"),
    )
    op.create_table(
        "review_task",
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("job", sa.String(8), nullable=False),
        sa.Column("reason", sa.String(16), nullable=False),
        sa.Column("decision_id", sa.String(64)),
        sa.Column("sample", sa.String(256)),
        sa.Column("batch", sa.String(64)),
        sa.Column("product", sa.String(256)),
        sa.Column("inclusion_probability", sa.Float),
        sa.Column("reviews_required", sa.Integer, nullable=False),
        sa.Column("priority", sa.Float, nullable=False),
        sa.Column("state", sa.String(8), nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.Column("seed", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_review_task"),
        sa.ForeignKeyConstraint(
            ["decision_id"], ["decision.id"], name="fk_review_task_decision_id", ondelete="CASCADE"
        ),
        sa.UniqueConstraint("batch", "sample", name="uq_review_task_sample"),
    )
    op.create_index("ix_review_task_decision_id", "review_task", ["decision_id"])
    op.create_index("ix_review_task_product", "review_task", ["product"])
    op.create_index("ix_review_task_queue", "review_task", ["state", "created_at", "priority"])
    op.create_table(
        "task_picture",
        sa.Column("task_id", sa.String(64), nullable=False),
        sa.Column("position", sa.Integer, nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.PrimaryKeyConstraint("task_id", "position", name="pk_task_picture"),
        _of_task("task_picture"),
        sa.ForeignKeyConstraint(["sha256"], ["picture.sha256"], name="fk_task_picture_sha256"),
    )
    op.create_index("ix_task_picture_sha256", "task_picture", ["sha256"])
    op.create_table(
        "review_slot",
        sa.Column("task_id", sa.String(64), nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("state", sa.String(8), nullable=False),
        sa.Column("lease", sa.String(64)),
        sa.Column("leased_by", sa.String(64)),
        sa.Column("leased_until", MOMENT),
        sa.Column("display_order", sa.String(4), nullable=False),
        sa.PrimaryKeyConstraint("task_id", "number", name="pk_review_slot"),
        _of_task("review_slot"),
    )
    op.create_table(
        "review_lease",
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("task_id", sa.String(64), nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("reviewer", sa.String(64), nullable=False),
        sa.Column("at", MOMENT, nullable=False),
        sa.Column("skipped_at", MOMENT),
        sa.PrimaryKeyConstraint("id", name="pk_review_lease"),
        _of_task("review_lease"),
    )
    op.create_index("ix_review_lease_task_id", "review_lease", ["task_id", "reviewer"])
    _create_results()


def _create_results() -> None:
    op.create_table(
        "review",
        sa.Column("id", sa.String(36), nullable=False),
        sa.Column("task_id", sa.String(64), nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("lease", sa.String(64), nullable=False),
        sa.Column("reviewer", sa.String(64), nullable=False),
        sa.Column("at", MOMENT, nullable=False),
        sa.Column("display_order", sa.String(4), nullable=False),
        sa.Column("blind", sa.Boolean, nullable=False),
        sa.Column("active_seconds", sa.Float, nullable=False),
        sa.Column("comment", sa.Text),
        sa.Column("supersedes", sa.String(36)),
        sa.Column("late", sa.Boolean, nullable=False),
        sa.Column("best", sa.String(1)),
        sa.Column("content", sa.String(64), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_review"),
        _of_task("review"),
        sa.UniqueConstraint("supersedes", name="uq_review_supersedes"),
    )
    op.create_index("ix_review_task_id", "review", ["task_id", "reviewer"])
    op.create_index("ix_review_reviewer", "review", ["reviewer", "at"])
    op.create_table(
        "verdict",
        sa.Column("review_id", sa.String(36), nullable=False),
        sa.Column("position", sa.Integer, nullable=False),
        sa.Column("usable", sa.Boolean, nullable=False),
        sa.Column("dimensions", sa.JSON, nullable=False),
        sa.Column("comment", sa.Text),
        sa.PrimaryKeyConstraint("review_id", "position", name="pk_verdict"),
        sa.ForeignKeyConstraint(["review_id"], ["review.id"], name="fk_verdict_review_id", ondelete="CASCADE"),
    )
    op.create_table(
        "consensus",
        sa.Column("task_id", sa.String(64), nullable=False),
        sa.Column("letters", sa.String(4), nullable=False),
        sa.Column("verdicts", sa.JSON, nullable=False),
        sa.Column("decided", sa.String(12), nullable=False),
        sa.Column("at", MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("task_id", name="pk_consensus"),
        _of_task("consensus"),
    )
    op.create_table(
        "gold",
        sa.Column("task_id", sa.String(64), nullable=False),
        sa.Column("expected", sa.JSON, nullable=False),
        sa.PrimaryKeyConstraint("task_id", name="pk_gold"),
        _of_task("gold"),
    )
    op.create_table(
        "export",
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("at", MOMENT, nullable=False),
        sa.Column("caller", sa.String(64), nullable=False),
        sa.Column("digest", sa.String(80), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_export"),
    )
    op.create_table(
        "export_task",
        sa.Column("export_id", sa.String(64), nullable=False),
        sa.Column("task_id", sa.String(64), nullable=False),
        sa.PrimaryKeyConstraint("export_id", "task_id", name="pk_export_task"),
        sa.ForeignKeyConstraint(["export_id"], ["export.id"], name="fk_export_task_export_id", ondelete="CASCADE"),
    )
    op.create_index("ix_export_task_task_id", "export_task", ["task_id"])


def _of_task(table: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(["task_id"], ["review_task.id"], name=f"fk_{table}_task_id", ondelete="CASCADE")


def downgrade() -> None:
    for table in TABLES:
        op.drop_table(table)
    # Pictures of labelling tasks lost their last reference: the next prune deletes them.
    op.execute(
        "UPDATE picture SET deleted_at = CURRENT_TIMESTAMP "
        "WHERE deleted_at IS NULL AND sha256 NOT IN (SELECT sha256 FROM decision_picture)"
    )
