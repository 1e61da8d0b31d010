"""Every answered decision is stored or counted as dropped, and every stored decision has its pictures."""

from __future__ import annotations

import contextlib
import hashlib
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from screening.images import Picture
from service.decisions import erasure
from service.decisions.database import Database
from service.decisions.errors import PictureStoreError
from service.decisions.picture_store import PictureStore
from service.decisions.record import DecisionRecord
from service.decisions.schema_version import head
from service.decisions.tables import DECISION, DECISION_PICTURE, PICTURE, VERSION_TABLE
from service.decisions.writer import DecisionWriter
from service.ids import new_id
from service.metrics import Metrics
from service.schemas import ScreenAnswer
from tests.service.conftest import draw

pytestmark = pytest.mark.slow

PICTURES = [Picture(draw(seed), "JPEG", 96, 80) for seed in range(5)]


def answer(**fields: Any) -> ScreenAnswer:
    options = [
        {"option": letter, "usable": False, "probability": None, "issues": [], "comment": None} for letter in "ABCD"
    ]
    return ScreenAnswer.model_validate({
        "id": new_id("scr_"), "outcome": "answered", "unreadable_reason": None, "choice": "N", "acceptable": [],
        "reasoning": "seen", "options": options, "none_probability": 0.9, "confidence": 0.9, "needs_review": False,
        "warnings": [], "mode": "cot", "checkpoint": {"name": "x", "version": "1", "digest": "sha256:" + "0" * 64},
        "engine": "scripted", "source": "engine",
        "timings": {"queue_ms": 1, "decode_ms": 1, "engine_ms": 1, "total_ms": 3},
        "usage": {"prompt_tokens": 1, "completion_tokens": 1}, "metadata": {}, **fields,
    })  # fmt: skip


def record(pictures: list[Picture] = PICTURES, **fields: Any) -> DecisionRecord:
    return DecisionRecord(answer(**fields), "shop", "0" * 64, tuple(pictures), datetime.now(UTC))


class FailingStore(PictureStore):
    """A picture store whose writes fail while `broken` is set, and take until `goes_on` is set."""

    def __init__(self, location: str) -> None:
        super().__init__(location)
        self.broken = threading.Event()
        self.failed = threading.Event()
        self.writes = threading.Event()
        self.goes_on = threading.Event()
        self.goes_on.set()

    def put(self, sha256: str, data: bytes) -> None:
        self.writes.set()
        self.goes_on.wait()
        if self.broken.is_set():
            self.failed.set()
            raise PictureStoreError("the store is down")
        super().put(sha256, data)


@pytest.fixture
def store(tmp_path: Path) -> FailingStore:
    return FailingStore(str(tmp_path / "pictures"))


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def make_writer(database: Database, store: FailingStore, metrics: Metrics) -> Iterator[Callable[..., DecisionWriter]]:
    started: list[DecisionWriter] = []

    def make(max_bytes: int = 2**26) -> DecisionWriter:
        writer = DecisionWriter(database, store, metrics, max_bytes=max_bytes, retention=None)
        writer.start()
        started.append(writer)
        return writer

    yield make
    for writer in started:
        writer.close(0)


def counted(metrics: Metrics, result: str) -> float:
    return metrics.registry.get_sample_value("screening_decisions_total", {"result": result}) or 0.0


def rows(database: Database, table: sa.Table) -> list[Any]:
    with database.reading() as connection:
        return list(connection.execute(sa.select(table)).all())


def test_a_decision_is_stored_with_its_pictures(make_writer, database, store, metrics) -> None:
    writer = make_writer()
    one = record(metadata={"product": "SKU-7", "note": "ä \x00 😀"})
    assert writer.offer(one)
    writer.close(30)
    (row,) = rows(database, DECISION)
    assert row.id == one.answer.id and row.product == "SKU-7" and row.choice == "N" and row.caller == "shop"
    assert row.created_at == one.created_at
    assert ScreenAnswer.model_validate(row.answer) == one.answer
    links = sorted(rows(database, DECISION_PICTURE), key=lambda link: link.position)
    assert [store.get(link.sha256) for link in links] == [picture.data for picture in PICTURES]
    assert counted(metrics, "stored") == 1 and counted(metrics, "dropped") == 0


def test_equal_pictures_are_stored_once(make_writer, database) -> None:
    writer = make_writer()
    for _ in range(3):
        writer.offer(record([PICTURES[0]] * 5))
    writer.close(30)
    assert len(rows(database, DECISION)) == 3 and len(rows(database, PICTURE)) == 1


