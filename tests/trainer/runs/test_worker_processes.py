"""Work in several processes: in order, and never a wait without end."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from screening.errors import UserError
from trainer.runs import worker_processes
from trainer.runs.run_directory import RunMismatch, occupy
from trainer.runs.worker_processes import map_in_processes

pytestmark = pytest.mark.slow


def _square(number: int) -> int:
    return number * number


def _die_at_seven(number: int) -> int:
    if number == 7:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def _refuse_seven(number: int) -> int:
    if number == 7:
        raise UserError("seven")
    return number


def _begin_after_ctrl_c() -> None:
    os.kill(os.getpid(), signal.SIGINT)
    worker_processes._begin()


def _hold(directory: Path) -> None:
    occupy(directory)
    (directory / "held").touch()
    time.sleep(600)


def _hold_in_a_worker(directory: Path) -> None:
    list(map_in_processes(_hold, [directory], 1))


def test_results_come_in_the_order_of_the_items() -> None:
    assert list(map_in_processes(_square, range(30), 2)) == [number * number for number in range(30)]
    assert list(map_in_processes(_square, [], 2)) == []


@pytest.mark.parametrize(
    ("work", "message"), [(_die_at_seven, "a worker process died"), (_refuse_seven, "seven")], ids=["death", "error"]
)
def test_a_death_and_an_error_end_the_work(work: Callable[[int], int], message: str) -> None:
    before = multiprocessing.active_children()
    with pytest.raises(UserError, match=message):
        list(map_in_processes(work, range(1000), 2))
    assert set(multiprocessing.active_children()) <= set(before)


def test_ctrl_c_does_not_end_a_worker_that_is_starting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_processes, "_begin", _begin_after_ctrl_c)
    assert list(map_in_processes(_square, range(4), 2)) == [0, 1, 4, 9]


def test_workers_end_when_their_main_process_is_killed(tmp_path: Path, wait_until: Callable[..., None]) -> None:
    process = multiprocessing.get_context("spawn").Process(target=_hold_in_a_worker, args=(tmp_path,))
    process.start()
    try:
        wait_until((tmp_path / "held").exists)
    finally:
        process.kill()
        process.join()
    wait_until(lambda: _is_free(tmp_path))


def _is_free(directory: Path) -> bool:
    try:
        occupy(directory)
    except RunMismatch:
        return False
    return True
