"""Hard cases with the real engine, on rendered samples and the shipped checkpoint."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from screening.checkpoint.manifest import read_manifest
from tests.trainer.command_line import CHECKPOINT, trainer
from trainer.data_directory import data_digest, read_samples
from trainer.evaluation.evaluate.predictions import read_predictions
from trainer.evaluation.evaluate.result import read_evaluation

COUNT = 8


@pytest.mark.vllm
@pytest.mark.exhaustive  # `evaluate` answers with the same engine, and test_hard_cases_find.py finds hard cases
def test_the_shipped_checkpoint_finds_its_hard_cases(tmp_path: Path) -> None:
    data, out = tmp_path / "data", tmp_path / "out"
    trainer("render", "--count", str(COUNT), "--seed", "20260102", "--out", data)
    printed = trainer("hard-cases", "--checkpoint", CHECKPOINT, "--data", data, "--out", out, "--batch", "3")
    samples = read_samples(data)
    answered = read_predictions(out)
    wrong = [sample.id for sample in samples if not answered[sample.id].correct]
    record = json.loads((out / "hard-cases.json").read_text(encoding="utf-8"))
    assert record["ids"] == wrong
    assert (record["samples"], record["hard"], record["easy"]) == (COUNT, len(wrong), COUNT - len(wrong))
    assert (record["checkpoint"], record["data"]) == (read_manifest(CHECKPOINT).digest, data_digest(data, samples))
    assert read_evaluation(out).scores.overall.correct.hits == record["easy"]
    assert printed.startswith((out / "hard-cases.md").read_text(encoding="utf-8"))
    assert f"{len(wrong)} of {COUNT}" in printed.splitlines()[0]
