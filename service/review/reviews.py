"""Stores what people submit. Rows are only added: a change of mind is a second review that supersedes the first."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from screening.task import OPTIONS
from service.decisions.database import Database
from service.decisions.review_tables import CONSENSUS, REVIEW, REVIEW_SLOT, REVIEW_TASK, VERDICT
from service.decisions.tables import DECISION
from service.errors import LeaseNotFound, ReviewConflict, ReviewNotFound
from service.review.consensus import Verdict, Verdicts, consensus_of, last_reviews, letters_of, verdicts_of
from service.review.leases import displayed_picture, lease_of, pictures_of
from service.review.shown import display_order


@dataclass(frozen=True, slots=True)
class Submission:
    """One review as a person sends it, in displayed numbers."""

    id: str
    lease: str
    verdicts: tuple[Verdict, ...]
    """Of the pictures 1 to 4 as displayed."""
    best: int | None
    comment: str | None
    active_seconds: float
    supersedes: str | None

    @property
    def content(self) -> str:
        """SHA-256 of the submission, except for the time, which a repetition may have measured again."""
        said = {name: value for name, value in asdict(self).items() if name != "active_seconds"}
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Stored:
    """A review with its task."""

    review: sa.Row[Any]
    verdicts: Verdicts
    """Of A to D."""
    job: str
    answer: dict[str, Any] | None
    """The decision's answer; None for a labelling task."""
    pictures: Sequence[sa.Row[Any]]
    superseded: bool

    @property
    def letters(self) -> str:
        """Letters of the pictures that the person calls usable."""
        return letters_of(self.verdicts)


def submit(database: Database, submission: Submission, reviewer: str) -> tuple[Stored, bool]:
    """Store a review; returns it, and whether it is new.

    Work that comes after the lease was lost is kept and marked as late. A second submission of one person for one task
    supersedes the first.

    Raises:
        LeaseNotFound: the person has no such lease, or its task was erased.
        ReviewConflict: the id belongs to another submission, or the superseded review is not the person's last one.
    """
    with database.writing() as connection:
        database.lock_name(connection, reviewer)
        same = sa.select(REVIEW).where(REVIEW.c.id == submission.id).with_for_update(read=True, key_share=True)
        earlier = connection.execute(same).one_or_none()
        if earlier is not None:
            if earlier.content != submission.content or earlier.reviewer != reviewer:
                raise ReviewConflict("Another review has this id. Send a new review with a new UUID.")
            return stored(connection, earlier), False
        held = lease_of(connection, submission.lease, reviewer)
        # Reviews of one task are stored one after the other, so that each sees the others in the consensus.
        locked = sa.select(REVIEW_TASK).where(REVIEW_TASK.c.id == held.task_id).with_for_update(key_share=True)
        task = connection.execute(locked).one_or_none()
        if task is None:  # it was erased after the lease was read
            raise LeaseNotFound("The task of this lease was erased. Lease another task.")
        now = database.now(connection)
        blind = not _has_seen_the_answer(connection, task, reviewer)
        _insert(connection, submission, held, _replaced(connection, submission, held), blind=blind, now=now)
        decide(connection, task, now)
        row = connection.execute(sa.select(REVIEW).where(REVIEW.c.id == submission.id)).one()
        return stored(connection, row), True


def one(database: Database, identity: str, reviewer: str | None) -> Stored:
    """A review.

    Args:
        reviewer: the person whose review it must be; None for anyone's.

    Raises:
        ReviewNotFound: there is no such review.
    """
    with database.reading() as connection:
        return stored(connection, _row(connection, identity, reviewer))


def picture_of(database: Database, identity: str, reviewer: str | None, number: int) -> tuple[str, str]:
    """Address and media type of a review's picture; 0 is the original, 1 to 4 are the others as displayed.

    Raises:
        ReviewNotFound: there is no such review.
    """
    with database.reading() as connection:
        row = _row(connection, identity, reviewer)
        return displayed_picture(connection, row.task_id, row.display_order, number)


def last(database: Database, reviewer: str | None, limit: int) -> list[Stored]:
    """The last reviews of a person, or of all, newest first."""
    query = sa.select(REVIEW).order_by(REVIEW.c.at.desc(), REVIEW.c.id).limit(limit)
    if reviewer is not None:
        query = query.where(REVIEW.c.reviewer == reviewer)
    with database.reading() as connection:
        return [stored(connection, row) for row in connection.execute(query).all()]


