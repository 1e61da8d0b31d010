"""The tables of the review queue: tasks, leases, reviews, consensus, gold questions and exports.

Everything about a decision refers to its task, and a task refers to its decision with `ON DELETE CASCADE`: erasing the
decision erases all of it. Changes need a migration (`migrations/versions`); a test compares the two.
"""

from __future__ import annotations

import sqlalchemy as sa

from service.decisions.tables import METADATA, Moment


def _task_key() -> sa.ForeignKey:
    return sa.ForeignKey("review_task.id", ondelete="CASCADE")


QUEUE_RUN = sa.Table(
    "queue_run",
    METADATA,
    # One run that made tasks from the decisions of a period. Its sizes explain the inclusion probabilities.
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("at", Moment, nullable=False),
    sa.Column("caller", sa.String(64), nullable=False),
    sa.Column("since", Moment, nullable=True),
    sa.Column("until", Moment, nullable=False),
    sa.Column("seed", sa.Integer, nullable=False),
    sa.Column("sizes", sa.JSON, nullable=False),
)

REVIEW_TASK = sa.Table(
    "review_task",
    METADATA,
    sa.Column("id", sa.String(64), primary_key=True),
    # `review`: a stored decision. `label`: a sample of an imported data directory.
    sa.Column("job", sa.String(8), nullable=False),
    # `low_confidence`, `disagreement`, `audit`, `gold`, `repeat` or `label`.
    sa.Column("reason", sa.String(16), nullable=False),
    sa.Column("decision_id", sa.ForeignKey("decision.id", ondelete="CASCADE"), nullable=True, index=True),
    # Of an imported sample: its id, and the name of the import.
    sa.Column("sample", sa.String(256), nullable=True),
    sa.Column("batch", sa.String(64), nullable=True),
    sa.Column("product", sa.String(256), nullable=True, index=True),
    # Probability with which the run chose this decision; null if it was not drawn at random.
    sa.Column("inclusion_probability", sa.Float, nullable=True),
    sa.Column("reviews_required", sa.Integer, nullable=False),
    # Order among the tasks that were made at the same time: random, so that the order does not reveal the reason.
    sa.Column("priority", sa.Float, nullable=False),
    # `open` or `done`.
    sa.Column("state", sa.String(8), nullable=False),
    sa.Column("created_at", Moment, nullable=False),
    # Seed of the display orders.
    sa.Column("seed", sa.Integer, nullable=False),
    sa.UniqueConstraint("batch", "sample", name="uq_review_task_sample"),
    sa.Index("ix_review_task_queue", "state", "created_at", "priority"),
)

TASK_PICTURE = sa.Table(
    "task_picture",
    METADATA,
    sa.Column("task_id", _task_key(), primary_key=True),
    # 0 is the original, 1 to 4 are the generated pictures A to D.
    sa.Column("position", sa.Integer, primary_key=True),
    sa.Column("sha256", sa.ForeignKey("picture.sha256"), nullable=False, index=True),
)

REVIEW_SLOT = sa.Table(
    "review_slot",
    METADATA,
    sa.Column("task_id", _task_key(), primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True),
    # `free`, `leased` or `done`. A leased slot whose time has passed is as good as free.
    sa.Column("state", sa.String(8), nullable=False),
    sa.Column("lease", sa.String(64), nullable=True),
    sa.Column("leased_by", sa.String(64), nullable=True),
    sa.Column("leased_until", Moment, nullable=True),
    # Letters in the order in which the page shows them: "CADB" shows C first.
    sa.Column("display_order", sa.String(4), nullable=False),
)

REVIEW_LEASE = sa.Table(
    "review_lease",
    METADATA,
    # Every lease that was ever granted, so that work that comes late still finds its task.
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("task_id", _task_key(), nullable=False),
    sa.Column("number", sa.Integer, nullable=False),
    sa.Column("reviewer", sa.String(64), nullable=False),
    sa.Column("at", Moment, nullable=False),
    sa.Column("skipped_at", Moment, nullable=True),
    sa.Index("ix_review_lease_task_id", "task_id", "reviewer"),
)

REVIEW = sa.Table(
    "review",
    METADATA,
    # A UUID of the client's making, so that a repeated submission is recognised.
    sa.Column("id", sa.String(36), primary_key=True),
    sa.Column("task_id", _task_key(), nullable=False),
    sa.Column("number", sa.Integer, nullable=False),
    # The lease that a correction of this review names.
    sa.Column("lease", sa.String(64), nullable=False),
    sa.Column("reviewer", sa.String(64), nullable=False),
    sa.Column("at", Moment, nullable=False),
    sa.Column("display_order", sa.String(4), nullable=False),
    # Whether the reviewer had not seen the model's answer.
    sa.Column("blind", sa.Boolean, nullable=False),
    sa.Column("active_seconds", sa.Float, nullable=False),
    sa.Column("comment", sa.Text, nullable=True),
    # The earlier review of the same person that this one corrects. Reviews are only added, never changed.
    sa.Column("supersedes", sa.String(36), nullable=True),
    # Whether another person held the slot when the review arrived.
    sa.Column("late", sa.Boolean, nullable=False),
    sa.Column("best", sa.String(1), nullable=True),
    # SHA-256 of the submission, to tell a repetition from another submission with the same id.
    sa.Column("content", sa.String(64), nullable=False),
    sa.UniqueConstraint("supersedes", name="uq_review_supersedes"),
    sa.Index("ix_review_task_id", "task_id", "reviewer"),
    sa.Index("ix_review_reviewer", "reviewer", "at"),
)

VERDICT = sa.Table(
    "verdict",
    METADATA,
    sa.Column("review_id", sa.ForeignKey("review.id", ondelete="CASCADE"), primary_key=True),
    # 1 to 4 for the letters A to D, whatever the display order was.
    sa.Column("position", sa.Integer, primary_key=True),
    sa.Column("usable", sa.Boolean, nullable=False),
    # Severity, 1 to 3, by name of the dimension.
    sa.Column("dimensions", sa.JSON, nullable=False),
    sa.Column("comment", sa.Text, nullable=True),
)

CONSENSUS = sa.Table(
    "consensus",
    METADATA,
    # Derived from the reviews.
    sa.Column("task_id", _task_key(), primary_key=True),
    # Letters of the usable pictures, or `N`.
    sa.Column("letters", sa.String(4), nullable=False),
    # Four objects {usable, dimensions, comment}, A to D.
    sa.Column("verdicts", sa.JSON, nullable=False),
    # `one`, `agreed` or `adjudicated`.
    sa.Column("decided", sa.String(12), nullable=False),
    sa.Column("at", Moment, nullable=False),
)

GOLD = sa.Table(
    "gold",
    METADATA,
    sa.Column("task_id", _task_key(), primary_key=True),
    # Four objects {usable, dimensions}, A to D.
    sa.Column("expected", sa.JSON, nullable=False),
)

EXPORT = sa.Table(
    "export",
    METADATA,
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("at", Moment, nullable=False),
    sa.Column("caller", sa.String(64), nullable=False),
    sa.Column("digest", sa.String(80), nullable=False),
)

EXPORT_TASK = sa.Table(
    "export_task",
    METADATA,
    sa.Column("export_id", sa.ForeignKey("export.id", ondelete="CASCADE"), primary_key=True),
    # Not a foreign key: an erasure must still find the snapshots that hold what it erased.
    sa.Column("task_id", sa.String(64), primary_key=True, index=True),
)
