"""Deletes decisions, on demand and by age, with their feedback, their review tasks and the pictures that nothing else
shows.

Deletion has two steps, so that it can be killed anywhere and run again: rows first, with the pictures that lost their
last decision marked in the same transaction; then the bytes of marked pictures. After a kill between them, the next run
of `python -m service prune` finishes the second step.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from datetime import UTC, datetime

import sqlalchemy as sa

from screening.task import OPTIONS
from service.decisions.database import Database
from service.decisions.picture_store import PictureStore
from service.decisions.review_tables import REVIEW_TASK, TASK_PICTURE
from service.decisions.tables import AUDIT, DECISION, DECISION_PICTURE, ERASED, PICTURE
from service.ids import new_id

BATCH = 500
"""Maximum number of decisions per transaction, and of pictures whose rows are locked at a time."""


def erase_one(database: Database, pictures: PictureStore, identity: str, *, caller: str) -> bool:
    """Erase a decision; returns whether it was there.

    A decision that is not there may still wait to be written: its id is recorded, and the writer skips it.
    """
    return erase(database, pictures, [identity], caller=caller, subject=f"decision {identity}") > 0


def erase(database: Database, pictures: PictureStore, ids: Sequence[str], *, caller: str, subject: str) -> int:
    """Erase decisions; returns how many of them were there.

    Args:
        subject: the request for the audit trail; it must not repeat personal data.
    """
    count = 0
    for start in range(0, len(ids), BATCH):
        some = ids[start : start + BATCH]
        with database.writing() as connection:
            database.lock_erasure(connection, shared=False)
            found = _delete(connection, some)
            _note_erased(connection, some)
            _audit(connection, caller, "erase", subject, found)
        count += found
    purge(database, pictures)
    return count


def of_product(database: Database, product: str) -> list[str]:
    """The ids of all decisions about a product."""
    with database.reading() as connection:
        return list(connection.scalars(sa.select(DECISION.c.id).where(DECISION.c.product == product)))


def erase_samples(database: Database, pictures: PictureStore, product: str, *, caller: str) -> int:
    """Erase the labelling tasks of imported samples of a product, with their reviews; returns how many there were."""
    of_product = REVIEW_TASK.c.product == product
    return _erase_tasks(database, pictures, of_product, caller=caller, subject="samples of a product")


def erase_batch(database: Database, pictures: PictureStore, batch: str, sample: str | None, *, caller: str) -> int:
    """Erase the labelling tasks of an import and the gold questions that repeat them, with their reviews.

    Args:
        sample: id of the only sample to erase; None for all of the import.

    Returns:
        How many tasks there were.
    """

    def is_meant(task: sa.FromClause) -> sa.ColumnElement[bool]:
        return sa.and_(task.c.batch == batch, sa.true() if sample is None else task.c.sample == sample)

    # A gold question names no sample. It shows the same five pictures as its source.
    source, theirs, own = REVIEW_TASK.alias(), TASK_PICTURE.alias(), TASK_PICTURE.alias()
    is_equal = sa.and_(own.c.position == theirs.c.position, own.c.sha256 == theirs.c.sha256)
    sources = (
        sa.select(source.c.id)
        .join(theirs, theirs.c.task_id == source.c.id)
        .join(own, is_equal)
        .where(is_meant(source), own.c.task_id == REVIEW_TASK.c.id)
        .group_by(source.c.id)
        .having(sa.func.count() == 1 + len(OPTIONS))
        .correlate(REVIEW_TASK)
    )
    repeats = sa.and_(REVIEW_TASK.c.batch.is_(None), sources.exists())
    chosen = sa.or_(is_meant(REVIEW_TASK), repeats)
    return _erase_tasks(database, pictures, chosen, caller=caller, subject="samples of an import")


def _erase_tasks(
    database: Database, pictures: PictureStore, chosen: sa.ColumnElement[bool], *, caller: str, subject: str
) -> int:
    """Erase tasks without a decision, which are those of imported samples; returns how many there were."""
    with database.writing() as connection:
        database.lock_erasure(connection, shared=False)
        query = sa.select(REVIEW_TASK.c.id).where(chosen, REVIEW_TASK.c.decision_id.is_(None))
        tasks = connection.scalars(query).all()
        for start in range(0, len(tasks), BATCH):
            some = tasks[start : start + BATCH]
            addresses = connection.scalars(
                sa.select(TASK_PICTURE.c.sha256).where(TASK_PICTURE.c.task_id.in_(some)).distinct()
            ).all()
            connection.execute(sa.delete(REVIEW_TASK).where(REVIEW_TASK.c.id.in_(some)))
            mark_unreferenced(connection, addresses)
        _audit(connection, caller, "erase", subject, len(tasks))
    purge(database, pictures)
    return len(tasks)


def with_metadata(database: Database, key: str, value: str) -> list[str]:
    """The ids of all decisions with this text, or this whole number, at a key of the metadata.

    The database only looks for the key: its JSON functions fail on escapes such as `\\u0000`, which metadata may hold.
    """
    named = sa.cast(DECISION.c.answer, sa.Text).contains(f"{json.dumps(key)}: ", autoescape=True)
    query = sa.select(DECISION.c.id, DECISION.c.answer).where(named).execution_options(yield_per=BATCH)
    with database.reading() as connection:
        found = ((row.id, row.answer["metadata"].get(key)) for row in connection.execute(query))
        return [identity for identity, held in found if type(held) in (str, int) and str(held) == value]


def prune(database: Database, pictures: PictureStore, now: datetime) -> tuple[int, int]:
    """Delete decisions whose retention time has passed; returns how many, and how many pictures were deleted."""
    count = 0
    while ids := _expired(database, now):
        with database.writing() as connection:
            database.lock_erasure(connection, shared=False)
            found = _delete(connection, ids)
            _audit(connection, "prune", "expire", f"retain_until <= {now:%Y-%m-%dT%H:%M:%SZ}", found)
        count += found
    return count, purge(database, pictures)


def purge(database: Database, pictures: PictureStore) -> int:
    """Delete the bytes of marked pictures; returns how many.

    Their rows stay locked meanwhile: a writer that gets the same picture again waits, and writes it after the deletion.
    """
    count = 0
    while True:
        with database.writing() as connection:
            marked = connection.scalars(
                sa.select(PICTURE.c.sha256)
                .where(PICTURE.c.deleted_at.is_not(None), PICTURE.c.purged_at.is_(None))
                .order_by(PICTURE.c.sha256)
                .limit(BATCH)
                .with_for_update()
            ).all()
            if not marked:
                return count
            pictures.delete(marked)
            purged = sa.update(PICTURE).where(PICTURE.c.sha256.in_(marked))
            connection.execute(purged.values(purged_at=datetime.now(UTC)))
        count += len(marked)


def _expired(database: Database, now: datetime) -> list[str]:
    """Some decisions whose time has passed, in the order of the index on it."""
    query = sa.select(DECISION.c.id).where(DECISION.c.retain_until <= now).order_by(DECISION.c.retain_until)
    with database.reading() as connection:
        return list(connection.scalars(query.limit(BATCH)))


def _delete(connection: sa.Connection, ids: Sequence[str]) -> int:
    """Delete decisions, and mark the pictures that lost their last one; returns how many decisions there were."""
    addresses = connection.scalars(
        sa.select(DECISION_PICTURE.c.sha256).where(DECISION_PICTURE.c.decision_id.in_(ids)).distinct()
    ).all()
    deleted = connection.execute(sa.delete(DECISION).where(DECISION.c.id.in_(ids))).rowcount
    mark_unreferenced(connection, addresses)
    return deleted


def mark_unreferenced(connection: sa.Connection, addresses: Collection[str]) -> None:
    """Mark those of the pictures that no decision and no review task shows, so that `purge` deletes them."""
    # Take the locks before asking what still refers to them: a writer may have committed a reference while we waited.
    connection.execute(
        sa.select(PICTURE.c.sha256).where(PICTURE.c.sha256.in_(addresses)).order_by(PICTURE.c.sha256).with_for_update()
    ).all()
    by_decision = sa.exists().where(DECISION_PICTURE.c.sha256 == PICTURE.c.sha256)
    by_task = sa.exists().where(TASK_PICTURE.c.sha256 == PICTURE.c.sha256)
    unreferenced = sa.update(PICTURE).where(PICTURE.c.sha256.in_(addresses), ~by_decision, ~by_task)
    connection.execute(unreferenced.values(deleted_at=datetime.now(UTC)))


def _note_erased(connection: sa.Connection, ids: Sequence[str]) -> None:
    noted = set(connection.scalars(sa.select(ERASED.c.decision_id).where(ERASED.c.decision_id.in_(ids))))
    now = datetime.now(UTC)
    rows = [{"decision_id": identity, "erased_at": now} for identity in ids if identity not in noted]
    if rows:
        connection.execute(sa.insert(ERASED), rows)


def _audit(connection: sa.Connection, caller: str, action: str, subject: str, decisions: int) -> None:
    row = {"id": new_id("aud_"), "at": datetime.now(UTC), "caller": caller, "action": action}
    connection.execute(sa.insert(AUDIT).values(**row, subject=subject, decisions=decisions))
