"""Decided labels with what a snapshot needs, and the record of the snapshots that were taken."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from screening.task import OPTIONS
from service.decisions.database import BATCH, Database
from service.decisions.review_tables import CONSENSUS, EXPORT, EXPORT_TASK, REVIEW_TASK, TASK_PICTURE
from service.decisions.tables import DECISION, PICTURE
from service.errors import ReviewConflict
from service.ids import new_id
from service.review.consensus import last_reviews
from service.review.leases import pictures_of


def page(database: Database, *, after: str | None, limit: int) -> list[dict[str, Any]]:
    """Decided tasks by id, without gold questions and repeats: these show pictures of other tasks again.

    Args:
        after: id of the last task of the previous page; None for the first page.
    """
    query = (
        sa.select(REVIEW_TASK, CONSENSUS, DECISION.c.checkpoint, DECISION.c.answer)
        .join(CONSENSUS)
        .outerjoin(DECISION, REVIEW_TASK.c.decision_id == DECISION.c.id)
        .where(REVIEW_TASK.c.state == "done", REVIEW_TASK.c.reason.not_in(("gold", "repeat")))
        .order_by(REVIEW_TASK.c.id)
        .limit(limit)
    )
    if after is not None:
        query = query.where(REVIEW_TASK.c.id > after)
    with database.reading() as connection:
        return [_item(connection, row) for row in connection.execute(query).all()]


def picture(database: Database, sha256: str) -> str | None:
    """Media type of a picture that some task shows; None if there is none."""
    query = sa.select(PICTURE.c.media_type).join(TASK_PICTURE).where(PICTURE.c.sha256 == sha256).limit(1)
    with database.reading() as connection:
        return connection.execute(query).scalar_one_or_none()


def note(database: Database, *, caller: str, digest: str, tasks: Sequence[str]) -> str:
    """Record that a snapshot with these tasks was taken; returns the id of the record.

    Raises:
        ReviewConflict: a task was erased meanwhile, so that the snapshot must be taken again.
    """
    wanted = sorted(set(tasks))
    with database.writing() as connection:
        database.lock_erasure(connection, shared=True)
        for start in range(0, len(wanted), BATCH):
            _refuse_missing(connection, wanted[start : start + BATCH])
        identity = new_id("exp_")
        row = {"id": identity, "at": database.now(connection), "caller": caller, "digest": digest}
        connection.execute(sa.insert(EXPORT).values(row))
        if wanted:
            connection.execute(sa.insert(EXPORT_TASK), [{"export_id": identity, "task_id": task} for task in wanted])
        return identity


def snapshots(database: Database) -> list[dict[str, Any]]:
    """The recorded snapshots, oldest first, with how many of their tasks were erased or have expired since."""
    gone = sa.func.sum(sa.case((REVIEW_TASK.c.id.is_(None), 1), else_=0))
    query = (
        sa.select(EXPORT, sa.func.count(EXPORT_TASK.c.task_id).label("tasks"), gone.label("erased"))
        .select_from(EXPORT)
        .outerjoin(EXPORT_TASK)
        .outerjoin(REVIEW_TASK, REVIEW_TASK.c.id == EXPORT_TASK.c.task_id)
        .group_by(*EXPORT.c)
        .order_by(EXPORT.c.at)
    )
    with database.reading() as connection:
        return [
            {
                "id": row.id, "at": row.at.isoformat(), "caller": row.caller, "digest": row.digest,
                "tasks": row.tasks, "erased": row.erased if row.tasks else 0,
            }
            for row in connection.execute(query)
        ]  # fmt: skip


def _refuse_missing(connection: sa.Connection, tasks: Sequence[str]) -> None:
    locked = sa.select(REVIEW_TASK.c.id).where(REVIEW_TASK.c.id.in_(tasks)).with_for_update(read=True, key_share=True)
    missing = sorted(set(tasks) - set(connection.scalars(locked)))
    if missing:
        raise ReviewConflict(f"tasks: {missing[0]} does not exist; it may have been erased. Take the snapshot again.")


def _item(connection: sa.Connection, row: sa.Row[Any]) -> dict[str, Any]:
    reviews = last_reviews(connection, row.id)
    answer = row.answer
    return {
        "task": row.id,
        "job": row.job,
        "decision": row.decision_id,
        "sample": row.sample,
        "batch": row.batch,
        "product": row.product,
        "reason": row.reason,
        "inclusion_probability": row.inclusion_probability,
        "checkpoint": row.checkpoint,
        "model": answer and {name: answer[name] for name in ("choice", "acceptable", "confidence", "reasoning")},
        "decided": row.decided,
        "reviewers": len({review.reviewer for review in reviews}),
        "letters": row.letters,
        "pictures": [{"option": option, **verdict} for option, verdict in zip(OPTIONS, row.verdicts, strict=True)],
        "files": [dict(one._mapping) for one in pictures_of(connection, row.id)],
        "reviews": sorted(review.id for review in reviews),
        "at": row.at,
    }
