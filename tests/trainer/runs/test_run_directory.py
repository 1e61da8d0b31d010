"""One process at a time works in a run directory, and a killed one leaves it free."""

from __future__ import annotations

import multiprocessing
import time
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest

from trainer.runs.run_directory import RunMismatch, claim, occupy


def _work(directory: Path, working: Event) -> None:
    occupy(directory)
    working.set()
    time.sleep(600)


def test_a_directory_is_free_again_when_its_process_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    context = multiprocessing.get_context("spawn")
    working = context.Event()
    process = context.Process(target=_work, args=(tmp_path, working))
    process.start()
    try:
        assert working.wait(60)
        with pytest.raises(RunMismatch, match="another process is using"):
            occupy(tmp_path)
        monkeypatch.setenv("RANK", "1")
        occupy(tmp_path)  # of one distributed training
        monkeypatch.delenv("RANK")
    finally:
        process.kill()
        process.join()
    occupy(tmp_path)
    occupy(tmp_path)  # its own


def test_the_settings_that_differ_are_named(tmp_path: Path) -> None:
    """Otherwise a person would remove the directory, and with it the frozen test set of a division."""
    claim(tmp_path, {"stage": "split", "seed": 0, "shares": {"training": "7/10", "testing": "3/10"}, "data": "d" * 99})
    with pytest.raises(RunMismatch) as caught:
        claim(tmp_path, {"stage": "split", "shares": {"training": "7/10", "testing": "1/2"}, "data": "e" * 99})
    said = str(caught.value)
    assert "shares.testing 3/10 there, 1/2 now" in said and "seed 0 there, nothing now" in said
    assert "training" not in said and "d" * 41 not in said and "remove" not in said


def test_recorded_settings_that_decide_nothing_are_not_compared(tmp_path: Path) -> None:
    claim(tmp_path, {"settings": {"rate": 1, "room": 2, "stage": {"room": 3, "rate": 4}}})
    now = {"settings": {"rate": 1, "stage": {"rate": 4}}}
    claim(tmp_path, now, undeciding={"room"})
    with pytest.raises(RunMismatch, match=r"settings\.room 2 there"):
        claim(tmp_path, now)
    with pytest.raises(RunMismatch, match=r"settings\.stage\.rate 4 there, 5 now"):
        claim(tmp_path, {"settings": {"rate": 1, "stage": {"rate": 5}}}, undeciding={"room"})


def test_only_the_first_differences_are_named(tmp_path: Path) -> None:
    claim(tmp_path, dict.fromkeys("abcde", 1))
    with pytest.raises(RunMismatch, match=r"\(a 1 there, 2 now; b .*; c .*; 2 more\)"):
        claim(tmp_path, dict.fromkeys("abcde", 2))
