"""Numbers for the statistics page and for the metrics: the queue, throughput, agreement, accuracy, gold questions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from itertools import groupby
from statistics import fmean, median
from typing import Any

import numpy as np
import sqlalchemy as sa

from screening.task import DIMENSIONS
from service.decisions.database import Database
from service.decisions.review_tables import GOLD, REVIEW, REVIEW_SLOT, REVIEW_TASK, VERDICT
from service.decisions.tables import DECISION
from service.review.accuracy import Accuracy, Reviewed, accuracy
from service.review.agreement import agreement
from service.review.consensus import Verdict, Verdicts, letters_of
from service.review.shown import is_right

ALL = "all"
"""Name of the whole queue for people who must not know the reasons."""


@dataclass(frozen=True, slots=True)
class Rated:
    """One review with what the statistics need of its task."""

    task: str
    job: str
    reason: str
    required: int
    """Number of reviews that the task needs."""
    number: int
    """Number of the slot; above `required` it is the third person's."""
    reviewer: str
    at: datetime
    blind: bool
    corrects: bool
    """Whether it supersedes an earlier review."""
    active_seconds: float
    probability: float | None
    choice: str | None
    """The model's choice; None for an unreadable answer and for a labelling task."""
    verdicts: Verdicts


@dataclass(frozen=True, slots=True)
class Queue:
    """The state of the tasks with one reason, or of all tasks."""

    open: int
    """Tasks that wait for a person."""
    leased: int
    """Tasks that are not done and that a person works on."""
    done: int
    """Tasks whose label is decided."""
    oldest_seconds: float | None
    """Age of the oldest task that is not done; None if all are."""


def queue(database: Database, *, by_reason: bool) -> dict[str, Queue]:
    """The queue by reason, or as a whole.

    Tasks are counted and not the reviews that they need, because that number depends on the reason.
    """
    task, slot = REVIEW_TASK.c, REVIEW_SLOT.c
    with database.reading() as connection:
        now = database.now(connection)
        held = sa.exists().where(slot.task_id == task.id, slot.state == "leased", slot.leased_until >= now)
        state = sa.case((task.state == "done", "done"), (held, "leased"), else_="open")
        reason: sa.ColumnElement[str] = task.reason if by_reason else sa.literal(ALL)
        states = sa.select(reason.label("reason"), state.label("state"), task.created_at).subquery()
        query = sa.select(
            states.c.reason,
            states.c.state,
            sa.func.count().label("tasks"),
            sa.func.min(states.c.created_at).label("old"),
        ).group_by(states.c.reason, states.c.state)
        found: dict[str, dict[str, sa.Row[Any]]] = {}
        for row in connection.execute(query):
            found.setdefault(row.reason, {})[row.state] = row
        return {name: _queue_of(rows, now) for name, rows in found.items()}


def _queue_of(rows: dict[str, sa.Row[Any]], now: datetime) -> Queue:
    counts = {state: rows[state].tasks if state in rows else 0 for state in ("open", "leased", "done")}
    oldest = min((rows[state].old for state in ("open", "leased") if state in rows), default=None)
    return Queue(**counts, oldest_seconds=None if oldest is None else max(0.0, (now - oldest).total_seconds()))


def read(database: Database, since: datetime | None, until: datetime | None) -> list[Rated]:
    """The reviews of a period, oldest first."""
    conditions = [REVIEW.c.at >= since] if since is not None else []
    conditions += [REVIEW.c.at < until] if until is not None else []
    task, review = REVIEW_TASK.c, REVIEW.c
    query = (
        sa.select(REVIEW, task.job, task.reason, task.reviews_required, task.inclusion_probability, DECISION.c.choice)
        .join(REVIEW_TASK, review.task_id == task.id)
        .outerjoin(DECISION, task.decision_id == DECISION.c.id)
        .where(*conditions)
        .order_by(review.at, review.id)
    )
    said = sa.select(VERDICT).join(REVIEW).where(*conditions).order_by(VERDICT.c.review_id, VERDICT.c.position)
    with database.reading() as connection:
        verdicts: dict[str, Verdicts] = {}
        for identity, four in groupby(connection.execute(said), key=lambda row: row.review_id):
            a, b, c, d = (Verdict(row.usable, row.dimensions) for row in four)
            verdicts[identity] = (a, b, c, d)
        return [
            Rated(
                task=row.task_id,
                job=row.job,
                reason=row.reason,
                required=row.reviews_required,
                number=row.number,
                reviewer=row.reviewer,
                at=row.at,
                blind=row.blind,
                corrects=row.supersedes is not None,
                active_seconds=row.active_seconds,
                probability=row.inclusion_probability,
                choice=row.choice,
                verdicts=verdicts[row.id],
            )
            for row in connection.execute(query)
        ]


