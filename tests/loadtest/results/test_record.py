"""A run directory is written as things happen, and never over another one."""

from __future__ import annotations

import pytest

from loadtest.results.record import RunExists, RunRecorder


def test_a_directory_with_something_in_it_is_left_alone(tmp_path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(RunExists, match="not empty"):
        RunRecorder(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_lines_are_on_disk_before_the_run_ends(tmp_path, exchange, left) -> None:
    recorder = RunRecorder(tmp_path / "run")
    recorder.add(exchange(number=7, refusals=(503,)))
    recorder.note("kill", pid=1)
    found = left(tmp_path / "run")
    assert [line["number"] for line in found.lines("requests.jsonl")] == [7]
    assert [(line["kind"], line["pid"]) for line in found.lines("events.jsonl")] == [("kill", 1)]
    recorder.close()
