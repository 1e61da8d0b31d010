"""Queries of the HTTP interface: pages of decisions, one decision, and its pictures."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from service.decisions.database import Database
from service.decisions.tables import DECISION, DECISION_PICTURE, FEEDBACK, PICTURE


@dataclass(frozen=True, slots=True)
class Filters:
    """Conditions that the decisions of a page fulfil. None: any value."""

    since: datetime | None = None
    """At this time or later."""
    until: datetime | None = None
    """Before this time."""
    checkpoint: str | None = None
    choice: str | None = None
    min_confidence: float | None = None
    max_confidence: float | None = None
    needs_review: bool | None = None
    product: str | None = None
    caller: str | None = None

    def conditions(self) -> list[sa.ColumnElement[bool]]:
        """The conditions on the table `decision`."""
        c = DECISION.c
        comparisons = [
            (self.since, c.created_at.__ge__),
            (self.until, c.created_at.__lt__),
            (self.checkpoint, c.checkpoint.__eq__),
            (self.choice, c.choice.__eq__),
            (self.min_confidence, c.confidence.__ge__),
            (self.max_confidence, c.confidence.__le__),
            (self.needs_review, c.needs_review.__eq__),
            (self.product, c.product.__eq__),
            (self.caller, c.caller.__eq__),
        ]
        return [compare(value) for value, compare in comparisons if value is not None]


def page(database: Database, filters: Filters, *, before: str | None, limit: int) -> list[sa.Row[Any]]:
    """Decisions, newest first.

    Args:
        before: the id of the last decision of the previous page; None for the first page.
    """
    query = sa.select(DECISION).where(*filters.conditions()).order_by(DECISION.c.id.desc()).limit(limit)
    if before is not None:
        query = query.where(DECISION.c.id < before)
    with database.reading() as connection:
        return list(connection.execute(query).all())


def one(database: Database, identity: str) -> tuple[sa.Row[Any], list[sa.Row[Any]], list[sa.Row[Any]]] | None:
    """A decision, its pictures (position, address, media type, size) and its feedback, oldest first; None if absent."""
    with database.reading() as connection:
        decision = connection.execute(sa.select(DECISION).where(DECISION.c.id == identity)).one_or_none()
        if decision is None:
            return None
        pictures = connection.execute(
            sa.select(DECISION_PICTURE.c.position, PICTURE.c.sha256, PICTURE.c.media_type, PICTURE.c.bytes)
            .join(PICTURE)
            .where(DECISION_PICTURE.c.decision_id == identity)
            .order_by(DECISION_PICTURE.c.position)
        ).all()
        feedback = connection.execute(
            sa.select(FEEDBACK).where(FEEDBACK.c.decision_id == identity).order_by(FEEDBACK.c.id)
        ).all()
        return decision, list(pictures), list(feedback)


def picture_of(database: Database, identity: str, position: int) -> tuple[str, str] | None:
    """Address and media type of a decision's picture; None if there is no such decision."""
    query = (
        sa.select(PICTURE.c.sha256, PICTURE.c.media_type)
        .join(DECISION_PICTURE)
        .where(DECISION_PICTURE.c.decision_id == identity, DECISION_PICTURE.c.position == position)
    )
    with database.reading() as connection:
        row = connection.execute(query).one_or_none()
        return None if row is None else (row.sha256, row.media_type)
