"""Stores feedback: what became of a decision, reported by a caller or a person. Rows are only added."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from service.decisions.database import Database
from service.decisions.tables import DECISION, FEEDBACK
from service.errors import IdempotencyKeyReused
from service.ids import new_id


class UnknownDecision(Exception):
    """The database does not have this decision: it was never stored, is not written yet, or was erased."""


def add(
    database: Database,
    decision: str,
    *,
    caller: str,
    kind: str,
    options: str | None,
    comment: str | None,
    idempotency_key: str | None,
) -> tuple[sa.Row[Any], bool]:
    """Add feedback to a decision; returns its row, and whether it is new.

    A repetition with the same key, caller and decision adds nothing.

    Raises:
        UnknownDecision: there is no such decision.
        IdempotencyKeyReused: the key was used with other feedback before.
    """
    said = {"kind": kind, "options": options, "comment": comment}
    with database.writing() as connection:
        # The lock is held until the commit, so that no erasure comes between.
        found = sa.select(DECISION.c.id).where(DECISION.c.id == decision).with_for_update()
        if connection.execute(found).one_or_none() is None:
            raise UnknownDecision(decision)
        if idempotency_key is not None:
            earlier = connection.execute(
                sa.select(FEEDBACK).where(
                    FEEDBACK.c.decision_id == decision,
                    FEEDBACK.c.caller == caller,
                    FEEDBACK.c.idempotency_key == idempotency_key,
                )
            ).one_or_none()
            if earlier is not None:
                if any(getattr(earlier, name) != value for name, value in said.items()):
                    raise IdempotencyKeyReused("piece of feedback")
                return earlier, False
        identity = new_id("fbk_")
        connection.execute(
            sa.insert(FEEDBACK).values(
                id=identity,
                decision_id=decision,
                created_at=datetime.now(UTC),
                caller=caller,
                idempotency_key=idempotency_key,
                **said,
            )
        )
        return connection.execute(sa.select(FEEDBACK).where(FEEDBACK.c.id == identity)).one(), True
