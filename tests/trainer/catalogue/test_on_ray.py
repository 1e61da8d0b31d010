"""`screen-dataset` on a Ray cluster of this machine: workers and the command itself are killed."""

from __future__ import annotations

import signal

import psutil
import pytest

from tests.processes import descendants, runs
from tests.trainer.catalogue.scripted import DIES_AT, START_ERROR, TURNS, give_turns, question, write_questions

pytest.importorskip("ray")
pytestmark = pytest.mark.slow

ACTOR = "MapWorker"
"""Part of the title of a process with a worker."""


def test_killed_workers_and_a_killed_command_leave_one_answer_per_record(
    catalogue, tmp_path, wait_until, wait_for_parts
):
    data = write_questions(tmp_path / "data.parquet", [question(number) for number in range(80)])
    give_turns(turns := tmp_path / "turns", 4)
    process = catalogue.start(data, "--workers", "2", **{TURNS: str(turns)})
    wait_for_parts(catalogue, 4)
    (victim, *_) = descendants(process.pid, ACTOR)
    psutil.Process(victim).kill()
    give_turns(turns, 10)  # a block that is repeated takes a second turn
    wait_for_parts(catalogue, 8)
    assert process.poll() is None
    started = descendants(process.pid)
    process.kill()
    process.communicate(timeout=300)
    wait_until(lambda: not any(map(runs, started)))
    assert len(catalogue.parts()) < 20
    process = catalogue.start(data, "--workers", "2")
    printed, log = process.communicate(timeout=400)
    assert process.returncode == 0, log
    assert "80 of 80 records answered" in printed
    assert catalogue.answered == {f"p{number}": 1 for number in range(80)}


@pytest.mark.exhaustive
def test_a_record_that_kills_every_worker_is_rejected_and_the_run_goes_on(catalogue, tmp_path):
    data = write_questions(tmp_path / "data.parquet", [question(number) for number in range(10)])
    process = catalogue.start(data, "--workers", "1", **{DIES_AT: "5"})
    _, log = process.communicate(timeout=900)
    assert process.returncode == 1, log
    assert catalogue.answered == {f"p{number}": 1 for number in range(10) if number != 5}
    assert catalogue.reasons == {"p5": "worker-died"}


@pytest.mark.exhaustive
def test_a_stopped_command_ends_its_cluster(catalogue, tmp_path, wait_until, wait_for_parts):
    data = write_questions(tmp_path / "data.parquet", [question(number) for number in range(40)])
    give_turns(turns := tmp_path / "turns", 1)
    process = catalogue.start(data, "--workers", "1", **{TURNS: str(turns)})
    wait_for_parts(catalogue, 1)
    started = descendants(process.pid)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=300)
    wait_until(lambda: not any(map(runs, started)))
    assert process.returncode == 128 + signal.SIGTERM


@pytest.mark.exhaustive
def test_the_error_of_a_worker_is_one_line(catalogue, tmp_path):
    data = write_questions(tmp_path / "data.parquet", [question(0)])
    process = catalogue.start(data, "--workers", "1", **{START_ERROR: "the GPU is on fire"})
    _, log = process.communicate(timeout=400)
    assert process.returncode == 2
    assert log.splitlines()[-1] == "error: a worker cannot go on: the GPU is on fire"
