"""Leases: for ten minutes one person has one slot of a task, and a heartbeat extends this time.

The times are those of the database's clock. A lease that ends early loses no work: its review is kept as late work.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from screening.task import OPTIONS
from service.decisions.database import Database
from service.decisions.review_tables import REVIEW, REVIEW_LEASE, REVIEW_SLOT, REVIEW_TASK, TASK_PICTURE
from service.decisions.tables import PICTURE
from service.errors import LeaseLost, LeaseNotFound
from service.ids import new_id

LEASE = timedelta(minutes=10)
AWAY = timedelta(hours=1)
"""Time for which a person does not get a task that the person skipped, nor another slot of a task that the person was
given: the work on it may still arrive."""

MAX_WAITING = 1000
"""Maximum number of waiting tasks that are counted."""


@dataclass(frozen=True, slots=True)
class Lease:
    """A slot that one person works on."""

    id: str
    job: str
    until: datetime
    display_order: str
    pictures: Sequence[sa.Row[Any]]
    """Position, address, media type and size, in the order of positions."""


def lease(database: Database, reviewer: str, *, count: int, job: str | None) -> tuple[list[Lease], int]:
    """Give a person up to `count` tasks; returns them, and how many tasks the person could still get, at most
    `MAX_WAITING`. Fewer tasks than wait may be given while others take them.

    Args:
        job: `review` or `label`; None for either.
    """
    with database.writing() as connection:
        database.lock_name(connection, reviewer)
        now = database.now(connection)
        leases: list[Lease] = []
        while len(leases) < count and (slot := _next_slot(connection, reviewer, job, now)) is not None:
            leases.append(_take(connection, slot, reviewer, now))
        return leases, _waiting(connection, reviewer, job, now)


def waiting(database: Database, reviewer: str, job: str | None) -> int:
    """How many tasks a person could get now."""
    with database.reading() as connection:
        return _waiting(connection, reviewer, job, database.now(connection))


def extend(database: Database, identity: str, reviewer: str) -> datetime:
    """Extend a lease; returns its new end.

    Raises:
        LeaseNotFound: the person has no such lease.
        LeaseLost: another person has the slot now, or it is done.
    """
    with database.writing() as connection:
        held = lease_of(connection, identity, reviewer)
        until = database.now(connection) + LEASE
        extended = sa.update(REVIEW_SLOT).where(REVIEW_SLOT.c.lease == identity, REVIEW_SLOT.c.state == "leased")
        extended = extended.where(*_slot_of(held)).values(leased_until=until)
        if connection.execute(extended).rowcount == 0:
            raise LeaseLost(
                "Another person has this task now, or it is reviewed. A review that you send is still kept."
            )
        return until


def skip(database: Database, identity: str, reviewer: str) -> None:
    """End a lease without a review. The slot becomes free for others.

    Raises:
        LeaseNotFound: the person has no such lease.
    """
    with database.writing() as connection:
        held = lease_of(connection, identity, reviewer)
        freed = sa.update(REVIEW_SLOT).where(REVIEW_SLOT.c.lease == identity, REVIEW_SLOT.c.state == "leased")
        freed = freed.where(*_slot_of(held)).values(state="free", lease=None, leased_by=None, leased_until=None)
        connection.execute(freed)
        marked = sa.update(REVIEW_LEASE).where(REVIEW_LEASE.c.id == identity)
        connection.execute(marked.values(skipped_at=database.now(connection)))


def picture_of(database: Database, identity: str, reviewer: str, number: int) -> tuple[str, str]:
    """Address and media type of a lease's picture; 0 is the original, 1 to 4 are the others as displayed.

    Raises:
        LeaseNotFound: the person has no such lease.
    """
    with database.reading() as connection:
        held = lease_of(connection, identity, reviewer)
        order = connection.execute(sa.select(REVIEW_SLOT.c.display_order).where(*_slot_of(held))).scalar_one()
        return displayed_picture(connection, held.task_id, order, number)


def displayed_picture(connection: sa.Connection, task: str, order: str, number: int) -> tuple[str, str]:
    """Address and media type of a task's picture as displayed in an order."""
    position = 0 if number == 0 else OPTIONS.index(order[number - 1]) + 1
    query = (
        sa.select(PICTURE.c.sha256, PICTURE.c.media_type)
        .join(TASK_PICTURE)
        .where(TASK_PICTURE.c.task_id == task, TASK_PICTURE.c.position == position)
    )
    row = connection.execute(query).one()
    return row.sha256, row.media_type