def throughput(rated: Iterable[Rated]) -> list[dict[str, Any]]:
    """Reviews and median time, by day in UTC and reviewer. Corrections do not count."""
    seconds: dict[tuple[str, str], list[float]] = {}
    for one in rated:
        if not one.corrects:
            seconds.setdefault((one.at.date().isoformat(), one.reviewer), []).append(one.active_seconds)
    return [
        {"day": day, "reviewer": reviewer, "reviews": len(times), "median_active_seconds": median(times)}
        for (day, reviewer), times in sorted(seconds.items())
    ]


def agreements(rated: Iterable[Rated]) -> list[dict[str, Any]]:
    """Agreement on `usable` and on each dimension, over tasks that need two reviews.

    Only the first two people count: a third one is asked only where these differ.
    """
    by_task: dict[str, list[Rated]] = {}
    for one in blind(rated):
        if one.required > 1 and one.number <= one.required:
            by_task.setdefault(one.task, []).append(one)
    pictures = [
        (task, [one.verdicts[place] for one in some])
        for task, some in by_task.items()
        if len(some) > 1
        for place in range(4)
    ]
    tasks = [task for task, _ in pictures]

    def of(name: str, positive: Sequence[int]) -> dict[str, Any]:
        judges = [len(verdicts) for _, verdicts in pictures]
        counts = np.array([positive, np.subtract(judges, positive)], dtype=float).T.reshape(-1, 2)
        return {"dimension": name, **asdict(agreement(counts, tasks))}

    found = [of("usable", [sum(one.usable for one in verdicts) for _, verdicts in pictures])]
    for dimension in DIMENSIONS:
        named = [sum(dimension.value in one.dimensions for one in verdicts) for _, verdicts in pictures]
        found.append(of(dimension.value, named))
    return found


def blind(rated: Iterable[Rated]) -> list[Rated]:
    """The last review of each person for each task that was made without knowledge of the model's answer."""
    return list({(one.task, one.reviewer): one for one in rated if one.blind}.values())


def model(database: Database, rated: Iterable[Rated]) -> Accuracy:
    """The model's accuracy from blind reviews of decisions that were drawn with a known probability."""
    by_task: dict[str, list[Rated]] = {}
    for one in blind(rated):
        if one.probability is not None:
            by_task.setdefault(one.task, []).append(one)
    reviewed = [
        Reviewed(some[0].probability or 1.0, fmean(is_right(one.choice, letters_of(one.verdicts)) for one in some))
        for some in by_task.values()
    ]
    query = sa.select(sa.func.count()).where(REVIEW_TASK.c.inclusion_probability.is_not(None))
    with database.reading() as connection:
        return accuracy(reviewed, connection.execute(query).scalar_one())


def gold(database: Database, rated: Iterable[Rated]) -> list[dict[str, Any]]:
    """How many gold questions each person answered, and how many of these with the expected pictures."""
    query = sa.select(GOLD).join(REVIEW_TASK).where(REVIEW_TASK.c.reason == "gold")
    with database.reading() as connection:
        expected = {
            row.task_id: {place for place, one in enumerate(row.expected) if one["usable"]}
            for row in connection.execute(query)
        }
    answers: dict[str, list[bool]] = {}
    first = {(one.task, one.reviewer): one for one in reversed(list(rated)) if one.task in expected}
    for one in first.values():
        usable = {place for place, verdict in enumerate(one.verdicts) if verdict.usable}
        answers.setdefault(one.reviewer, []).append(usable == expected[one.task])
    return [
        {"reviewer": reviewer, "answered": len(right), "right": sum(right)}
        for reviewer, right in sorted(answers.items())
    ]


def report(database: Database, since: datetime | None, until: datetime | None, *, for_lead: bool) -> dict[str, Any]:
    """Everything that the statistics page shows.

    Args:
        for_lead: whether to show the reasons of the queue and the gold questions, which reviewers must not know.
    """
    rated = read(database, since, until)
    return {
        "queue": {reason: asdict(one) for reason, one in queue(database, by_reason=for_lead).items()},
        "throughput": throughput(rated),
        "agreement": agreements(rated),
        "model": asdict(model(database, rated)),
        "gold": gold(database, rated) if for_lead else None,
    }
