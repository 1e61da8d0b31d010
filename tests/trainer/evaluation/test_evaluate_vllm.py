"""The stage with the real engine, on rendered samples and the shipped checkpoint."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from screening.checkpoint.manifest import read_manifest
from tests.processes import descendants, runs
from tests.trainer.command_line import CHECKPOINT, ROOT, trainer
from tests.trainer.conftest import Answered
from trainer.evaluation.evaluate.result import read_evaluation

COUNT = 8


def evaluation_of(data: Path, out: Path) -> list[str]:
    return ["evaluate", "--checkpoint", str(CHECKPOINT), "--data", str(data), "--mode", "cot", "--out", str(out)]


def wait_for(condition: Callable[[], bool]) -> bool:
    """Wait until the condition holds, for at most five minutes: a busy machine starts an engine slowly."""
    deadline = time.monotonic() + 300
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


@pytest.mark.vllm
def test_every_rendered_sample_is_answered(answered_data: Answered) -> None:
    out = answered_data.evaluation
    result = read_evaluation(out)
    lines = [json.loads(line) for line in (out / "predictions.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len({line["id"] for line in lines}) == len(lines) == COUNT
    assert result.scores.overall.correct.n == COUNT
    assert result.scores.overall.correct.hits == sum(line["correct"] for line in lines)
    assert all(line["completion_tokens"] > 0 for line in lines)


@pytest.mark.vllm
def test_five_pictures_cost_the_tokens_that_the_manifest_says(answered_data: Answered) -> None:
    # Pictures have most of the tokens; the text has a few hundred at most.
    out = answered_data.evaluation
    pictures = 5 * read_manifest(CHECKPOINT).image.tokens_per_picture
    for line in (out / "predictions.jsonl").read_text(encoding="utf-8").splitlines():
        assert pictures < json.loads(line)["prompt_tokens"] < pictures + 500


@pytest.mark.vllm
def test_the_report_is_all_that_is_printed(answered_data: Answered) -> None:
    out, printed = answered_data.evaluation, answered_data.evaluate_printed
    words, _, _picture = (out / "report.md").read_text(encoding="utf-8").partition("\n![confidence]")
    assert words and printed.startswith(words)


@pytest.mark.vllm
@pytest.mark.slow
@pytest.mark.exhaustive  # test_killed_engine.py does the same to a stand-in for the engine
def test_a_terminated_run_leaves_no_engine_and_can_be_continued(
    rendered_data: Path, answered_data: Answered, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-m", "trainer", *evaluation_of(rendered_data, out), "--batch", "1"]
    log = out / "predictions.jsonl"
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        answering = wait_for(lambda: (log.exists() and log.stat().st_size > 0) or process.poll() is not None)
        engine = descendants(process.pid)
        process.terminate()
        status = process.wait()
    assert answering
    answered = log.read_bytes()
    assert engine
    assert status == 128 + signal.SIGTERM  # it was stopped before its end
    assert wait_for(lambda: not any(map(runs, engine)))
    assert 1 <= answered.count(b"\n") < COUNT
    trainer(*evaluation_of(rendered_data, out))
    assert log.read_bytes().startswith(answered)
    resumed = read_evaluation(out)
    assert resumed.scores.overall == read_evaluation(answered_data.evaluation).scores.overall
