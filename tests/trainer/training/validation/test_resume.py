"""A training with validation that is interrupted and run again ends with the best step and the decision to stop of an
unbroken one. `tests/trainer/training/test_resume.py` has the same for whole processes that are killed."""

from __future__ import annotations

import shutil
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from screening.checkpoint.manifest import Decoding, read_manifest, store_manifest
from screening.runtime.digests import file_sha256
from tests.trainer.training.validation.overfitting import (
    Ended,
    contradicting_data,
    end_at,
    scores,
    sft,
    training_data,
    write_recipe,
)
from trainer.__main__ import main
from trainer.data_directory import data_digest, read_samples
from trainer.reward import completion_text
from trainer.training.hard_cases.cases import Cases
from trainer.training.hard_cases.record import write_hard_cases

pytestmark = pytest.mark.slow

STEP, STATE, EXPORT = (
    "transformers.Trainer.training_step",
    "transformers.Trainer._save_optimizer_and_scheduler",
    "trainer.training.export.write_manifest",
)
EVERY_TWO = {"every_steps": 2, "patience": 2}
Moments = tuple[tuple[str, int], ...]
"""Functions, and the number of the call in a run at which the run is interrupted."""


def check_that_interruptions_change_nothing(
    run: Callable[[Path], int], folder: Path, moments: Moments, patch: pytest.MonkeyPatch
) -> list[tuple[int, float]]:
    """Run once as a whole, and once with an interruption at each moment in turn. Returns the scores."""
    assert run(folder / "whole") == 0
    for function, call in moments:
        with patch.context() as one, pytest.raises(Ended):
            end_at(one, function, call)
            run(folder / "broken")
        assert not (folder / "broken" / "checkpoint").exists()
    assert run(folder / "broken") == 0
    assert scores(folder / "broken") == scores(folder / "whole")
    whole, broken = (folder / name / "checkpoint" for name in ("whole", "broken"))
    assert file_sha256(broken / "model.safetensors") == file_sha256(whole / "model.safetensors")
    assert read_manifest(broken).data == read_manifest(whole).data
    return scores(folder / "whole")


ADAPTERS = {"rank": 32, "alpha": 32, "dropout": 0.1, "in_full": ["head", "embeddings"]}


@pytest.mark.parametrize(
    ("changes", "moments"),
    [
        # While the best state is written, when the training had decided to stop, and between the two.
        ({}, ((STATE, 3), (EXPORT, 1))),
        ({"lora": ADAPTERS, "learning_rate": 0.02}, ((STEP, 8),)),
    ],
    ids=["full", "lora"],
)
def test_an_interrupted_sft_publishes_the_same_best_step_and_stops_at_the_same_step(
    changes: dict[str, Any],
    moments: Moments,
    small_checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.set_num_threads(1)
    data, validation = training_data(tmp_path / "training"), contradicting_data(tmp_path / "validation")
    recipe = write_recipe(tmp_path / "r.yaml", EVERY_TWO, save_steps=3, **changes)
    found = check_that_interruptions_change_nothing(
        lambda out: sft(recipe, small_checkpoint, data, out, "--validation", validation),
        tmp_path,
        moments,
        monkeypatch,
    )
    assert max(found, key=lambda one: one[1])[0] < found[-1][0] < 40, "the best step is not the last one"


def test_an_interrupted_stage_2_publishes_the_earliest_of_equal_scores_and_stops_at_the_same_step(
    small_data: Path, small_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Random weights give no readable answer, so all scores are 0. Short ones take less time."""

    def noise(completions: Any, **_: Any) -> list[float]:
        return [zlib.crc32(completion_text(one).encode()) % 7 / 7 for one in completions]

    torch.set_num_threads(1)
    monkeypatch.setattr("trainer.training.hcm_grpo.train.reward_functions", lambda *_: [noise])
    start = shutil.copytree(small_checkpoint, tmp_path / "start")
    store_manifest(read_manifest(start).model_copy(update={"decoding": Decoding(max_tokens_cot=8)}), start)
    samples = read_samples(small_data)
    names = tuple(sample.id for sample in samples)
    digests = {"checkpoint": read_manifest(start).digest, "data": data_digest(small_data, samples)}
    write_hard_cases(tmp_path, Cases(names, names[::2]), **digests)
    recipe = write_recipe(tmp_path / "r.yaml", None)
    grpo = {"epochs": 2, "last_epochs": 1, "group_size": 2, "batch_size": 4, "learning_rate": 0.01, "save_steps": 3}
    grpo |= {"max_completion_tokens": 6, "gradient_checkpointing": False, "validation": EVERY_TWO}
    recipe.write_text(yaml.safe_dump({**yaml.safe_load(recipe.read_text()), "max_tokens_cot": 8, "hcm_grpo": grpo}))
    given = ["--recipe", recipe, "--checkpoint", start, "--data", small_data, "--hard-cases", tmp_path]
    given += ["--validation", contradicting_data(tmp_path / "validation"), "--tracking-uri", "none"]
    found = check_that_interruptions_change_nothing(
        lambda out: main(["hcm-grpo", *map(str, given), "--out", str(out)]),
        tmp_path,
        ((STEP, 4),),
        monkeypatch,
    )
    assert found == [(2, 0), (4, 0), (6, 0)], "9 steps without the early end"
    assert read_manifest(tmp_path / "whole" / "checkpoint").data["hcm-grpo"]["validation"]["step"] == 2
