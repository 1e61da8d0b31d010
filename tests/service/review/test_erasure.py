"""Erasure and expiry reach the tasks, leases and reviews of a decision, and its pictures."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from service.__main__ import main as command
from service.decisions import erasure
from service.decisions.database import Database
from service.decisions.picture_store import PictureStore
from service.decisions.review_tables import REVIEW_TASK
from service.decisions.tables import AUDIT, DECISION, PICTURE
from service.errors import LeaseNotFound, ReviewConflict
from service.review import export, gold, leases, reviews
from service.review.data_import import import_directory
from service.review.tasks import insert_tasks, make_tasks
from tests.service.decisions.conftest import sha256
from tests.service.review.conftest import insert_decision, submission, take
from tests.service.review.test_data_import import sample, write

pytestmark = pytest.mark.slow

OF_TASKS = (
    "review_task", "task_picture", "review_slot", "review_lease", "review", "verdict", "consensus", "gold",
)  # fmt: skip


def rows(database: Database) -> dict[str, int]:
    """Number of rows in each table that belongs to tasks."""
    with database.reading() as connection:
        return {name: connection.execute(sa.text(f"SELECT count(*) FROM {name}")).scalar_one() for name in OF_TASKS}


def review(database: Database, number: int) -> tuple[str, str]:
    """A decision that was reviewed, corrected and marked as a gold question; returns its id and that of its task."""
    decision = insert_decision(database, number, product="tea", at=datetime.now(UTC))
    make_tasks(database, caller="lead", count=1, reviews=1)
    lease = take(database, "ann")
    reviews.submit(database, submission(lease, "A"), "ann")
    kept, _ = reviews.submit(database, submission(lease, "AB"), "ann")
    gold.add(database, kept.review.task_id)
    return decision, kept.review.task_id


def erase(database: Database, pictures: PictureStore, decision: str) -> None:
    assert erasure.erase_one(database, pictures, decision, caller="lead")


def prune(database: Database, pictures: PictureStore, decision: str) -> None:
    with database.writing() as connection:
        expired = sa.update(DECISION).where(DECISION.c.id == decision)
        connection.execute(expired.values(retain_until=datetime.now(UTC) - timedelta(days=1)))
    assert erasure.prune(database, pictures, datetime.now(UTC))[0] == 1


@pytest.mark.parametrize("delete", [erase, prune])
def test_nothing_of_a_deleted_decision_is_left(database, pictures, delete: Callable[..., None]) -> None:
    first, _ = review(database, 1)
    before = rows(database)
    assert all(before.values()), "each table has something to lose"
    second, task = review(database, 2)
    for position in range(5):
        pictures.put(sha256(f"2/{position}"), b"7 bytes")
    delete(database, pictures, second)
    assert rows(database) == before
    assert not any(pictures.get(sha256(f"2/{position}")) for position in range(5))
    with database.reading() as connection:
        assert connection.scalars(sa.select(REVIEW_TASK.c.decision_id).distinct()).all() == [first]
        assert connection.scalars(sa.select(AUDIT.c.decisions)).all() == [1]
    assert task not in [one["task"] for one in export.page(database, after=None, limit=9)]


def test_a_picture_that_a_task_still_shows_is_kept(database, pictures) -> None:
    decision = insert_decision(database, 1)
    shared = {position: sha256(f"1/{position}") for position in range(5)}
    with database.writing() as connection:
        task = {"job": "label", "reason": "label", "sample": "s", "batch": "b", "product": "tea", "reviews_required": 1}
        insert_tasks(connection, [(task, shared)], 1, datetime.now(UTC))
    erase(database, pictures, decision)
    with database.reading() as connection:
        assert connection.scalars(sa.select(PICTURE.c.deleted_at).distinct()).all() == [None]
    assert erasure.erase_samples(database, pictures, "tea", caller="lead") == 1
    with database.reading() as connection:
        assert None not in connection.scalars(sa.select(PICTURE.c.purged_at)).all()


def test_an_import_or_one_of_its_samples_is_erased_without_a_product(
    database, database_url, pictures, tmp_path, capsys
) -> None:
    """With the gold question that repeats a sample, and not the sample of another import that has the same id."""

    def erased(*words: str) -> int:
        stores = ["--decisions", database_url, "--pictures", str(tmp_path / "pictures")]
        assert command(["erase", *stores, "--batch", "first", *words]) == 0
        return json.loads(capsys.readouterr().out)["samples"]

    def left() -> tuple[set[tuple[str, str]], int]:
        """Batch and sample of each task, and the number of pictures."""
        with database.reading() as connection:
            found = connection.execute(sa.select(REVIEW_TASK.c.batch, REVIEW_TASK.c.sample)).all()
            addresses = connection.scalars(sa.select(PICTURE.c.sha256)).all()
        return {(row.batch, row.sample) for row in found}, sum(pictures.get(one) is not None for one in addresses)

    first = write(tmp_path / "first", sample("1"), sample("2", 5))
    import_directory(database, pictures, first, batch="first", reviews=1)
    reviewed, _ = reviews.submit(database, submission(take(database, "ann"), "A"), "ann")
    gold.add(database, reviewed.review.task_id)
    assert make_tasks(database, caller="lead", count=20)["gold"] == 1
    second = write(tmp_path / "second", sample("1", 10), sample("2", 5), pictures=15)
    import_directory(database, pictures, second, batch="second", reviews=1)
    with database.reading() as connection:
        of_task = sa.select(REVIEW_TASK.c.sample).where(REVIEW_TASK.c.id == reviewed.review.task_id)
        name = connection.execute(of_task).scalar_one()
    (other,) = {"1", "2"} - {name}
    assert left() == ({("first", "1"), ("first", "2"), (None, None), ("second", "1"), ("second", "2")}, 15)
    assert erased("--sample", name) == 2
    assert left()[0] == {("first", other), ("second", "1"), ("second", "2")}
    assert erased() == 1
    assert left() == ({("second", "1"), ("second", "2")}, 10), "the second import still shows five of its pictures"
    assert erased() == 0
    with pytest.raises(SystemExit):
        command(["erase", "--product", "tea", "--sample", "1"])
    assert "--sample needs --batch" in capsys.readouterr().err


def test_a_review_of_an_erased_decision_finds_no_lease(database, pictures) -> None:
    decision = insert_decision(database, 1)
    make_tasks(database, caller="lead", count=20, reviews=1)
    lease = take(database, "ann")
    erase(database, pictures, decision)
    for work in (
        lambda: reviews.submit(database, submission(lease, "A"), "ann"),
        lambda: leases.extend(database, lease.id, "ann"),
        lambda: leases.picture_of(database, lease.id, "ann", 0),
    ):
        with pytest.raises(LeaseNotFound):
            work()


def test_snapshots_say_how_much_of_them_was_erased(database, pictures) -> None:
    first, task = review(database, 1)
    review(database, 2)
    tasks = [one["task"] for one in export.page(database, after=None, limit=9)]
    export.note(database, caller="lead", digest="sha256:1", tasks=tasks)
    export.note(database, caller="lead", digest="sha256:2", tasks=[])
    erase(database, pictures, first)
    found = [(one["digest"], one["tasks"], one["erased"]) for one in export.snapshots(database)]
    assert found == [("sha256:1", 2, 1), ("sha256:2", 0, 0)]
    with pytest.raises(ReviewConflict, match=task):
        export.note(database, caller="lead", digest="sha256:3", tasks=tasks)


def test_people_review_while_decisions_are_queued_and_erased(database, pictures) -> None:
    """PostgreSQL would end one of two transactions that wait for each other."""
    decisions = [insert_decision(database, number, at=datetime.now(UTC)) for number in range(60)]
    make_tasks(database, caller="lead", count=60)

    def work(reviewer: str) -> int:
        stored = 0
        while True:
            found, waiting = leases.lease(database, reviewer, count=3, job=None)
            if not found and waiting == 0:
                return stored
            for lease in found:
                try:
                    reviews.submit(database, submission(lease, "A"), reviewer)
                    stored += 1
                except LeaseNotFound:
                    pass  # its decision was erased meanwhile

    def erase_half() -> int:
        return sum(
            erasure.erase(database, pictures, decisions[start : start + 3], caller="lead", subject="test")
            for start in range(0, 30, 3)
        )

    def queue_more() -> int:
        made: list[Any] = []
        for number in range(100, 110):
            insert_decision(database, number, at=datetime.now(UTC))
            made.append(make_tasks(database, caller="lead", count=5))
        return len(made)

    with ThreadPoolExecutor(6) as pool:
        people = [pool.submit(work, f"person-{number}") for number in range(4)]
        others = [pool.submit(erase_half), pool.submit(queue_more)]
        assert [one.result() for one in others] == [30, 10]
        assert sum(one.result() for one in people) > 0
