"""Decisions go when their time has passed, by product or by metadata, and their pictures with them."""

from __future__ import annotations

import getpass
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from screening.images import Picture
from service.decisions import erasure
from service.decisions.commands import main
from service.decisions.errors import PictureStoreError
from service.decisions.picture_store import PictureStore
from service.decisions.record import DecisionRecord
from service.decisions.tables import AUDIT, DECISION, PICTURE
from service.decisions.writer import DecisionWriter
from service.metrics import Metrics
from tests.service.conftest import draw
from tests.service.decisions.test_writer import record

pytestmark = pytest.mark.slow


@pytest.fixture
def store(tmp_path) -> PictureStore:
    return PictureStore(str(tmp_path / "pictures"))


def write(database, store, records, *, retention=None) -> None:
    writer = DecisionWriter(database, store, Metrics(), max_bytes=2**28, retention=retention)
    writer.start()
    for one in records:
        assert writer.offer(one)
    writer.close(60)


def own_pictures(seed: int) -> list[Picture]:
    return [Picture(draw(100 + 10 * seed + index), "JPEG", 96, 80) for index in range(5)]


def left(database, store) -> tuple[int, int]:
    """Decisions, and pictures whose bytes are there."""
    with database.reading() as connection:
        decisions = connection.scalar(sa.select(sa.func.count()).select_from(DECISION))
        addresses = connection.scalars(sa.select(PICTURE.c.sha256)).all()
    return decisions, sum(store.get(address) is not None for address in addresses)


def test_prune_deletes_what_has_expired_and_nothing_else(database, store) -> None:
    now = datetime.now(UTC)
    write(database, store, [record(own_pictures(1))], retention=timedelta(days=1))
    write(database, store, [record(own_pictures(2))], retention=timedelta(days=3))
    write(database, store, [record(own_pictures(3))])
    assert erasure.prune(database, store, now) == (0, 0)
    assert erasure.prune(database, store, now + timedelta(days=2)) == (1, 5)
    assert left(database, store) == (2, 10)
    assert erasure.prune(database, store, now + timedelta(days=2)) == (0, 0)


def test_pictures_whose_deletion_was_interrupted_go_with_the_next_prune(database, store, monkeypatch) -> None:
    one = record(own_pictures(1))
    write(database, store, [one])

    def broken(_: str) -> None:
        raise PictureStoreError("the store is down")

    with monkeypatch.context() as patched:
        patched.setattr(store, "delete", broken)
        with pytest.raises(PictureStoreError):
            erasure.erase_one(database, store, one.answer.id, caller="lead")
    assert left(database, store) == (0, 5)
    assert erasure.prune(database, store, datetime.now(UTC)) == (0, 5)
    assert left(database, store) == (0, 0)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize(
    ("words", "gone"), [(["--product", "SKU-1"], 2), (["--metadata", "shop", "north"], 1)], ids=lambda value: str(value)
)
def test_the_command_erases_by_product_or_metadata(
    database, database_url, store, tmp_path, monkeypatch, capsys, words, gone
) -> None:
    write(database, store, [
        record(own_pictures(1), metadata={"product": "SKU-1", "shop": "north"}),
        record(own_pictures(2), metadata={"product": "SKU-1", "shop": "south"}),
        record(own_pictures(3), metadata={"product": "SKU-2"}),
    ])  # fmt: skip

    def nameless() -> str:
        raise KeyError("getpwuid(): uid not found: 10001")

    monkeypatch.setattr(getpass, "getuser", nameless)
    stores = ["--decisions", database_url, "--pictures", str(tmp_path / "pictures")]
    assert main(["erase", *stores, *words]) == 0 and json.loads(capsys.readouterr().out)["decisions"] == gone
    assert left(database, store) == (3 - gone, 15 - 5 * gone)
    with database.reading() as connection:
        trail = connection.execute(sa.select(AUDIT)).all()
    assert sum(row.decisions for row in trail) == gone
    assert not any(word in row.subject for row in trail for word in ("SKU", "north"))


def test_metadata_is_found_whatever_other_decisions_hold(database, store) -> None:
    strange: list[dict[str, Any]] = [
        {"note": "\x00", "shop": "north"},
        {"note": "\ud800", "shop": 4711},
        {'q"uo.te%_\\ä': "north"},
        {"inner": {"shop": "north"}, "note": '"shop": "north"'},
        {"shop": True},
        {"shop": ["north"]},
    ]
    records = [record(own_pictures(1), metadata=metadata) for metadata in strange]
    write(database, store, records)
    ids = [one.answer.id for one in records]
    assert erasure.with_metadata(database, "shop", "north") == ids[:1]
    assert erasure.with_metadata(database, "shop", "4711") == ids[1:2]
    assert erasure.with_metadata(database, 'q"uo.te%_\\ä', "north") == ids[2:3]
    assert erasure.with_metadata(database, "shop", "True") == []


def test_pictures_of_a_decision_that_was_erased_while_it_waited_go_with_the_next_prune(database, store) -> None:
    waiting, other = record(own_pictures(1)), record([own_pictures(1)[0], *own_pictures(2)[1:]])
    assert erasure.erase(database, store, [waiting.answer.id], caller="lead", subject="test") == 0
    write(database, store, [waiting, other])
    assert erasure.prune(database, store, datetime.now(UTC)) == (0, 4)
    assert left(database, store) == (1, 5)


class PausedRecord(DecisionRecord):
    """A record whose writing stops between the look for its erasure and the commit, until `goes_on` is set."""

    reached, goes_on = threading.Event(), threading.Event()

    def row(self, retention: timedelta | None) -> dict[str, Any]:
        self.reached.set()
        assert self.goes_on.wait(30)
        return super().row(retention)


def test_a_decision_that_is_erased_while_it_is_written_is_gone(database, store) -> None:
    PausedRecord.reached.clear()
    PausedRecord.goes_on.clear()
    one = record(own_pictures(1))
    paused = PausedRecord(one.answer, one.caller, one.question_digest, one.pictures, one.created_at)
    with ThreadPoolExecutor(2) as threads:
        writing = threads.submit(write, database, store, [paused])
        assert PausedRecord.reached.wait(30)
        erasing = threads.submit(erasure.erase_one, database, store, one.answer.id, caller="lead")
        with suppress(TimeoutError):
            erasing.result(0.3)  # it waits for the writer
        PausedRecord.goes_on.set()
        writing.result(30)
        erasing.result(30)
    assert left(database, store) == (0, 0)