def test_a_full_queue_drops_and_counts(make_writer, database, store, metrics, wait_until) -> None:
    store.broken.set()
    size = record().bytes
    writer = make_writer(max_bytes=3 * size)
    taken = [writer.offer(record()) for _ in range(5)]
    assert taken == [True, True, True, False, False] and not writer.has_room
    store.failed.wait(30)
    store.broken.clear()
    wait_until(lambda: counted(metrics, "stored") == 3)
    assert counted(metrics, "dropped") == 2 and writer.offer(record())
    writer.close(30)
    assert len(rows(database, DECISION)) == 4
    assert metrics.registry.get_sample_value("screening_decision_queue_bytes") == 0


def test_the_begin_of_dropping_is_logged_once(make_writer, store, metrics, wait_until, caplog) -> None:
    def logged() -> int:
        return [one.getMessage() for one in caplog.records].count("decisions are dropped: the queue is full")

    writer = make_writer(max_bytes=3 * record().bytes)
    for times in (1, 2):
        store.broken.set()
        for _ in range(6):
            writer.offer(record())
        assert counted(metrics, "dropped") == 3 * times and logged() == times
        store.broken.clear()
        wait_until(lambda: metrics.registry.get_sample_value("screening_decision_queue_bytes") == 0)


def test_decisions_that_are_not_written_before_the_end_are_counted(make_writer, database, store, metrics) -> None:
    store.broken.set()
    writer = make_writer()
    for _ in range(40):  # more than one batch
        writer.offer(record())
    store.failed.wait(30)
    writer.close(0.1)
    assert counted(metrics, "dropped") == 40 and rows(database, DECISION) == []
    assert not writer.offer(record()), "a closed writer takes nothing"


def _close_during_a_write(writer: DecisionWriter, store: FailingStore, waiting: int) -> threading.Thread:
    """Begin to write one record, let others wait, and close the writer without time for them."""
    store.goes_on.clear()
    writer.offer(record())
    assert store.writes.wait(60)
    for _ in range(waiting):
        writer.offer(record())
    closing = threading.Thread(target=writer.close, args=(0,))
    closing.start()
    return closing


def test_a_store_that_works_takes_nothing_after_the_time_to_flush(
    make_writer, database, store, metrics, wait_until
) -> None:
    writer = make_writer()
    closing = _close_during_a_write(writer, store, waiting=3)
    wait_until(lambda: writer._end_at is not None)
    store.goes_on.set()
    closing.join()
    assert len(rows(database, DECISION)) == counted(metrics, "stored") == 1
    assert counted(metrics, "dropped") == 3


def test_a_write_that_hangs_at_the_end_is_not_waited_for(make_writer, store, metrics, monkeypatch) -> None:
    monkeypatch.setattr("service.decisions.writer._LAST_WRITE_SECONDS", 0.1)
    try:
        _close_during_a_write(make_writer(), store, waiting=2).join()
        assert counted(metrics, "dropped") == 3
    finally:
        store.goes_on.set()


def test_records_of_a_divided_batch_that_are_stored_do_not_count_as_dropped(
    make_writer, store, metrics, monkeypatch
) -> None:
    put, reached, goes_on = store.put, threading.Event(), threading.Event()

    def put_two(sha256: str, data: bytes) -> None:
        if counted(metrics, "stored") == 2:
            reached.set()
            goes_on.wait()
        put(sha256, data)

    monkeypatch.setattr(store, "put", put_two)
    monkeypatch.setattr("service.decisions.writer._LAST_WRITE_SECONDS", 0.1)
    store.goes_on.clear()
    writer = make_writer()
    writer.offer(record())
    assert store.writes.wait(60)
    for one in (record(), _refused(), record()):  # they wait, and so are one batch
        writer.offer(one)
    store.goes_on.set()
    try:
        assert reached.wait(60)
        writer.close(0)
        assert counted(metrics, "dropped") == 2
    finally:
        goes_on.set()


def test_one_record_that_the_database_refuses_takes_no_other_with_it(make_writer, database, metrics) -> None:
    writer = make_writer()
    good = [record() for _ in range(4)]
    for one in good[:2]:
        writer.offer(one)
    writer.offer(_refused())
    for one in good[2:]:
        writer.offer(one)
    writer.close(30)
    assert {row.id for row in rows(database, DECISION)} == {one.answer.id for one in good}
    assert counted(metrics, "stored") == 4 and counted(metrics, "dropped") == 1


def test_a_record_that_cannot_be_written_as_json_does_not_end_the_writer(make_writer, database, metrics) -> None:
    nested: list[Any] = []
    for _ in range(900):
        nested = [nested]
    writer, good = make_writer(), record()
    writer.offer(record(metadata={"nested": nested}))
    writer.offer(good)
    writer.close(30)
    assert [row.id for row in rows(database, DECISION)] == [good.answer.id]
    assert counted(metrics, "stored") == 1 and counted(metrics, "dropped") == 1


