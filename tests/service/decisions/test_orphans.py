"""What a killed service leaves is removed a day later, and nothing that a decision shows."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from service.decisions import erasure, orphans
from service.decisions.commands import main
from service.decisions.picture_store import PictureStore
from service.decisions.tables import PICTURE
from tests.service.decisions.test_erasure import left, own_pictures, write
from tests.service.decisions.test_writer import record

NOW = datetime.now(UTC)
LATER = NOW + timedelta(days=2)


@pytest.fixture
def store(tmp_path: Path) -> PictureStore:
    return PictureStore(str(tmp_path / "pictures"))


def pictures(database) -> dict[str, tuple[str, bool]]:
    """Media type of each row, and whether it is marked as deleted."""
    with database.reading() as connection:
        rows = connection.execute(sa.select(PICTURE)).all()
    return {row.sha256: (row.media_type, row.deleted_at is not None) for row in rows}


def test_pictures_without_a_row_are_removed_after_a_day(database, store) -> None:
    kept, lost = record(own_pictures(1)), record(own_pictures(2))
    write(database, store, [kept])
    for one in lost.stored_pictures():  # and then the service was killed
        store.put(one.sha256, one.data)
    assert orphans.remove(database, store, NOW) == 0
    assert all(store.get(one.sha256) for one in lost.stored_pictures())
    assert orphans.remove(database, store, LATER) == 5
    assert not any(store.get(one.sha256) for one in lost.stored_pictures())
    assert left(database, store) == (1, 5)
    assert orphans.remove(database, store, LATER) == 0


def test_a_removed_picture_comes_back_with_the_next_decision(database, store) -> None:
    lost, found = record(own_pictures(1)), record(own_pictures(1))
    for one in lost.stored_pictures():
        store.put(one.sha256, one.data)
    orphans.remove(database, store, LATER)
    write(database, store, [found])
    assert left(database, store) == (1, 5)
    assert set(pictures(database).values()) == {("image/jpeg", False)}
    assert orphans.remove(database, store, LATER) == 0 and left(database, store) == (1, 5)


def test_rows_of_deleted_pictures_are_forgotten_after_a_day(database, store) -> None:
    first, second = record(own_pictures(1)), record(own_pictures(2))
    write(database, store, [first, second])
    erasure.erase_one(database, store, first.answer.id, caller="lead")
    orphans.remove(database, store, NOW)
    assert len(pictures(database)) == 10, "a writer may be about to refer to them"
    orphans.remove(database, store, LATER)
    assert pictures(database).keys() == {one.sha256 for one in second.stored_pictures()}


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_prune_removes_unfinished_files_and_leaves_foreign_ones(database, database_url, store, capsys) -> None:
    (one, *_) = record(own_pictures(1)).stored_pictures()
    store.put(one.sha256, one.data)
    file = Path(store.location) / one.sha256[:2] / one.sha256
    fresh, old, foreign = (file.with_name(name) for name in (f"{one.sha256}#1", f"{one.sha256}#2", "notes.txt"))
    for path in (fresh, old, foreign):
        path.write_bytes(b"half")
    for path in (old, foreign, file):
        os.utime(path, (0, 0))
    assert main(["prune", "--decisions", database_url, "--pictures", store.location]) == 0
    assert json.loads(capsys.readouterr().out) == {"decisions": 0, "pictures": 0, "orphans": 1}
    assert {path.name for path in file.parent.iterdir()} == {fresh.name, foreign.name}


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_prune_does_not_take_the_working_directory_for_an_empty_option(
    database_url, tmp_path, monkeypatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["prune", "--decisions", database_url, "--pictures", ""]) == 1
    assert "give --pictures" in capsys.readouterr().err
