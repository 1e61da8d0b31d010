"""Makes review tasks from stored decisions, by quota.

A run looks at the decisions of a period, by default those since `OVERLAP` before the end of the last run, and divides
its number of tasks by `QUOTAS`. Within each reason it draws at random: it takes the decisions whose SHA-256 of seed,
reason and id is smallest, so that the same seed and decisions give the same draw. A reason with too few candidates
leaves its rest to the audit, which is drawn from all decisions of the period that were not drawn before. Each decision
since the end of the last run therefore had a known probability to be drawn, which its task keeps:

    inclusion probability = q + (1 - q) * a

q: share of the candidates of its reason (low confidence or disagreement) that were drawn; 0 for other decisions.
a: share of the remaining decisions that the audit drew.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import sha256
from heapq import nsmallest
from typing import Any

import sqlalchemy as sa

from service.decisions.database import Database
from service.decisions.review_tables import GOLD, QUEUE_RUN, REVIEW_SLOT, REVIEW_TASK, TASK_PICTURE
from service.decisions.tables import DECISION, DECISION_PICTURE, FEEDBACK
from service.ids import new_id
from service.review.shown import display_order

QUOTAS = {"low_confidence": 0.45, "disagreement": 0.20, "audit": 0.25, "gold": 0.05, "repeat": 0.05}
REVIEWS = {"audit": 2, "disagreement": 2}
"""Number of reviews that a task of a reason needs before its label counts; 1 for other reasons."""
_COPIES = ("gold", "repeat")
"""Reasons of tasks that show the pictures of an earlier task again."""
BATCH = 500
"""Maximum number of values in one query."""
OVERLAP = timedelta(minutes=15)
"""Part of the last run's period that a run looks at again: a decision may be stored minutes after its answer."""


@dataclass(frozen=True, slots=True)
class Period:
    """The decisions that a run looks at."""

    since: datetime | None
    """Time of the first decision; None for all that are kept."""
    until: datetime
    sampled_since: datetime | None
    """Decisions before this time may have been candidates of an earlier run: their inclusion probability is unknown."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A decision that may become a task."""

    id: str
    reason: str | None
    """`low_confidence` or `disagreement`; None if only an audit can draw it."""
    in_period: bool
    """Whether the decision was given in the period of the run. Only disagreements can be older."""
    is_sampled: bool
    """Whether its inclusion probability is known."""


@dataclass(frozen=True, slots=True)
class Draw:
    """A decision that a run drew."""

    id: str
    reason: str
    probability: float | None


def make_tasks(
    database: Database,
    *,
    caller: str,
    count: int,
    since: datetime | None = None,
    until: datetime | None = None,
    seed: int | None = None,
    reviews: int | None = None,
) -> dict[str, int]:
    """Make up to `count` tasks; returns how many of each reason.

    Args:
        since: start of the period; by default `OVERLAP` before the end of the last run.
        until: end of the period; now by default and at most.
        seed: makes the draw repeatable; by default a random number.
        reviews: number of reviews of an audit or a disagreement, 1 or 2; 2 by default.
    """
    seed = secrets.randbelow(2**31) if seed is None else seed
    with database.writing() as connection:
        database.lock_erasure(connection, shared=True)
        database.lock_name(connection, "review queue")
        now = database.now(connection)
        period = _period(connection, since, min(until or now, now))
        quotas = shares(count)
        copied = {reason: drawn(seed, reason, _sources(connection, reason), quotas[reason]) for reason in _COPIES}
        missing = sum(quotas[reason] - len(copied[reason]) for reason in _COPIES)
        draws, sizes = draw(seed, _candidates(connection, period), quotas | {"audit": quotas["audit"] + missing})
        made = _insert_decisions(connection, draws, seed, now, reviews)
        for reason, sources in copied.items():
            made[reason] = _insert_copies(connection, reason, sources, seed, now)
        connection.execute(
            sa.insert(QUEUE_RUN).values(
                id=new_id("run_"), at=now, caller=caller, since=period.since, until=period.until, seed=seed, sizes=sizes
            )
        )
    return made


def shares(count: int) -> dict[str, int]:
    """Divide a number of tasks by the quotas: whole numbers, and the largest remainders get what is left."""
    exact = {reason: share * count for reason, share in QUOTAS.items()}
    whole = {reason: int(value) for reason, value in exact.items()}
    by_remainder = sorted(QUOTAS, key=lambda reason: whole[reason] - exact[reason])
    for reason in by_remainder[: count - sum(whole.values())]:
        whole[reason] += 1
    return whole