def test_missing_tables_delay_and_lose_nothing(make_writer, database, metrics, wait_until) -> None:
    with database.writing() as connection:
        connection.execute(sa.text("ALTER TABLE decision RENAME TO away"))
    writer = make_writer()
    writer.offer(record())
    writer.close(0)
    assert counted(metrics, "dropped") == 1, "given up at the end only"
    writer = make_writer()
    writer.offer(record())
    with database.writing() as connection:
        connection.execute(sa.text("ALTER TABLE away RENAME TO decision"))
    wait_until(lambda: counted(metrics, "stored") == 1)


def test_tables_of_another_version_delay_and_lose_nothing(
    database_url, store, metrics, wait_until, monkeypatch, caplog
) -> None:
    """As after a start without the database."""

    def set_version(version: str) -> None:
        with database.writing() as connection:
            connection.execute(sa.text(f"UPDATE {VERSION_TABLE} SET version_num = '{version}'"))

    monkeypatch.setattr("service.decisions.writer._RETRY_SECONDS", (0.01,))
    database = Database(database_url)
    set_version("9999")
    writer = DecisionWriter(database, store, metrics, max_bytes=2**26, retention=None)
    writer.start()
    writer.offer(record())
    wait_until(lambda: any("version 9999" in str(getattr(one, "fields", "")) for one in caplog.records))
    set_version(head())
    wait_until(lambda: counted(metrics, "stored") == 1)
    writer.close(30)
    database.close()


def _refused() -> DecisionRecord:
    """A record without a time, which its column does not take."""
    return DecisionRecord(answer(), "shop", "0" * 64, tuple(PICTURES), None)  # type: ignore[arg-type]


def test_a_locked_database_delays_and_loses_nothing(make_writer, database, metrics, monkeypatch, wait_until) -> None:
    monkeypatch.setattr("service.decisions.database.BUSY_SECONDS", 0.2)
    writer = make_writer()
    with contextlib.ExitStack() as held:
        connection = held.enter_context(database.writing())
        if not database.is_sqlite:
            connection.execute(sa.text("LOCK TABLE decision IN ACCESS EXCLUSIVE MODE"))
        for _ in range(5):
            assert writer.offer(record())
    wait_until(lambda: counted(metrics, "stored") == 5)
    assert counted(metrics, "dropped") == 0


def test_a_decision_that_was_erased_while_it_waited_is_not_written(make_writer, database, store, metrics) -> None:
    one, other = record(), record()
    assert not erasure.erase_one(database, store, one.answer.id, caller="lead")
    writer = make_writer()
    writer.offer(one)
    writer.offer(other)
    writer.close(30)
    assert [row.id for row in rows(database, DECISION)] == [other.answer.id]
    assert counted(metrics, "stored") == 1 and counted(metrics, "erased") == 1


def test_a_picture_that_was_deleted_comes_back_with_the_next_decision(make_writer, database, store) -> None:
    first, second = record(), record()
    writer = make_writer()
    writer.offer(first)
    writer.close(30)
    address = hashlib.sha256(PICTURES[0].data).hexdigest()
    assert erasure.erase_one(database, store, first.answer.id, caller="lead")
    assert store.get(address) is None
    writer = make_writer()
    writer.offer(second)
    writer.close(30)
    assert store.get(address) == PICTURES[0].data
    assert all(row.deleted_at is None and row.purged_at is None for row in rows(database, PICTURE))


def test_erasing_and_writing_at_once_leaves_no_row_without_its_pictures(make_writer, database, store, metrics) -> None:
    """Every decision has the same five pictures, so that each erasure may delete what the writer has just written."""
    writer = make_writer()
    ends, kept = threading.Event(), [record() for _ in range(20)]
    passing = [record() for _ in range(60)]

    def erase() -> None:
        while not ends.is_set():
            for one in passing:
                erasure.erase_one(database, store, one.answer.id, caller="lead")

    thread = threading.Thread(target=erase)
    thread.start()
    for index, one in enumerate(passing):
        writer.offer(one)
        if index % 3 == 0:
            writer.offer(kept[index // 3])
    writer.close(60)
    ends.set()
    thread.join()
    assert {row.id for row in rows(database, DECISION)} >= {one.answer.id for one in kept}
    assert all(store.get(link.sha256) is not None for link in rows(database, DECISION_PICTURE))
    assert counted(metrics, "stored") + counted(metrics, "erased") == 80 and counted(metrics, "dropped") == 0
