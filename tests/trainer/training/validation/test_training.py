"""What a training with validation keeps, and what it cannot be combined with."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers.trainer import TRAINER_STATE_NAME

from trainer.runs.run_directory import RunMismatch
from trainer.training.hard_cases.cases import Cases
from trainer.training.hcm_grpo.warm_start import find_warm_start
from trainer.training.recipe.stages import HcmGrpoRecipe, ValidationRecipe
from trainer.training.saved_states import put_in_place

pytestmark = pytest.mark.slow


def test_the_best_state_that_each_of_the_two_newest_knows_is_kept(tmp_path: Path) -> None:
    log, kept = [], []
    for step, score in ((2, 50.0), (4, 30.0), (6, 50.0), (8, 60.0), (10, 40.0), (12, 20.0)):
        log.append({"step": step, "validation/score": score})
        part = tmp_path / ".partial" / f"checkpoint-{step}"
        part.mkdir(parents=True)
        (part / TRAINER_STATE_NAME).write_text(json.dumps({"log_history": log}))
        put_in_place(part, tmp_path)
        kept.append(sorted(int(path.name.partition("-")[2]) for path in tmp_path.glob("checkpoint-*")))
    # A run that falls back to the second newest state still finds the best one of that time.
    assert kept == [[2], [2, 4], [2, 4, 6], [2, 6, 8], [8, 10], [8, 10, 12]]


def test_a_warm_start_is_refused_because_the_best_weights_would_be_missing(tmp_path: Path) -> None:
    scored = HcmGrpoRecipe(
        learning_rate=0.01,
        max_completion_tokens=8,
        schedule="constant",
        warmup_ratio=0,
        validation=ValidationRecipe(every_steps=2),
    )
    with pytest.raises(RunMismatch, match=r"--after cannot be combined with hcm_grpo\.validation"):
        find_warm_start(tmp_path, origin={}, settings=scored, ids=[], cases=Cases((), ()))
