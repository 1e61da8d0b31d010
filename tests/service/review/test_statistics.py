"""Statistics from reviews that people sent."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa

from service.decisions.review_tables import REVIEW_TASK
from service.review import gold, leases, reviews, statistics
from service.review.tasks import make_tasks
from tests.service.review.conftest import insert_decision, submission, take

pytestmark = pytest.mark.slow


def report(database, *, for_lead: bool = True, since=None, until=None):
    return statistics.report(database, since, until, for_lead=for_lead)


def review_all(database, people: dict[str, str], count: int) -> None:
    """Each person reviews a number of tasks and calls the same letters usable in all."""
    for person, letters in people.items():
        for _ in range(count):
            reviews.submit(database, submission(take(database, person), letters, active_seconds=4.0), person)


def test_an_empty_queue_has_no_numbers(database) -> None:
    found = report(database)
    assert found["queue"] == {} and found["throughput"] == [] and found["gold"] == []
    assert found["model"]["accuracy"] is None and found["agreement"][0]["pairs"] == 0


def test_the_queue_counts_tasks_by_state(database) -> None:
    for number in range(3):
        insert_decision(database, number)
    insert_decision(database, 3, needs_review=True)
    make_tasks(database, caller="lead", count=20, reviews=1)
    reviews.submit(database, submission(take(database, "ann"), "A"), "ann")
    take(database, "ann")
    found = report(database)["queue"]
    assert set(found) == {"audit", "low_confidence"}
    whole = report(database, for_lead=False)["queue"]["all"]
    assert (whole["open"], whole["leased"], whole["done"]) == (2, 1, 1) and 0 <= whole["oldest_seconds"] < 600
    for state in ("open", "leased", "done"):
        assert sum(one[state] for one in found.values()) == whole[state]


def test_agreement_comes_from_the_first_two_people(database) -> None:
    for number in range(4):
        insert_decision(database, number)
    make_tasks(database, caller="lead", count=20)
    review_all(database, {"ann": "AB", "ben": "A"}, 4)
    review_all(database, {"cleo": "A"}, 4)
    by_name = {one["dimension"]: one for one in report(database)["agreement"]}
    assert (by_name["usable"]["pairs"], by_name["usable"]["raw"]) == (16, 0.75)
    assert by_name["physical_shadow"]["raw"] == 0.75 and by_name["placement_layout"]["raw"] == 1
    assert by_name["placement_layout"]["alpha"] is None and by_name["placement_layout"]["ac1"] == 1
    assert len(by_name) == 5


def test_the_models_accuracy_comes_from_weighted_blind_reviews(database) -> None:
    decisions = [insert_decision(database, number, choice="A") for number in range(4)]
    make_tasks(database, caller="lead", count=20, reviews=1)
    with database.writing() as connection:  # as if more decisions had been there, of which these were drawn
        for decision, probability in zip(decisions, (0.5, 0.5, 0.1, 0.1), strict=True):
            drawn = sa.update(REVIEW_TASK).where(REVIEW_TASK.c.decision_id == decision)
            connection.execute(drawn.values(inclusion_probability=probability))
    for _ in range(4):
        lease = take(database, "ann")
        with database.reading() as connection:
            held = leases.lease_of(connection, lease.id, "ann")
            of_task = sa.select(REVIEW_TASK.c.inclusion_probability).where(REVIEW_TASK.c.id == held.task_id)
            probability = connection.execute(of_task).scalar_one()
        first, _ = reviews.submit(database, submission(lease, "AB" if probability < 0.2 else "B"), "ann")
        # A change of mind after the model's answer was shown does not count.
        reviews.submit(database, submission(lease, "A", supersedes=first.review.id), "ann")
    found = report(database)["model"]
    assert found["reviewed"] == 4 and found["unweighted"] == 0.5
    assert found["accuracy"] == pytest.approx(20 / 24)
    assert found["interval"][0] < found["accuracy"] < found["interval"][1]


def test_an_unreadable_answer_is_wrong_and_none_is_right_where_nothing_is_usable(database) -> None:
    insert_decision(database, 1, choice=None, confidence=0)
    insert_decision(database, 2, choice="N")
    make_tasks(database, caller="lead", count=20, reviews=1)
    review_all(database, {"ann": ""}, 2)
    assert report(database)["model"]["accuracy"] == 0.5


def test_gold_questions_show_who_notices(database) -> None:
    for number in range(20):
        insert_decision(database, number)
    make_tasks(database, caller="lead", count=20, reviews=1)
    review_all(database, {"ann": "AB"}, 20)
    with database.reading() as connection:
        source = connection.scalars(sa.select(REVIEW_TASK.c.id)).first()
    gold.add(database, source)
    for person, letters in (("ann", "AB"), ("ben", "AC")):
        made = make_tasks(database, caller="lead", count=20)
        assert (made["gold"], made["repeat"]) == (1, 1)
        review_all(database, {person: letters}, 2)
    assert report(database)["gold"] == [
        {"reviewer": "ann", "answered": 1, "right": 1},
        {"reviewer": "ben", "answered": 1, "right": 0},
    ]
    assert report(database, for_lead=False)["gold"] is None


def test_throughput_counts_tasks_and_not_corrections(database) -> None:
    insert_decision(database, 1)
    make_tasks(database, caller="lead", count=20, reviews=1)
    lease = take(database, "ann")
    before = datetime.now(UTC)
    for seconds, letters in ((4.0, "A"), (50.0, "B")):
        reviews.submit(database, submission(lease, letters, active_seconds=seconds), "ann")
    days = {moment.date().isoformat() for moment in (before, datetime.now(UTC))}  # two around midnight
    (found,) = report(database)["throughput"]
    assert found.pop("day") in days
    assert found == {"reviewer": "ann", "reviews": 1, "median_active_seconds": 4.0}
    assert report(database, since=datetime.now(UTC) + timedelta(hours=1))["throughput"] == []
    assert report(database, until=datetime.now(UTC) - timedelta(hours=1))["model"]["reviewed"] == 0