def drawn(seed: int, reason: str, candidates: Iterable[str], count: int) -> list[str]:
    """A random sample without replacement: the ids whose digest is smallest."""
    return nsmallest(count, candidates, key=lambda identity: sha256(f"{seed}:{reason}:{identity}".encode()).digest())


def draw(seed: int, candidates: Sequence[Candidate], quotas: dict[str, int]) -> tuple[list[Draw], dict[str, int]]:
    """Draw decisions by quota; returns them with their inclusion probabilities, and the sizes of the populations."""
    chosen: dict[str, str] = {}
    rates: dict[str | None, float] = {None: 0.0}
    sizes = {"decisions": sum(one.in_period for one in candidates)}
    left = 0
    for reason in ("disagreement", "low_confidence"):
        among = [one.id for one in candidates if one.reason == reason]
        found = drawn(seed, reason, among, quotas[reason])
        chosen |= dict.fromkeys(found, reason)
        left += quotas[reason] - len(found)
        rates[reason] = len(found) / len(among) if among else 0.0
        sizes[reason] = len(among)
    remaining = [one.id for one in candidates if one.in_period and one.id not in chosen]
    audit = drawn(seed, "audit", remaining, quotas["audit"] + left)
    chosen |= dict.fromkeys(audit, "audit")
    audited = len(audit) / len(remaining) if remaining else 0.0
    draws = [
        Draw(one.id, chosen[one.id], rates[one.reason] + (1 - rates[one.reason]) * audited if one.is_sampled else None)
        for one in candidates
        if one.id in chosen
    ]
    return draws, sizes


def _period(connection: sa.Connection, since: datetime | None, until: datetime) -> Period:
    before = connection.execute(sa.select(QUEUE_RUN.c.until).order_by(QUEUE_RUN.c.until.desc()).limit(1)).scalar()
    return Period(since or (before and before - OVERLAP), until, before)


def _candidates(connection: sa.Connection, period: Period) -> list[Candidate]:
    """Decisions without a task: those of the period, and older ones that feedback contradicts."""
    c = DECISION.c
    contradicted = _contradicted().label("contradicted")
    uncertain = sa.or_(c.needs_review, c.outcome == "unreadable").label("uncertain")
    has_task = sa.exists().where(REVIEW_TASK.c.decision_id == c.id)
    query = sa.select(c.id, c.created_at, contradicted, uncertain).where(c.created_at < period.until, ~has_task)
    if period.since is not None:
        with_feedback = c.id.in_(sa.select(FEEDBACK.c.decision_id))
        query = query.where(sa.or_(c.created_at >= period.since, with_feedback))
    return [
        Candidate(
            id=row.id,
            reason="disagreement" if row.contradicted else "low_confidence" if row.uncertain and in_period else None,
            in_period=in_period,
            is_sampled=in_period and (period.sampled_since is None or row.created_at >= period.sampled_since),
        )
        for row in connection.execute(query)
        if (in_period := period.since is None or row.created_at >= period.since) or row.contradicted
    ]


def _contradicted() -> sa.ColumnElement[bool]:
    """Whether feedback contradicts the choice, or another checkpoint chose another picture for the same request."""
    c, said, other = DECISION.c, FEEDBACK.c, DECISION.alias("other").c
    chosen = said.options.contains(c.choice)
    none = c.choice == "N"
    against = sa.case(
        (said.kind == "returned", sa.and_(~none, chosen)),
        else_=sa.or_(sa.and_(none, said.options != ""), sa.and_(~none, ~chosen)),
    )
    feedback = sa.exists().where(said.decision_id == c.id, said.options.is_not(None), c.choice.is_not(None), against)
    checkpoints = sa.exists().where(
        other.question == c.question, other.checkpoint != c.checkpoint, other.choice != c.choice
    )
    return sa.or_(feedback, checkpoints)


def _sources(connection: sa.Connection, reason: str) -> list[str]:
    """Tasks that a gold question or a repeat can copy."""
    query = sa.select(REVIEW_TASK.c.id).where(REVIEW_TASK.c.reason.not_in(_COPIES))
    if reason == "gold":
        query = query.join(GOLD)
    else:
        repeated = sa.select(REVIEW_TASK.c.decision_id).where(REVIEW_TASK.c.reason == "repeat")
        query = query.where(
            REVIEW_TASK.c.state == "done",
            REVIEW_TASK.c.decision_id.is_not(None),
            REVIEW_TASK.c.decision_id.not_in(repeated),
        )
    return list(connection.scalars(query))


