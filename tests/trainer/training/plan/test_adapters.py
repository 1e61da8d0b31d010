"""Memory of LoRA, compared with the tensors that autograd keeps, and with numbers calculated by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import get_peft_model

from tests.trainer.training.plan.test_activations import kept_bytes, small_model
from trainer.__main__ import main
from trainer.training.lora.model import adapter_config
from trainer.training.plan.adapters import Adapters, find_adapters
from trainer.training.plan.parameters import count_parameters
from trainer.training.plan.shapes import Layers, Shapes, shapes_of
from trainer.training.recipe.stages import LoraRecipe

pytestmark = pytest.mark.slow


def planned(lora: LoraRecipe, layers: int, vision_layers: int) -> tuple[Adapters, Shapes]:
    model = small_model(layers, vision_layers)
    return find_adapters(count_parameters(model), lora, vision=True), shapes_of(model.config)


def adapted(lora: LoraRecipe, layers: int, vision_layers: int) -> Any:
    model = small_model(layers, vision_layers).to(torch.bfloat16)
    return get_peft_model(model, adapter_config(model, lora, vision=True)).train()


@pytest.mark.parametrize("target", ["all-linear", ["q_proj", "down_proj"]])
def test_activations_of_an_adapted_language_model_are_what_autograd_keeps(target: Any) -> None:
    lora = LoraRecipe(rank=4, alpha=8, target=target)
    ids = torch.randint(6, 100, (3, 40))
    mask = torch.ones_like(ids)
    mask[0, :5] = 0

    def measured(layers: int) -> int:
        model = adapted(lora, layers, 1)
        inner = model.get_base_model().model.language_model
        return kept_bytes(model, lambda: inner(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state)

    def expected(layers: int) -> int:
        adapters, shapes = planned(lora, layers, 1)
        shapes = replace(shapes, text=Layers(layers, 64, 160, 8, 2, 8))
        return adapters.text_activations(shapes, 3, 40, checkpointing=False)

    assert measured(5) - measured(2) == expected(5) - expected(2)


def test_activations_of_an_adapted_vit_are_what_autograd_keeps() -> None:
    lora = LoraRecipe(rank=4, alpha=8)
    pixels = torch.randn(3, 3, 64, 64)

    def measured(layers: int) -> int:
        model = adapted(lora, 1, layers)
        tower = model.get_base_model().model.vision_tower
        return kept_bytes(model, lambda: tower(pixel_values=pixels).last_hidden_state)

    def expected(layers: int) -> int:
        adapters, shapes = planned(lora, 1, layers)
        return adapters.vision_activations(shapes, 3, checkpointing=False)

    positions = 3 * shapes_of(small_model(1, 1).config).vision_length
    only_on_a_gpu = 3 * positions * (4 * 48 + 8)  # autocast norms in float32 there
    assert expected(5) - expected(2) - only_on_a_gpu == measured(5) - measured(2)


def test_adapters_are_counted_and_held_as_calculated_by_hand() -> None:
    adapters, _ = planned(LoraRecipe(rank=4, alpha=8, target=["q_proj"], bits=4), 2, 1)
    size = 4 * (2 * (64 + 64) + (48 + 48))  # two layers of the language model, and one of the ViT
    assert adapters.size == sum(p.numel() for n, p in adapted(adapters.lora, 2, 1).named_parameters() if "lora_" in n)
    assert adapters.size == size
    parts = {part.name: part for part in adapters.parameters.parts}
    quantized = parts["language_model"].matrices
    held = adapters.held(gpus=1)
    frozen = 2 * (adapters.parameters.total - quantized) + quantized * (0.5 + 1 / 64 + 4 / (64 * 256))
    assert held.pop("frozen weights (4 bits)") == pytest.approx(frozen, abs=1)
    assert held == {
        "adapters": 4 * size,
        "gradients": 4 * size,
        "optimizer (AdamW)": 8 * size,
        "bfloat16 copies": 2 * size,
    }


def test_a_part_that_is_trained_in_full_is_held_twice() -> None:
    lora = LoraRecipe(rank=4, alpha=8, in_full=["head"])
    adapters, _ = planned(lora, 1, 1)
    assert adapters.in_full == 128 * 64
    assert adapters.held(gpus=2)["parts trained in full"] == 4 * 128 * 64
    assert adapters.held(gpus=2)["gradient buckets"] == 4 * adapters.trained


def test_lora_of_the_2b_model_fits_on_a_card_of_24_gb_and_full_fine_tuning_does_not(capsys) -> None:
    assert main(["plan", "internvl3-2b-lora", "--gpus", "1", "--gpu-memory", "24"]) == 0
    page = capsys.readouterr().out
    for expected in ("frozen weights (16 bits)", "frozen, adapters of 73,859,072", "102,727,680 trained"):
        assert expected in page
    assert "reference model" not in page
    assert main(["plan", "internvl3-2b", "--gpus", "1", "--gpu-memory", "24"]) == 1
    assert ", or LoRA (as the recipe internvl3-2b-lora does)" in capsys.readouterr().err


def test_lora_fits_on_that_card_with_a_colocated_engine_that_sleeps(tmp_path: Path, capsys) -> None:
    recipe = tmp_path / "colocated.yaml"
    settings = "{vllm: colocate, vllm_memory: 0.3, vllm_sleep: true}"
    recipe.write_text(f"extends: internvl3-2b-lora\nname: colocated\nhcm_grpo: {settings}\n")
    assert main(["plan", str(recipe), "--gpus", "1", "--gpu-memory", "24"]) == 0
    assert "vLLM engine                            7.20  while generating" in capsys.readouterr().out
