"""The queue: quotas, reasons, and inclusion probabilities that are true."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa

from service.decisions import feedback
from service.decisions.database import Database
from service.decisions.review_tables import GOLD, QUEUE_RUN, REVIEW_SLOT, REVIEW_TASK
from service.review import gold, reviews
from service.review.tasks import OVERLAP, QUOTAS, Candidate, draw, make_tasks, shares
from tests.service.review.conftest import insert_decision, submission, take


def tasks_of(database: Database) -> dict[str, sa.Row]:
    """The tasks by decision."""
    with database.reading() as connection:
        return {row.decision_id: row for row in connection.execute(sa.select(REVIEW_TASK))}


def complain(database: Database, decision: str, kind: str, options: str) -> None:
    feedback.add(database, decision, caller="shop", kind=kind, options=options, comment=None, idempotency_key=None)


def make(database: Database, count: int, **fields) -> dict[str, int]:
    return make_tasks(database, caller="lead", count=count, **fields)


@pytest.mark.parametrize("count", [1, 2, 7, 19, 20, 100, 333])
def test_the_shares_are_those_of_the_quotas(count) -> None:
    found = shares(count)
    assert sum(found.values()) == count
    assert all(abs(found[reason] - count * QUOTAS[reason]) < 1 for reason in QUOTAS)
    assert shares(100) == {"low_confidence": 45, "disagreement": 20, "audit": 25, "gold": 5, "repeat": 5}


FEEDBACK = [  # the model's choice, the feedback, and whether it contradicts the choice
    ("A", "verdict", "AB", False), ("A", "verdict", "BC", True), ("A", "verdict", "", True),
    ("N", "verdict", "", False), ("N", "verdict", "A", True),
    ("A", "shown", "A", False), ("A", "shown", "D", True), ("N", "shown", "B", True),
    ("A", "returned", "A", True), ("A", "returned", "B", False), ("N", "returned", "B", False),
    (None, "verdict", "A", False),
]  # fmt: skip


def test_feedback_against_the_choice_is_a_disagreement(database) -> None:
    expected = {}
    for number, (choice, kind, options, contradicts) in enumerate(FEEDBACK):
        decision = insert_decision(database, number, choice=choice)
        complain(database, decision, kind, options)
        expected[decision] = contradicts
    make(database, 100)
    found = tasks_of(database)
    assert {decision: row.reason == "disagreement" for decision, row in found.items()} == expected
    assert {row.reviews_required for row in found.values() if row.reason == "disagreement"} == {2}


def test_each_decision_gets_the_reason_that_fits(database) -> None:
    unreadable = insert_decision(database, 1, choice=None, confidence=0)
    doubtful = insert_decision(database, 2, needs_review=True)
    one = insert_decision(database, 3, choice="A", question="q", checkpoint="sha256:1")
    other = insert_decision(database, 4, choice="B", question="q", checkpoint="sha256:2")
    plain = insert_decision(database, 5)
    made = make(database, 40)
    found = {decision: row.reason for decision, row in tasks_of(database).items()}
    assert found == {unreadable: "low_confidence", doubtful: "low_confidence", one: "disagreement",
                     other: "disagreement", plain: "audit"}  # fmt: skip
    assert made == {"low_confidence": 2, "disagreement": 2, "audit": 1, "gold": 0, "repeat": 0}
    assert {row.inclusion_probability for row in tasks_of(database).values()} == {1.0}
    assert make(database, 40) == dict.fromkeys(QUOTAS, 0), "no decision gets a second task"


def test_the_slots_of_a_task_are_the_reviews_that_it_needs(database) -> None:
    insert_decision(database, 1)
    insert_decision(database, 2, needs_review=True)
    make(database, 20)
    with database.reading() as connection:
        query = sa.select(REVIEW_TASK.c.reason, sa.func.count()).join(REVIEW_SLOT).group_by(REVIEW_TASK.c.reason)
        assert dict(connection.execute(query).all()) == {"audit": 2, "low_confidence": 1}


def test_a_run_continues_where_the_last_one_ended(database) -> None:
    now = datetime.now(UTC)
    old = [insert_decision(database, number, at=now - timedelta(hours=2)) for number in range(3)]
    make(database, 1, until=now - timedelta(hours=1))
    fresh = insert_decision(database, 10, at=now - timedelta(minutes=1))
    missed = next(decision for decision in old if decision not in tasks_of(database))
    complain(database, missed, "returned", "A")
    assert make(database, 20) == {"low_confidence": 0, "disagreement": 1, "audit": 1, "gold": 0, "repeat": 0}
    found = tasks_of(database)
    assert found[fresh].inclusion_probability == 1 and found[missed].inclusion_probability is None
    make(database, 20, since=now - timedelta(hours=3))
    left = (set(old) - {missed}) & set(tasks_of(database))
    assert len(left) == 2, "an earlier period can be asked for again"
    assert sum(tasks_of(database)[decision].inclusion_probability is None for decision in old) == 2


def test_a_run_finds_decisions_that_were_stored_after_the_last_run_and_answered_before_it(database) -> None:
    now = datetime.now(UTC)
    ended = now - timedelta(hours=1)
    insert_decision(database, 1, at=ended - timedelta(minutes=5))
    make(database, 20, until=ended)
    late = insert_decision(database, 2, at=ended - OVERLAP + timedelta(seconds=1), needs_review=True)
    too_late = insert_decision(database, 3, at=ended - OVERLAP - timedelta(seconds=1))
    fresh = insert_decision(database, 4, at=now - timedelta(minutes=1))
    assert make(database, 20) == {"low_confidence": 1, "disagreement": 0, "audit": 1, "gold": 0, "repeat": 0}
    found = tasks_of(database)
    assert found[late].inclusion_probability is None, "an earlier run may have looked at it"
    assert found[fresh].inclusion_probability == 1 and too_late not in found


def test_a_seed_makes_the_draw_repeatable() -> None:
    candidates = [Candidate(f"scr_{n}", "low_confidence" if n % 3 else None, True, True) for n in range(200)]
    first, second, third = (draw(seed, candidates, shares(40))[0] for seed in (5, 5, 6))
    assert first == second != third
    assert draw(5, candidates[::-1], shares(40))[0] == first[::-1], "the order of the candidates does not matter"


@pytest.mark.slow
def test_inclusion_probabilities_are_the_frequencies_of_being_drawn() -> None:
    reasons = ["low_confidence"] * 30 + ["disagreement"] * 6 + [None] * 44
    candidates = [Candidate(f"scr_{n}", reason, True, True) for n, reason in enumerate(reasons)]
    times, stored, runs = Counter(), {}, 3000
    for seed in range(runs):
        found, sizes = draw(seed, candidates, shares(20) | {"gold": 0, "repeat": 0})
        times.update(one.id for one in found)
        stored |= {one.id: one.probability for one in found}
    assert sizes == {"decisions": 80, "low_confidence": 30, "disagreement": 6}
    for one in candidates:
        deviation = (times[one.id] / runs - stored[one.id]) / (stored[one.id] * (1 - stored[one.id]) / runs) ** 0.5
        assert abs(deviation) < 4.5, one


def review_everything(database: Database, person: str, letters: str) -> None:
    while True:
        try:
            lease = take(database, person)
        except ValueError:
            return
        reviews.submit(database, submission(lease, letters), person)


@pytest.mark.slow
def test_gold_questions_and_repeats_show_the_pictures_of_earlier_tasks(database) -> None:
    for number in range(20):
        insert_decision(database, number)
    make(database, 20, reviews=1)
    review_everything(database, "ann", "AB")
    source = next(iter(tasks_of(database).values()))
    assert gold.add(database, source.id) == "AB"
    assert [one["task"] for one in gold.listed(database)] == [source.id]
    for number in range(20, 60):
        insert_decision(database, number, at=datetime.now(UTC))
    made = make(database, 20)
    assert (made["gold"], made["repeat"], sum(made.values())) == (1, 1, 20)
    with database.reading() as connection:
        row = connection.execute(
            sa.select(REVIEW_TASK, GOLD.c.expected).join(GOLD).where(REVIEW_TASK.c.reason == "gold")
        ).one()
        assert row.decision_id == source.decision_id and row.inclusion_probability is None
        assert [one["usable"] for one in row.expected] == [True, True, False, False]
        assert connection.scalars(sa.select(QUEUE_RUN.c.sizes)).all()[1]["decisions"] == 40
    assert gold.remove(database, source.id) and not gold.remove(database, source.id)
    with pytest.raises(gold.GoldError, match="no task"):
        gold.add(database, "tsk_unknown")