def _insert_decisions(
    connection: sa.Connection, draws: Sequence[Draw], seed: int, now: datetime, reviews: int | None
) -> dict[str, int]:
    made = dict.fromkeys(QUOTAS, 0)
    for start in range(0, len(draws), BATCH):
        some = {one.id: one for one in draws[start : start + BATCH]}
        # Decisions that have expired since are left out; the lock keeps the others until the commit.
        kept = sa.select(DECISION.c.id, DECISION.c.product).where(DECISION.c.id.in_(some)).order_by(DECISION.c.id)
        rows = connection.execute(kept.with_for_update(read=True, key_share=True)).all()
        pictures = _pictures(connection, DECISION_PICTURE.c.decision_id, [row.id for row in rows])
        fresh = []
        for row in rows:
            one = some[row.id]
            needed = (reviews or REVIEWS[one.reason]) if one.reason in REVIEWS else 1
            task = {
                "job": "review", "reason": one.reason, "decision_id": row.id, "product": row.product,
                "inclusion_probability": one.probability, "reviews_required": needed,
            }  # fmt: skip
            fresh.append((task, pictures[row.id]))
            made[one.reason] += 1
        insert_tasks(connection, fresh, seed, now)
    return made


def _insert_copies(connection: sa.Connection, reason: str, sources: Sequence[str], seed: int, now: datetime) -> int:
    """Make tasks that show the pictures of earlier tasks again."""
    rows = connection.execute(sa.select(REVIEW_TASK).where(REVIEW_TASK.c.id.in_(sources))).all()
    pictures = _pictures(connection, TASK_PICTURE.c.task_id, [row.id for row in rows])
    expected = {
        row.task_id: row.expected for row in connection.execute(sa.select(GOLD).where(GOLD.c.task_id.in_(sources)))
    }
    copies = [
        (
            {
                "job": row.job, "reason": reason, "decision_id": row.decision_id, "product": row.product,
                "reviews_required": 1,
            },
            pictures[row.id],
        )
        for row in rows
    ]  # fmt: skip
    made = insert_tasks(connection, copies, seed, now)
    if reason == "gold" and rows:
        known = [{"task_id": task, "expected": expected[row.id]} for task, row in zip(made, rows, strict=True)]
        connection.execute(sa.insert(GOLD), known)
    return len(rows)


def _pictures(connection: sa.Connection, owner: sa.Column[Any], ids: Sequence[str]) -> dict[str, dict[int, str]]:
    """Address by position, for each decision or task."""
    query = sa.select(owner.label("owner"), owner.table.c.position, owner.table.c.sha256).where(owner.in_(ids))
    found: dict[str, dict[int, str]] = {}
    for row in connection.execute(query):
        found.setdefault(row.owner, {})[row.position] = row.sha256
    return found


def insert_tasks(
    connection: sa.Connection, tasks: Sequence[tuple[dict[str, Any], dict[int, str]]], seed: int, now: datetime
) -> list[str]:
    """Insert tasks with their pictures and free slots; returns their ids.

    Args:
        tasks: columns of each task, and the addresses of its pictures by position.
    """
    made: list[dict[str, Any]] = []
    pictures: list[dict[str, Any]] = []
    slots: list[dict[str, Any]] = []
    for columns, addresses in tasks:
        identity = new_id("tsk_")
        priority = int.from_bytes(sha256(f"{seed}:priority:{identity}".encode()).digest()[:6]) / 2**48
        made.append(columns | {"id": identity, "priority": priority, "state": "open", "created_at": now, "seed": seed})
        pictures += [
            {"task_id": identity, "position": position, "sha256": address} for position, address in addresses.items()
        ]
        slots += [
            {
                "task_id": identity, "number": number, "state": "free",
                "display_order": display_order(seed, identity, number),
            }
            for number in range(1, columns["reviews_required"] + 1)
        ]  # fmt: skip
    for table, rows in ((REVIEW_TASK, made), (TASK_PICTURE, pictures), (REVIEW_SLOT, slots)):
        if rows:
            connection.execute(sa.insert(table), rows)
    return [row["id"] for row in made]
