"""One process at a time works in a run directory, and a killed one leaves it free."""

from __future__ import annotations

import multiprocessing
import time
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest

from trainer.runs.run_directory import RunMismatch, occupy


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
