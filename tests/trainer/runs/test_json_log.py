"""Logs that a kill cannot spoil."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from pydantic import BaseModel

from trainer.runs.json_log import LogError, open_log, read_log


class Fact(BaseModel):
    number: int
    text: str = ""


FACTS = [Fact(number=n, text="two\nlines, – and one more") for n in range(5)]


def write(path: Path, facts: list[Fact]) -> list[Fact]:
    """Append, and return the earlier records."""
    with open_log(path, Fact) as log:
        log.append(facts)
        return log.written


def test_appended_records_are_read_back_in_order(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    assert write(path, FACTS[:2]) == []
    assert write(path, FACTS[2:]) == FACTS[:2]
    assert read_log(path, Fact) == FACTS
    assert path.read_bytes().count(b"\n") == 5


def test_a_log_truncated_anywhere_keeps_its_complete_lines_and_continues_after_them(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    write(path, FACTS)
    whole = path.read_bytes()
    for length in range(len(whole) + 1):
        path.write_bytes(whole[:length])
        kept = FACTS[: whole[:length].count(b"\n")]
        assert read_log(path, Fact) == kept
        assert path.read_bytes() == whole[:length], "reading changes nothing"
        assert write(path, FACTS[len(kept) :]) == kept
        assert path.read_bytes() == whole


def test_a_line_is_on_its_way_to_the_disk_before_append_returns(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    with open_log(path, Fact, sync_every=3600) as log:
        log.append(FACTS[:1])
        assert read_log(path, Fact) == FACTS[:1]


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    write(path, FACTS[:2])
    path.write_bytes(path.read_bytes() + b'{"number": "many"}\n')
    with (
        pytest.raises(LogError, match=r"log\.jsonl, line 3 is damaged or not a fact of this version"),
        open_log(path, Fact),
    ):
        pass
    with pytest.raises(LogError, match="line 3"):
        read_log(path, Fact)


def test_a_log_has_one_writer(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    with open_log(path, Fact) as log:
        log.append(FACTS[:1])
        with pytest.raises(LogError, match="being written by another process"), open_log(path, Fact):
            pass
        log.append(FACTS[1:2])
    assert write(path, []) == FACTS[:2]


def test_a_closed_log_is_free_although_a_forked_process_still_holds_it_open(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    with open_log(path, Fact) as log:
        held = os.dup(log._handle)  # shares the lock, as the copy in a forked process does
        log.append(FACTS[:1])
    try:
        assert write(path, FACTS[1:2]) == FACTS[:1]
    finally:
        os.close(held)
