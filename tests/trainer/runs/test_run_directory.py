"""One process at a time works in a run directory, and a killed one leaves it free."""

from __future__ import annotations

import errno
import multiprocessing
import time
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier, Event
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
        assert working.wait(300)
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


def _claim(directory: Path, number: int, ready: Barrier, claimed: Queue[tuple[int, bool]]) -> None:
    for turn in range(40):
        ready.wait(300)
        try:
            claim(directory / str(turn), {"number": number})
        except RunMismatch:
            claimed.put((turn, False))
        else:
            claimed.put((turn, True))


def test_of_two_runs_that_claim_a_directory_at_once_one_gets_it(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    ready, claimed = context.Barrier(2), context.Queue()
    both = [context.Process(target=_claim, args=(tmp_path, number, ready, claimed)) for number in range(2)]
    for process in both:
        process.start()
    found = [claimed.get(timeout=300) for _ in range(80)]
    for process in both:
        process.join()
    assert sorted(turn for turn, mine in found if mine) == list(range(40))
    assert all([path.name for path in (tmp_path / str(turn)).iterdir()] == ["run.json"] for turn in range(40))


def test_a_file_system_without_hard_links_can_be_claimed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def link(*_: object) -> None:
        raise PermissionError(errno.EPERM, "no hard links here")

    monkeypatch.setattr("os.link", link)
    claim(tmp_path / "run", {"seed": 1})
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["run.json"]
    with pytest.raises(RunMismatch, match="seed 1 there, 2 now"):
        claim(tmp_path / "run", {"seed": 2})


def test_the_settings_that_differ_are_named(tmp_path: Path) -> None:
    """Otherwise a person would remove the directory, and with it the frozen test set of a division."""
    claim(tmp_path, {"stage": "split", "seed": 0, "shares": {"training": "7/10", "testing": "3/10"}, "data": "d" * 99})
    with pytest.raises(RunMismatch) as caught:
        claim(tmp_path, {"stage": "split", "shares": {"training": "7/10", "testing": "1/2"}, "data": "e" * 99})
    said = str(caught.value)
    assert "shares.testing 3/10 there, 1/2 now" in said and "seed 0 there, nothing now" in said
    assert "training" not in said and "d" * 41 not in said and "remove" not in said


def test_only_the_first_differences_are_named(tmp_path: Path) -> None:
    claim(tmp_path, dict.fromkeys("abcde", 1))
    with pytest.raises(RunMismatch, match=r"\(a 1 there, 2 now; b .*; c .*; 2 more\)"):
        claim(tmp_path, dict.fromkeys("abcde", 2))
