"""Two processes that share one model (FSDP2) learn what they learn with a model each."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from screening.checkpoint.directory import verify
from screening.checkpoint.manifest import read_manifest
from screening.runtime.digests import file_sha256
from tests.trainer import forked
from tests.trainer.training.sharded import run_all, settings
from tests.trainer.training.test_distributed import change, recipe
from tests.trainer.training.validation.overfitting import contradicting_data, scores, training_data, write_recipe
from trainer.__main__ import main
from trainer.data_directory import data_digest, read_samples
from trainer.training.distributed import LaunchError
from trainer.training.hard_cases.cases import Cases
from trainer.training.hard_cases.record import write_hard_cases
from trainer.training.recipe.recipe import RecipeError
from trainer.training.recipe.stages import HcmGrpoRecipe, SftRecipe
from trainer.training.sharding import check_sharding

pytestmark = pytest.mark.fork_server


def in_two_processes(commands: Sequence[Sequence[object]], printed: Path) -> None:
    words = [list(map(str, command)) for command in commands]
    files = [printed.with_name(f"{printed.name}-{rank}") for rank in range(2)]
    started = [
        forked.start(run_all, words, file, environment=settings() | {"TOKENIZERS_PARALLELISM": "false"} | rank)
        for file, rank in zip(files, forked.ranks(2), strict=True)
    ]
    ended = [forked.end(process) for process in started]
    assert ended == [0, 0], "".join(file.read_text(encoding="utf-8")[-3000:] for file in files)


@pytest.fixture
def hard_cases(tmp_path: Path, small_data: Path, small_checkpoint: Path) -> Path:
    samples = read_samples(small_data)
    names = tuple(sample.id for sample in samples)
    digests = {"checkpoint": read_manifest(small_checkpoint).digest, "data": data_digest(small_data, samples)}
    write_hard_cases(tmp_path, Cases(names, names[::2]), **digests)
    return tmp_path


def stage_2(path: Path) -> Path:
    rewarded = yaml.safe_load(recipe(path, batch=1).read_text())
    rewarded["hcm_grpo"]["reward"] = "tests.trainer.training.sharded:noise"
    path.write_text(yaml.safe_dump(rewarded))
    return path


@pytest.mark.slow
def test_a_sharded_model_learns_continues_and_answers_as_a_whole_one(
    tmp_path: Path, small_data: Path, small_checkpoint: Path, hard_cases: Path
) -> None:
    untracked = ["--checkpoint", small_checkpoint, "--tracking-uri", "none"]
    sft = ["sft", "--stage", "answer-driven", *untracked, "--data", training_data(tmp_path / "training")]
    sft += ["--validation", contradicting_data(tmp_path / "validation")]
    scored, length = {"every_steps": 2, "min_gain": 100}, {"epochs": 4, "save_steps": 2}
    half = [
        *sft,
        "--recipe",
        write_recipe(tmp_path / "half.yaml", scored, batch_size=1, gradient_accumulation=3, **length),
    ]
    whole = [*sft, "--recipe", write_recipe(tmp_path / "whole.yaml", scored, batch_size=6, **length)]
    grpo = ["hcm-grpo", *untracked, "--recipe", stage_2(tmp_path / "r.yaml"), "--data", small_data]
    grpo += ["--hard-cases", hard_cases]
    in_two_processes(
        [
            ["sharded", *half, "--out", tmp_path / "sharded"],
            ["cut", tmp_path / "sharded", tmp_path / "killed"],
            ["sharded", *half, "--out", tmp_path / "killed"],
            ["sharded", *grpo, "--out", tmp_path / "sharded-2"],
            ["whole", *grpo, "--out", tmp_path / "whole-2"],
        ],
        tmp_path / "printed",
    )
    assert main([*map(str, whole), "--out", str(tmp_path / "one")]) == 0

    assert scores(tmp_path / "sharded") == scores(tmp_path / "one")
    assert_same(tmp_path / "sharded", tmp_path / "one", small_checkpoint)
    assert_same(tmp_path / "sharded-2", tmp_path / "whole-2", small_checkpoint)
    resumed, unbroken = (tmp_path / run / "checkpoint/model.safetensors" for run in ("killed", "sharded"))
    assert file_sha256(resumed) == file_sha256(unbroken)
    assert json.loads((tmp_path / "sharded/run.json").read_text())["sharded"] is True


def assert_same(one: Path, other: Path, start: Path) -> None:
    verify(one / "checkpoint")
    first, second = (change(run / "checkpoint", start) for run in (one, other))
    assert first.norm() > 0
    assert torch.cosine_similarity(first, second, dim=0) > 0.99


LORA = {"rank": 4, "alpha": 8}


@pytest.mark.parametrize(
    ("changed", "environment", "error", "said"),
    [
        ({}, {"FSDP_VERSION": "1", "FSDP_SYNC_MODULE_STATES": "false"}, LaunchError, "FSDP must be version 2"),
        ({}, {"FSDP_STATE_DICT_TYPE": "SHARDED_STATE_DICT"}, LaunchError, "FULL_STATE_DICT"),
        ({"lora": LORA}, {}, RecipeError, "hcm_grpo.lora cannot be combined with FSDP"),
        ({"optimizer": "adamw_8bit"}, {}, RecipeError, "hcm_grpo.optimizer adamw_8bit cannot"),
        ({"vllm": "colocate"}, {}, RecipeError, "hcm_grpo.vllm colocate cannot"),
    ],
)
def test_what_a_sharded_training_cannot_do_is_refused(
    changed: dict[str, Any],
    environment: dict[str, str],
    error: type[Exception],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stage = HcmGrpoRecipe(learning_rate=1e-6, max_completion_tokens=8, **changed)
    check_sharding("hcm_grpo", stage)  # without FSDP everything is allowed
    for name, value in settings().items():
        monkeypatch.setenv(name, value)
    check_sharding("sft_weak", SftRecipe(learning_rate=1e-6, captions=False))
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(error, match=said):
        check_sharding("hcm_grpo", stage)
