"""Decisions go when their time has passed, by product or by metadata, and their pictures with them."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa

from screening.images import Picture
from service.decisions import erasure
from service.decisions.picture_store import PictureStore, PictureStoreError
from service.decisions.tables import AUDIT, DECISION, PICTURE
from service.decisions.writer import DecisionWriter
from service.metrics import Metrics
from tests.service.conftest import draw
from tests.service.decisions.test_writer import record


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


@pytest.mark.parametrize(
    ("words", "gone"),
    [(["--product", "SKU-1"], 2), (["--metadata", "shop", "north"], 1), (["--product", "SKU-9"], 0)],
    ids=lambda value: str(value),
)
def test_the_command_erases_by_product_or_metadata(
    database, database_url, store, tmp_path, repository, words, gone
) -> None:
    write(database, store, [
        record(own_pictures(1), metadata={"product": "SKU-1", "shop": "north"}),
        record(own_pictures(2), metadata={"product": "SKU-1", "shop": "south"}),
        record(own_pictures(3), metadata={"product": "SKU-2"}),
    ])  # fmt: skip
    stores = ["--decisions", database_url, "--pictures", str(tmp_path / "pictures")]
    command = [sys.executable, "-m", "service", "erase", *stores, *words]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and json.loads(done.stdout) == {"decisions": gone}, done.stderr
    assert left(database, store) == (3 - gone, 15 - 5 * gone)
    with database.reading() as connection:
        trail = connection.execute(sa.select(AUDIT)).all()
    assert sum(row.decisions for row in trail) == gone
    assert not any(word in row.subject for row in trail for word in ("SKU", "north"))
