"""Which blocks are screened one record at a time, and which records are rejected."""

from __future__ import annotations

from pathlib import Path

import pytest

from trainer.catalogue.attempts import Attempts


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    return tmp_path / "block"


def die(notes: Path, row: int | None = None) -> None:
    attempt = Attempts(notes)
    attempt.begin()
    if row is not None:
        attempt.at(row)


def test_a_record_during_which_two_workers_died_is_rejected(notes: Path) -> None:
    for _ in range(2):
        assert not Attempts(notes).careful
        die(notes)
    assert Attempts(notes).careful
    for _ in range(2):
        assert not Attempts(notes).deadly
        die(notes, row=7)
    assert Attempts(notes).deadly == {7}


def test_an_attempt_that_fails_while_the_worker_lives_is_no_death(notes: Path) -> None:
    die(notes)
    for _ in range(3):
        attempt = Attempts(notes)
        attempt.begin()
        attempt.at(3)
        attempt.survived()
    assert not Attempts(notes).careful
    die(notes)
    assert Attempts(notes).careful


def test_notes_on_a_block_that_was_given_up_are_ignored(notes: Path) -> None:
    Attempts(notes).survived()
    assert not notes.exists()
    for _ in range(2):
        die(notes)
    before = notes.read_text()
    attempt = Attempts(notes)
    attempt.begin()
    attempt.at(3)
    attempt.survived()
    attempt.at(4)
    assert notes.read_text() == before


def test_damaged_lines_are_ignored(notes: Path) -> None:
    die(notes)
    with notes.open("ab") as file:
        file.write(b"\0\0\0\nbeg")
    assert not Attempts(notes).careful
