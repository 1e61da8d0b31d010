"""8-bit AdamW and flash attention: what they need, what their state takes, and how a training continues with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig

from screening.checkpoint.manifest import read_manifest
from tests.trainer.command_line import CHECKPOINT
from tests.trainer.training.validation.overfitting import Ended, end_at, sft, training_data, write_recipe
from trainer.data_directory import read_samples
from trainer.training import efficiency
from trainer.training.efficiency import check_available
from trainer.training.plan.memory import sft_memory
from trainer.training.plan.optimizer import TITLES
from trainer.training.plan.parameters import build_on_meta, count_parameters
from trainer.training.plan.shapes import shapes_of
from trainer.training.recipe.recipe import RecipeError
from trainer.training.recipe.stages import HcmGrpoRecipe, SftRecipe
from trainer.training.sft.rows import dataset, screening_rows
from trainer.training.sft.train import build_trainer

pytestmark = pytest.mark.slow

NEEDED: dict[str, Any] = {"learning_rate": 1e-3, "captions": False}
EIGHT_BITS = {"optimizer": "adamw_8bit", "epochs": 1, "batch_size": 2, "save_steps": 1}


def state_of(optimizer: Any) -> int:
    """Bytes of all tensors of an optimizer's state; one that several parameters share counts once."""
    tensors = [value for state in optimizer.state.values() for value in state.values() if torch.is_tensor(value)]
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    return sum(storages.values())


@pytest.mark.parametrize("lora", [None, {"rank": 16, "alpha": 16, "in_full": ["embeddings", "head"]}])
def test_the_plan_counts_the_bytes_of_the_real_8_bit_state(lora: Any, tmp_path: Path, small_data: Path) -> None:
    settings = SftRecipe(**NEEDED, epochs=1, batch_size=1, optimizer="adamw_8bit", lora=lora)
    manifest, samples = read_manifest(CHECKPOINT), read_samples(small_data)[:1]
    rows = dataset(screening_rows(samples, manifest.prompt, direct_share=1, seed=0), small_data, manifest.image)
    trainer = build_trainer(CHECKPOINT, rows, settings, tmp_path)
    trainer.train()
    config = AutoConfig.from_pretrained(CHECKPOINT)
    parameters = count_parameters(build_on_meta(config))
    planned = sft_memory(settings, parameters, shapes_of(config), prompt=1, answer=1, gpus=1)
    assert planned.held[TITLES["adamw_8bit"]] == state_of(trainer.optimizer)


def test_a_killed_training_with_8_bit_states_ends_with_the_weights_of_an_unbroken_one(
    tmp_path: Path, small_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, recipe = training_data(tmp_path / "data"), write_recipe(tmp_path / "r.yaml", None, **EIGHT_BITS)
    assert sft(recipe, small_checkpoint, data, tmp_path / "whole") == 0
    with monkeypatch.context() as patch, pytest.raises(Ended):
        end_at(patch, "transformers.Trainer.training_step", 3)
        sft(recipe, small_checkpoint, data, tmp_path / "killed")
    assert sft(recipe, small_checkpoint, data, tmp_path / "killed") == 0
    whole, killed = (load_file(tmp_path / run / "checkpoint/model.safetensors") for run in ("whole", "killed"))
    assert all(torch.equal(whole[name], killed[name]) for name in whole)


def test_flash_attention_without_a_gpu_is_refused_before_anything_is_written(
    tmp_path: Path, small_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = training_data(tmp_path / "data")
    recipe = write_recipe(tmp_path / "r.yaml", None, attention="flash_attention_2")
    assert sft(recipe, small_checkpoint, data, tmp_path / "out") == 2
    assert "sft_answer.attention flash_attention_2 needs a GPU. Set `attention: sdpa`" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_missing_package_is_named_with_the_setting_that_needs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(efficiency, "find_spec", lambda _: None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    check_available("sft_weak", SftRecipe(**NEEDED))
    with pytest.raises(RecipeError, match=r"sft_weak.optimizer adamw_8bit needs the package bitsandbytes"):
        check_available("sft_weak", SftRecipe(**NEEDED, optimizer="adamw_8bit"))
    with pytest.raises(RecipeError, match=r"hcm_grpo.attention flash_attention_2 needs the package flash-attn"):
        check_available(
            "hcm_grpo", HcmGrpoRecipe(learning_rate=1e-6, max_completion_tokens=8, attention="flash_attention_2")
        )
