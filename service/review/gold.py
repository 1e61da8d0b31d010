"""Gold questions: tasks whose label is known, which a lead marks. The queue mixes copies of them in, to see whether
reviewers notice what they should."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from service.decisions.database import Database
from service.decisions.review_tables import CONSENSUS, GOLD, REVIEW_TASK


class GoldError(Exception):
    """The task cannot become a gold question; the message says why."""


def add(database: Database, task: str) -> str:
    """Mark a decided task as the source of gold questions; returns the letters of its usable pictures.

    Raises:
        GoldError: there is no such task, or its label is not decided.
    """
    with database.writing() as connection:
        query = sa.select(CONSENSUS).join(REVIEW_TASK).where(REVIEW_TASK.c.id == task, REVIEW_TASK.c.reason != "gold")
        found = connection.execute(query).one_or_none()
        if found is None:
            raise GoldError(f"there is no task {task} with a decided label. GET /review/export lists such tasks.")
        connection.execute(sa.delete(GOLD).where(GOLD.c.task_id == task))
        expected = [{"usable": one["usable"], "dimensions": one["dimensions"]} for one in found.verdicts]
        connection.execute(sa.insert(GOLD).values(task_id=task, expected=expected))
        return str(found.letters)


def remove(database: Database, task: str) -> bool:
    """Stop making gold questions from a task; returns whether it was marked. Earlier copies stay in the queue."""
    with database.writing() as connection:
        return connection.execute(sa.delete(GOLD).where(GOLD.c.task_id == task)).rowcount > 0


def listed(database: Database) -> list[dict[str, Any]]:
    """The sources of gold questions."""
    query = sa.select(GOLD, REVIEW_TASK.c.product).join(REVIEW_TASK).where(REVIEW_TASK.c.reason != "gold")
    with database.reading() as connection:
        return [
            {"task": row.task_id, "product": row.product, "expected": row.expected}
            for row in connection.execute(query.order_by(GOLD.c.task_id))
        ]