def stored(connection: sa.Connection, row: sa.Row[Any]) -> Stored:
    """A review's row with what belongs to it."""
    query = sa.select(REVIEW_TASK.c.job, DECISION.c.answer).outerjoin(DECISION).where(REVIEW_TASK.c.id == row.task_id)
    task = connection.execute(query).one()
    superseded = connection.execute(sa.select(sa.exists().where(REVIEW.c.supersedes == row.id))).scalar_one()
    verdicts = verdicts_of(connection, [row.id])[row.id]
    return Stored(row, verdicts, task.job, task.answer, pictures_of(connection, row.task_id), superseded)


def decide(connection: sa.Connection, task: sa.Row[Any], now: datetime) -> None:
    """Derive the consensus of a task from its reviews, and open another slot if it needs one more person.

    A task with a consensus is done, even if a slot is left: late work may have made the consensus.
    """
    last_ones = [row.id for row in last_reviews(connection, task.id)]
    verdicts = verdicts_of(connection, last_ones)
    consensus = consensus_of([verdicts[identity] for identity in last_ones], task.reviews_required)
    connection.execute(sa.delete(CONSENSUS).where(CONSENSUS.c.task_id == task.id))
    if consensus is not None:
        connection.execute(sa.insert(CONSENSUS).values(task_id=task.id, at=now, **asdict(consensus)))
    slots = connection.execute(sa.select(REVIEW_SLOT).where(REVIEW_SLOT.c.task_id == task.id)).all()
    if consensus is None and all(slot.state == "done" for slot in slots):
        number = len(slots) + 1
        order = display_order(task.seed, task.id, number)
        connection.execute(
            sa.insert(REVIEW_SLOT).values(task_id=task.id, number=number, state="free", display_order=order)
        )
    state = "open" if consensus is None else "done"
    connection.execute(sa.update(REVIEW_TASK).where(REVIEW_TASK.c.id == task.id).values(state=state))


def _replaced(connection: sa.Connection, submission: Submission, held: sa.Row[Any]) -> str | None:
    """The person's earlier review of this task, which the submission supersedes.

    Raises:
        ReviewConflict: the submission supersedes another one.
    """
    own = [row.id for row in last_reviews(connection, held.task_id) if row.reviewer == held.reviewer]
    if submission.supersedes is not None and submission.supersedes not in own:
        raise ReviewConflict("supersedes: this is not your last review of this task. Read the review again.")
    return own[-1] if own else None


def _insert(
    connection: sa.Connection,
    submission: Submission,
    held: sa.Row[Any],
    replaced: str | None,
    *,
    blind: bool,
    now: datetime,
) -> None:
    where = (REVIEW_SLOT.c.task_id == held.task_id, REVIEW_SLOT.c.number == held.number)
    slot = connection.execute(sa.select(REVIEW_SLOT).where(*where).with_for_update()).one()
    own = slot.state == "free" or slot.leased_by == held.reviewer
    if own:
        connection.execute(
            sa.update(REVIEW_SLOT).where(*where).values(state="done", lease=held.id, leased_by=held.reviewer)
        )
    order = slot.display_order
    connection.execute(
        sa.insert(REVIEW).values(
            id=submission.id,
            task_id=held.task_id,
            number=held.number,
            lease=held.id,
            reviewer=held.reviewer,
            at=now,
            display_order=order,
            blind=blind,
            active_seconds=submission.active_seconds,
            comment=submission.comment,
            supersedes=replaced,
            late=not own,
            best=None if submission.best is None else order[submission.best - 1],
            content=submission.content,
        )
    )
    by_letter = dict(zip(order, submission.verdicts, strict=True))
    connection.execute(
        sa.insert(VERDICT),
        [
            {"review_id": submission.id, "position": position, **asdict(by_letter[letter])}
            for position, letter in enumerate(OPTIONS, 1)
        ],
    )


def _has_seen_the_answer(connection: sa.Connection, task: sa.Row[Any], reviewer: str) -> bool:
    """Whether the person knows the model's answer: it was shown after a review of this decision or of one with the same
    question."""
    asked = DECISION.alias("asked").c
    question = sa.select(asked.question).where(asked.id == task.decision_id).scalar_subquery()
    query = (
        sa.select(REVIEW.c.id)
        .select_from(REVIEW.join(REVIEW_TASK).join(DECISION))
        .where(REVIEW.c.reviewer == reviewer, DECISION.c.question == question)
        .limit(1)
    )
    return task.decision_id is not None and connection.execute(query).one_or_none() is not None


def _row(connection: sa.Connection, identity: str, reviewer: str | None) -> sa.Row[Any]:
    query = sa.select(REVIEW).where(REVIEW.c.id == identity)
    row = connection.execute(query if reviewer is None else query.where(REVIEW.c.reviewer == reviewer)).one_or_none()
    if row is None:
        raise ReviewNotFound("There is no such review: it was erased, or belongs to another person.")
    return row
