"""The label that follows from the reviews of a task.

Two reviews agree if they call the same pictures usable. Where they differ, a third person reviews the task, and the
majority decides for each picture. A tie decides against the picture: a wrong picture in a shop costs more than a good
picture that is not shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median_high
from typing import Any

import sqlalchemy as sa

from screening.task import DIMENSIONS, OPTIONS, options_text
from service.decisions.review_tables import REVIEW, VERDICT


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a person says about one picture."""

    usable: bool
    dimensions: dict[str, int]
    """Severity, 1 to 3, by name of the dimension."""
    comment: str | None = None


Verdicts = tuple[Verdict, Verdict, Verdict, Verdict]
"""Of the pictures A to D."""


@dataclass(frozen=True, slots=True)
class Consensus:
    """The decided label of a task."""

    letters: str
    verdicts: list[dict[str, Any]]
    decided: str
    """`one`, `agreed` or `adjudicated`."""


def consensus_of(reviews: Sequence[Verdicts], required: int) -> Consensus | None:
    """The label that follows from one review of each person; None if more reviews are needed.

    Args:
        required: minimum number of reviews.
    """
    if len(reviews) < max(required, 1):
        return None
    labels = {letters_of(review) for review in reviews}
    if len(labels) > 1 and len(reviews) < 3:
        return None
    merged = [_merged([review[place] for review in reviews]) for place in range(len(OPTIONS))]
    decided = "one" if len(reviews) == 1 else "agreed" if len(labels) == 1 else "adjudicated"
    letters = options_text(letter for letter, one in zip(OPTIONS, merged, strict=True) if one["usable"])
    return Consensus(letters, merged, decided)


def letters_of(review: Verdicts) -> str:
    """Letters of the pictures that a review calls usable; `N` for none."""
    return options_text(letter for letter, verdict in zip(OPTIONS, review, strict=True) if verdict.usable)


def _merged(verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """The verdict of the majority on one picture."""
    usable = 2 * sum(verdict.usable for verdict in verdicts) > len(verdicts)
    agreeing = [verdict for verdict in verdicts if verdict.usable == usable]
    comments = list(dict.fromkeys(verdict.comment for verdict in agreeing if verdict.comment))
    return {"usable": usable, "dimensions": _dimensions(agreeing), "comment": "\n".join(comments) or None}


def _dimensions(verdicts: Sequence[Verdict]) -> dict[str, int]:
    """Dimensions that at least half of the reviews name, or all if none is named so often, with the median severity."""
    named = {
        dimension.value: [verdict.dimensions[dimension] for verdict in verdicts if dimension in verdict.dimensions]
        for dimension in DIMENSIONS
    }
    often = {name: median_high(found) for name, found in named.items() if 2 * len(found) >= len(verdicts) and found}
    return often or {name: median_high(found) for name, found in named.items() if found}


def last_reviews(connection: sa.Connection, task: str) -> list[sa.Row[Any]]:
    """The last review of each person for a task, oldest first."""
    rows = connection.execute(sa.select(REVIEW).where(REVIEW.c.task_id == task)).all()
    superseded = {row.supersedes for row in rows}
    return sorted((row for row in rows if row.id not in superseded), key=lambda row: (row.at, row.id))


def verdicts_of(connection: sa.Connection, reviews: Sequence[str]) -> dict[str, Verdicts]:
    """The four verdicts of each of the reviews, A to D."""
    query = sa.select(VERDICT).where(VERDICT.c.review_id.in_(reviews)).order_by(VERDICT.c.position)
    found: dict[str, list[Verdict]] = {}
    for row in connection.execute(query):
        found.setdefault(row.review_id, []).append(Verdict(row.usable, row.dimensions, row.comment))
    return {identity: (a, b, c, d) for identity, (a, b, c, d) in found.items()}
