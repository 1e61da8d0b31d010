"""Turns leases and reviews into the bodies that a reviewer sees, and a submitted body into a review.

All of them number the pictures as displayed.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from screening.task import DIMENSIONS, OPTIONS
from service.http.review.bodies import (
    LeasedTask,
    NumberedPicture,
    Review,
    ReviewDimension,
    ReviewPicture,
    ReviewRequest,
    ReviewStored,
    StoredVerdict,
)
from service.review import leases, reviews
from service.review.consensus import Verdict
from service.review.shown import is_right, model_answer, number_of


def lease_shown(one: leases.Lease) -> LeasedTask:
    """A lease as its holder sees it."""
    original, pictures = _pictures(f"/review/leases/{one.id}", one.pictures, one.display_order)
    return LeasedTask(
        lease=one.id,
        job=one.job,
        expires_at=one.until,
        seconds=max(0, round((one.until - datetime.now(UTC)).total_seconds())),
        dimensions=_dimensions(),
        original=original,
        pictures=pictures,
    )


def submission_of(body: ReviewRequest) -> reviews.Submission:
    """A review as its author sent it."""
    by_number = {one.number: one for one in body.verdicts}
    verdicts = tuple(
        Verdict(one.usable, {name.value: severity for name, severity in one.dimensions.items()}, one.comment)
        for _, one in sorted(by_number.items())
    )
    return reviews.Submission(
        id=str(body.id),
        lease=body.lease,
        verdicts=verdicts,
        best=body.best,
        comment=body.comment,
        active_seconds=body.active_seconds,
        supersedes=None if body.supersedes is None else str(body.supersedes),
    )


def stored_shown(one: reviews.Stored) -> ReviewStored:
    """The answer to a review."""
    order = one.review.display_order
    model, agrees = None, None
    if one.answer is not None:
        model, agrees = model_answer(one.answer, order), is_right(one.answer["choice"], one.letters)
    return ReviewStored(id=one.review.id, late=one.review.late, letters=order, model=model, agrees=agrees)


def review_shown(one: reviews.Stored) -> Review:
    """A review as its author saw the task."""
    row, order = one.review, one.review.display_order
    original, pictures = _pictures(f"/review/reviews/{row.id}", one.pictures, order)
    verdicts = [
        StoredVerdict(number=number, usable=verdict.usable, dimensions=verdict.dimensions, comment=verdict.comment)
        for number, verdict in enumerate((one.verdicts[OPTIONS.index(letter)] for letter in order), 1)
    ]
    return Review(
        **stored_shown(one).model_dump(),
        lease=row.lease,
        job=one.job,
        reviewer=row.reviewer,
        at=row.at,
        blind=row.blind,
        supersedes=row.supersedes,
        superseded=one.superseded,
        active_seconds=row.active_seconds,
        verdicts=verdicts,
        best=None if row.best is None else number_of(order, row.best),
        comment=row.comment,
        dimensions=_dimensions(),
        original=original,
        pictures=pictures,
    )


def _pictures(prefix: str, rows: Sequence[sa.Row[Any]], order: str) -> tuple[ReviewPicture, list[NumberedPicture]]:
    sizes = {row.position: row.bytes for row in rows}
    numbered = [
        NumberedPicture(number=number, url=f"{prefix}/pictures/{number}", bytes=sizes[OPTIONS.index(letter) + 1])
        for number, letter in enumerate(order, 1)
    ]
    return ReviewPicture(url=f"{prefix}/pictures/0", bytes=sizes[0]), numbered


def _dimensions() -> list[ReviewDimension]:
    return [ReviewDimension(name=one.value, title=one.title, meaning=one.meaning) for one in DIMENSIONS]
