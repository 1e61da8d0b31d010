"""Leases: one slot for one person, ten minutes, and no work is lost."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa

from service.decisions.database import Database
from service.decisions.review_tables import REVIEW, REVIEW_LEASE, REVIEW_SLOT, REVIEW_TASK
from service.errors import LeaseLost, LeaseNotFound, ReviewConflict
from service.review import leases, reviews
from service.review.tasks import insert_tasks, make_tasks
from tests.service.decisions.conftest import sha256
from tests.service.review.conftest import expire, insert_decision, submission, take


def make(database: Database, tasks: int = 1, needed: int = 1) -> None:
    """Insert tasks, with a number of slots each."""
    for number in range(tasks):
        insert_decision(database, number)
    make_tasks(database, caller="lead", count=tasks, seed=1, reviews=needed)


def states(database: Database) -> list[str]:
    with database.reading() as connection:
        return list(connection.scalars(sa.select(REVIEW_SLOT.c.state).order_by(REVIEW_SLOT.c.number)))


def task_state(database: Database) -> str:
    """The state of the only task."""
    with database.reading() as connection:
        return connection.execute(sa.select(REVIEW_TASK.c.state)).scalar_one()


def pass_an_hour(database: Database, lease: leases.Lease) -> None:
    """Let more than an hour pass since a lease was given. Its end stays, as if heartbeats had extended it."""
    long_ago = datetime.now(UTC) - timedelta(minutes=61)
    with database.writing() as connection:
        connection.execute(sa.update(REVIEW_LEASE).where(REVIEW_LEASE.c.id == lease.id).values(at=long_ago))


def take_and_review(database: Database, reviewer: str, letters: str) -> int:
    """Lease and review one task; returns the number of the slot."""
    stored, _ = reviews.submit(database, submission(take(database, reviewer), letters), reviewer)
    return stored.review.number


def test_one_slot_goes_to_one_person(database) -> None:
    make(database)
    lease = take(database, "ann")
    assert [one.position for one in lease.pictures] == [0, 1, 2, 3, 4] and sorted(lease.display_order) == list("ABCD")
    assert leases.lease(database, "ben", count=1, job=None) == ([], 0)
    assert leases.lease(database, "ann", count=1, job=None) == ([], 0)


def test_a_person_never_gets_two_slots_of_a_task(database) -> None:
    make(database, tasks=3, needed=2)
    found, waiting = leases.lease(database, "ann", count=3, job=None)
    assert len(found) == 3 and waiting == 0
    assert leases.lease(database, "ben", count=2, job=None)[1] == 1
    reviews.submit(database, submission(found[0], "A"), "ann")
    expire(database, found[1])
    again, _ = leases.lease(database, "ann", count=3, job=None)
    with database.reading() as connection:
        tasks = connection.execute(sa.select(REVIEW_LEASE).where(REVIEW_LEASE.c.reviewer == "ann")).all()
    assert len(again) == 1, "only the slot that the person had before"
    assert len({(one.task_id, one.number) for one in tasks}) == 3 == len({one.task_id for one in tasks})


def test_a_lease_is_for_the_job_that_was_asked_for(database) -> None:
    make(database)
    assert leases.lease(database, "ann", count=1, job="label") == ([], 0)
    assert len(leases.lease(database, "ann", count=1, job="review")[0]) == 1


def test_a_lease_that_ends_goes_to_another_person_and_late_work_is_kept(database) -> None:
    make(database)
    late = take(database, "ann")
    expire(database, late)
    current = take(database, "ben")
    with pytest.raises(LeaseLost):
        leases.extend(database, late.id, "ann")
    kept, is_new = reviews.submit(database, submission(late, "AB"), "ann")
    assert is_new and kept.review.late and kept.letters == "AB"
    assert leases.extend(database, current.id, "ben") > datetime.now(UTC) + timedelta(minutes=9)
    second, _ = reviews.submit(database, submission(current, "AB"), "ben")
    assert not second.review.late and states(database) == ["done"]


def test_a_person_whose_slot_another_took_gets_the_other_slot_after_an_hour(database) -> None:
    make(database, needed=2)
    lost = take(database, "ann")
    expire(database, lost)
    assert take_and_review(database, "ben", "AB") == 1, "the slot that was Ann's"
    assert leases.lease(database, "ann", count=1, job=None) == ([], 0)
    pass_an_hour(database, lost)
    assert leases.waiting(database, "ann", None) == 1
    current = take(database, "ann")
    late, _ = reviews.submit(database, submission(lost, "A"), "ann")
    second, _ = reviews.submit(database, submission(current, "AB"), "ann")
    assert late.review.late and second.review.supersedes == late.review.id
    assert not second.review.late and second.review.number == 2
    assert states(database) == ["done"] * 2 and task_state(database) == "done"


def test_a_person_whose_slot_another_took_can_be_the_third_one(database) -> None:
    make(database, needed=2)
    lost = take(database, "ann")
    expire(database, lost)
    assert [take_and_review(database, "ben", "AB"), take_and_review(database, "cleo", "A")] == [1, 2]
    assert leases.lease(database, "ann", count=1, job=None) == ([], 0)
    pass_an_hour(database, lost)
    assert take_and_review(database, "ann", "A") == 3 and task_state(database) == "done"


def test_a_lease_that_lasts_for_more_than_an_hour_bars_the_other_slot(database) -> None:
    make(database, needed=2)
    held = take(database, "ann")
    pass_an_hour(database, held)
    assert leases.lease(database, "ann", count=1, job=None) == ([], 0)
    assert take_and_review(database, "ben", "A") == 2


def test_late_work_that_agrees_closes_a_task_of_which_a_slot_is_free(database) -> None:
    make(database, needed=2)
    lost = take(database, "ann")
    expire(database, lost)
    take_and_review(database, "ben", "AB")
    late, _ = reviews.submit(database, submission(lost, "AB"), "ann")
    assert late.review.late and states(database) == ["done", "free"] and task_state(database) == "done"
    assert leases.lease(database, "cleo", count=1, job=None) == ([], 0)
    reviews.submit(database, submission(lost, "A"), "ann")
    assert task_state(database) == "open", "the correction differs"
    assert take_and_review(database, "cleo", "A") == 2 and task_state(database) == "done"


def test_a_task_whose_slots_one_person_filled_twice_stays_open_until_it_is_decided(database) -> None:
    make(database, needed=2)
    lost = take(database, "ann")
    expire(database, lost)
    others = take(database, "ben")
    pass_an_hour(database, lost)
    current = take(database, "ann")
    leases.skip(database, others.id, "ben")
    for lease in (lost, current):
        reviews.submit(database, submission(lease, "A"), "ann")
    assert states(database) == ["done", "done", "free"] and task_state(database) == "open"
    assert take_and_review(database, "cleo", "B") == 3 and task_state(database) == "open"
    assert take_and_review(database, "dora", "B") == 4 and task_state(database) == "done"


@pytest.mark.slow
def test_a_lease_that_ended_is_extended_while_its_slot_is_still_there(database) -> None:
    make(database)
    lease = take(database, "ann")
    expire(database, lease)
    assert leases.extend(database, lease.id, "ann") > datetime.now(UTC) + timedelta(minutes=9)
    assert leases.lease(database, "ben", count=1, job=None) == ([], 0)
    expire(database, lease)
    kept, _ = reviews.submit(database, submission(lease, "A"), "ann")
    assert not kept.review.late


def test_a_skipped_task_goes_to_others_and_comes_back_after_an_hour(database) -> None:
    make(database)
    lease = take(database, "ann")
    leases.skip(database, lease.id, "ann")
    assert leases.lease(database, "ann", count=1, job=None) == ([], 0)
    leases.skip(database, take(database, "ben").id, "ben")
    with database.writing() as connection:
        long_ago = datetime.now(UTC) - timedelta(minutes=61)
        connection.execute(sa.update(REVIEW_LEASE).where(REVIEW_LEASE.c.id == lease.id).values(skipped_at=long_ago))
    assert take(database, "ann").id != lease.id


def test_a_skipped_lease_still_takes_the_review_of_a_second_tab(database) -> None:
    make(database)
    lease = take(database, "ann")
    leases.skip(database, lease.id, "ann")
    kept, _ = reviews.submit(database, submission(lease, "C"), "ann")
    assert not kept.review.late and states(database) == ["done"]


def test_the_lease_of_another_person_is_not_found(database) -> None:
    make(database)
    lease = take(database, "ann")
    for work in (
        lambda: leases.extend(database, lease.id, "ben"),
        lambda: leases.skip(database, lease.id, "ben"),
        lambda: leases.picture_of(database, lease.id, "ben", 1),
        lambda: reviews.submit(database, submission(lease, "A"), "ben"),
    ):
        with pytest.raises(LeaseNotFound):
            work()


def test_a_repeated_submission_makes_one_row(database) -> None:
    make(database)
    sent = submission(take(database, "ann"), "AC", best=None)
    first, is_new = reviews.submit(database, sent, "ann")
    again, is_new_again = reviews.submit(database, sent, "ann")
    assert (is_new, is_new_again) == (True, False) and first.review == again.review
    other = submission(take_back(first), "B", identity=sent.id)
    with pytest.raises(ReviewConflict):
        reviews.submit(database, other, "ann")


def take_back(stored: reviews.Stored) -> leases.Lease:
    """The lease of a stored review."""
    row = stored.review
    return leases.Lease(row.lease, stored.job, row.at, row.display_order, stored.pictures)


def test_the_submission_of_a_second_tab_supersedes_the_first(database) -> None:
    make(database)
    lease = take(database, "ann")
    first, _ = reviews.submit(database, submission(lease, "A"), "ann")
    second, _ = reviews.submit(database, submission(lease, "AB"), "ann")
    assert second.review.supersedes == first.review.id and not second.review.blind and not second.review.late
    assert [one.superseded for one in reviews.last(database, "ann", 5)] == [False, True]


def test_a_correction_supersedes_the_last_review_only(database) -> None:
    make(database)
    lease = take(database, "ann")
    first, _ = reviews.submit(database, submission(lease, "A"), "ann")
    second, _ = reviews.submit(database, submission(lease, "B", supersedes=first.review.id), "ann")
    assert first.review.blind and not second.review.blind
    with pytest.raises(ReviewConflict, match="not your last review"):
        reviews.submit(database, submission(lease, "C", supersedes=first.review.id), "ann")


def test_a_third_person_decides_where_two_differ(database) -> None:
    make(database, needed=2)
    for person, letters in (("ann", "AB"), ("ben", "B")):
        reviews.submit(database, submission(take(database, person), letters), person)
    assert leases.lease(database, "ann", count=1, job=None) == ([], 0)
    reviews.submit(database, submission(take(database, "cleo"), "B"), "cleo")
    assert states(database) == ["done"] * 3
    with database.reading() as connection:
        assert connection.scalars(sa.select(REVIEW_TASK.c.state)).all() == ["done"]


def claim_everything(database: Database, reviewer: str) -> list[tuple[str, int]]:
    """Lease and review until nothing is left; returns the slots."""
    got: list[tuple[str, int]] = []
    while True:
        found, waiting = leases.lease(database, reviewer, count=3, job=None)
        if not found and waiting == 0:
            return got
        for one in found:
            kept, _ = reviews.submit(database, submission(one, "A"), reviewer)
            got.append((kept.review.task_id, kept.review.number))


def check_claims(database: Database, url: str, *, people: int, tasks: int) -> None:
    now = datetime.now(UTC)
    decisions = [insert_decision(database, number) for number in range(tasks)]
    with database.writing() as connection:
        for number, decision in enumerate(decisions):
            task = {"job": "review", "reason": "audit", "decision_id": decision, "reviews_required": 2}
            pictures = {place: sha256(f"{number}/{place}") for place in range(5)}
            insert_tasks(connection, [(task, pictures)], number, now)
    # On PostgreSQL each person uses another service; an SQLite file belongs to one.
    databases = [database if database.is_sqlite else Database(url) for _ in range(people)]
    with ThreadPoolExecutor(people) as pool:
        claimed = list(pool.map(claim_everything, databases, map("person-{}".format, range(people))))
    for one in databases:
        one.close()
    slots = Counter(slot for got in claimed for slot in got)
    assert len(slots) == 2 * tasks and set(slots.values()) == {1}
    assert all(len({task for task, _ in got}) == len(got) for got in claimed)
    with database.reading() as connection:
        assert connection.scalars(sa.select(sa.func.count()).select_from(REVIEW)).one() == 2 * tasks
        assert set(connection.scalars(sa.select(REVIEW_TASK.c.state))) == {"done"}


@pytest.mark.slow
def test_people_who_work_at_the_same_time_get_each_slot_once(database, database_url) -> None:
    check_claims(database, database_url, people=6, tasks=12)


@pytest.mark.slow
@pytest.mark.exhaustive
def test_twenty_people_who_work_at_the_same_time_get_each_of_a_thousand_slots_once(database, database_url) -> None:
    check_claims(database, database_url, people=20, tasks=500)