def lease_of(connection: sa.Connection, identity: str, reviewer: str) -> sa.Row[Any]:
    """The row of a person's lease.

    Raises:
        LeaseNotFound: the person has no such lease.
    """
    query = sa.select(REVIEW_LEASE).where(REVIEW_LEASE.c.id == identity, REVIEW_LEASE.c.reviewer == reviewer)
    row = connection.execute(query).one_or_none()
    if row is None:
        raise LeaseNotFound("You have no such lease. Its task may have been erased. Lease another task.")
    return row


def pictures_of(connection: sa.Connection, task: str) -> Sequence[sa.Row[Any]]:
    """Position, address, media type and size of a task's pictures."""
    return connection.execute(
        sa.select(TASK_PICTURE.c.position, PICTURE.c.sha256, PICTURE.c.media_type, PICTURE.c.bytes)
        .join(PICTURE)
        .where(TASK_PICTURE.c.task_id == task)
        .order_by(TASK_PICTURE.c.position)
    ).all()


def _slot_of(held: sa.Row[Any]) -> tuple[sa.ColumnElement[bool], ...]:
    return REVIEW_SLOT.c.task_id == held.task_id, REVIEW_SLOT.c.number == held.number


def _available(reviewer: str, job: str | None, now: datetime) -> list[sa.ColumnElement[bool]]:
    """Conditions on a slot and its task under which a person may get it."""
    task, slot, held, other = REVIEW_TASK.c, REVIEW_SLOT.c, REVIEW_LEASE.c, REVIEW_SLOT.alias("other").c
    reviewed = sa.exists().where(REVIEW.c.task_id == task.id, REVIEW.c.reviewer == reviewer)
    # A short time ago, the person got another slot of the task or skipped the task.
    kept_away = sa.exists().where(
        held.task_id == task.id,
        held.reviewer == reviewer,
        sa.or_(
            sa.and_(held.skipped_at.is_(None), held.number != slot.number, held.at > now - AWAY),
            held.skipped_at > now - AWAY,
        ),
    )
    # Heartbeats may have held another slot of the task for longer.
    holds_another = sa.exists().where(
        other.task_id == slot.task_id,
        other.number != slot.number,
        other.state == "leased",
        other.leased_by == reviewer,
    )
    conditions = [
        task.state == "open",
        sa.or_(slot.state == "free", sa.and_(slot.state == "leased", slot.leased_until < now)),
        ~reviewed,
        ~kept_away,
        ~holds_another,
    ]
    return conditions + ([] if job is None else [task.job == job])


def _next_slot(connection: sa.Connection, reviewer: str, job: str | None, now: datetime) -> sa.Row[Any] | None:
    """The first slot that the person may get, locked.

    Tasks of which another transaction takes a slot, stores a review or erases the decision are passed over. The task is
    locked too, because an erasure locks it before its slots: a lease that waited for it could wait forever.
    """
    query = (
        sa.select(REVIEW_SLOT, REVIEW_TASK.c.job)
        .join(REVIEW_TASK)
        .where(*_available(reviewer, job, now))
        .order_by(REVIEW_TASK.c.created_at, REVIEW_TASK.c.priority, REVIEW_SLOT.c.task_id, REVIEW_SLOT.c.number)
        .limit(1)
        .with_for_update(of=[REVIEW_SLOT, REVIEW_TASK], key_share=True, skip_locked=True)
    )
    return connection.execute(query).one_or_none()


def _take(connection: sa.Connection, slot: sa.Row[Any], reviewer: str, now: datetime) -> Lease:
    identity, until = new_id("lse_"), now + LEASE
    connection.execute(
        sa.update(REVIEW_SLOT)
        .where(*_slot_of(slot))
        .values(state="leased", lease=identity, leased_by=reviewer, leased_until=until)
    )
    row = {"id": identity, "task_id": slot.task_id, "number": slot.number, "reviewer": reviewer, "at": now}
    connection.execute(sa.insert(REVIEW_LEASE).values(row))
    return Lease(identity, slot.job, until, slot.display_order, pictures_of(connection, slot.task_id))


def _waiting(connection: sa.Connection, reviewer: str, job: str | None, now: datetime) -> int:
    tasks = sa.select(REVIEW_TASK.c.id).distinct().select_from(REVIEW_SLOT).join(REVIEW_TASK)
    some = tasks.where(*_available(reviewer, job, now)).limit(MAX_WAITING).subquery()
    return connection.execute(sa.select(sa.func.count()).select_from(some)).scalar_one()
