"""The tables of the decision database, for SQLite and PostgreSQL alike.

Changes need a migration (`migrations/versions`); a test compares the two.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

VERSION_TABLE = "screening_schema_version"
"""Alembic's own default name belongs to MLflow, whose tables may live in the same database."""

NAMING = {
    "ix": "ix_%(table_name)s_%(column_0_name)s",
    "uq": "uq_%(table_name)s_%(column_0_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s",
    "pk": "pk_%(table_name)s",
}
METADATA = sa.MetaData(naming_convention=NAMING)


class Moment(sa.types.TypeDecorator[datetime]):
    """A time in UTC. SQLite forgets time zones; they are put back on reading."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Any) -> datetime | None:  # noqa: ARG002
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Any) -> datetime | None:  # noqa: ARG002
        return None if value is None else (value if value.tzinfo else value.replace(tzinfo=UTC)).astimezone(UTC)


PICTURE = sa.Table(
    "picture",
    METADATA,
    sa.Column("sha256", sa.String(64), primary_key=True),
    sa.Column("media_type", sa.String(32), nullable=False),
    sa.Column("bytes", sa.Integer, nullable=False),
    # Set when no decision refers to it any more; its bytes are then deleted, after which `purged_at` is set.
    sa.Column("deleted_at", Moment, nullable=True),
    sa.Column("purged_at", Moment, nullable=True),
)
_MARKED = sa.and_(PICTURE.c.deleted_at.is_not(None), PICTURE.c.purged_at.is_(None))
sa.Index("ix_picture_marked", PICTURE.c.sha256, sqlite_where=_MARKED, postgresql_where=_MARKED)

DECISION = sa.Table(
    "decision",
    METADATA,
    # The `id` of the answer. The id begins with its time, so ids sort by time.
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("created_at", Moment, nullable=False, index=True),
    sa.Column("caller", sa.String(64), nullable=False),
    # Digest of mode, `locate` and pictures: equal for identical requests.
    sa.Column("question", sa.String(64), nullable=False, index=True),
    # `metadata.product` of the request, if it is a text.
    sa.Column("product", sa.String(256), nullable=True),
    sa.Column("mode", sa.String(16), nullable=False),
    sa.Column("checkpoint", sa.String(80), nullable=False),
    sa.Column("outcome", sa.String(16), nullable=False),
    sa.Column("choice", sa.String(1), nullable=True),
    sa.Column("confidence", sa.Float, nullable=False),
    sa.Column("needs_review", sa.Boolean, nullable=False),
    # The whole answer as the caller got it, metadata included.
    sa.Column("answer", sa.JSON, nullable=False),
    sa.Column("retain_until", Moment, nullable=True, index=True),
    # With `id`, so that a page is read in its order and not sorted.
    sa.Index("ix_decision_product", "product", "id"),
    sa.Index("ix_decision_checkpoint", "checkpoint", "id"),
)

DECISION_PICTURE = sa.Table(
    "decision_picture",
    METADATA,
    sa.Column("decision_id", sa.ForeignKey("decision.id", ondelete="CASCADE"), primary_key=True),
    # 0 is the original, 1 to 4 are the generated pictures A to D.
    sa.Column("position", sa.Integer, primary_key=True),
    sa.Column("sha256", sa.ForeignKey("picture.sha256"), nullable=False, index=True),
)

FEEDBACK = sa.Table(
    "feedback",
    METADATA,
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("decision_id", sa.ForeignKey("decision.id", ondelete="CASCADE"), nullable=False, index=True),
    sa.Column("created_at", Moment, nullable=False),
    sa.Column("caller", sa.String(64), nullable=False),
    sa.Column("kind", sa.String(16), nullable=False),
    # Letters of the pictures concerned, "" for none, null if the kind needs none.
    sa.Column("options", sa.String(4), nullable=True),
    sa.Column("comment", sa.Text, nullable=True),
    sa.Column("idempotency_key", sa.String(255), nullable=True),
    sa.UniqueConstraint("decision_id", "caller", "idempotency_key", name="uq_feedback_request"),
)

ERASED = sa.Table(
    "erased_decision",
    METADATA,
    # Contains also decisions that were not written yet: the writer skips them.
    sa.Column("decision_id", sa.String(64), primary_key=True),
    sa.Column("erased_at", Moment, nullable=False),
)

AUDIT = sa.Table(
    "audit",
    METADATA,
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("at", Moment, nullable=False),
    sa.Column("caller", sa.String(64), nullable=False),
    sa.Column("action", sa.String(32), nullable=False),
    # What was asked for, without personal data: `decision scr_…`, or `product` without its value.
    sa.Column("subject", sa.String(128), nullable=False),
    sa.Column("decisions", sa.Integer, nullable=False),
)
