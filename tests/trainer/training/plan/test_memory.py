"""Memory, compared with numbers calculated by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tests.trainer.training.plan.model_2b import PARAMETERS, SHAPES, VOCABULARY
from trainer.training.plan.memory import (
    ALLOWANCE,
    GIB,
    engine_memory,
    grpo_memory,
    head_bytes,
    kv_cache_bytes,
    sft_memory,
    text_activations,
)
from trainer.training.plan.optimizer import state_bytes
from trainer.training.plan.parameters import Part
from trainer.training.recipe.stages import HcmGrpoRecipe, SftRecipe


def test_memory_of_sft_states_equals_a_calculation_by_hand() -> None:
    sft = SftRecipe(learning_rate=1e-5, captions=False, gradient_checkpointing=True)
    held = sft_memory(sft, PARAMETERS, SHAPES, prompt=1700, answer=512, gpus=1).held
    trained = 2_088_957_440 - 304_012_288 - 8_662_016
    assert held == {
        "weights": 4 * 2_088_957_440,
        "gradients": 4 * trained,
        "optimizer (AdamW)": 8 * trained,
        "bfloat16 copies": 2 * 1_310_195_712,
        "CUDA and fragmentation": ALLOWANCE,
    }
    several = sft_memory(sft, PARAMETERS, SHAPES, prompt=1700, answer=512, gpus=2).held
    assert several["gradient buckets"] == 4 * trained


def test_memory_of_8_bit_states_equals_a_calculation_by_hand() -> None:
    parts = [
        Part("embeddings", 10_000, 10_000, (10_000,)),
        Part("head", 10_000, 10_000, (10_000,)),
        Part("language_model", 4_096 + 4_095, 0, (4_096, 4_095)),
    ]
    # 10,000 values are 40 blocks, the last one partly filled.
    quantized = 2 * 10_000 + 8 * 40 + 2 * 4_096 + 8 * 16
    assert state_bytes("adamw_8bit", parts) == quantized + 8 * (10_000 + 4_095) + 2 * 256 * 4
    assert state_bytes("adamw", parts, [4_096]) == 8 * (2 * 10_000 + 2 * 4_096 + 4_095)


def test_flash_attention_keeps_no_mask() -> None:
    with_mask, without = (
        text_activations(SHAPES, 8, 2212, checkpointing=False, attention=attention)
        for attention in ("sdpa", "flash_attention_2")
    )
    assert with_mask - without == 8 * 2212 * 28 * 2 * 2212


def test_memory_of_sft_checkpointing_equals_a_calculation_by_hand() -> None:
    tokens, length = 8 * 2212, 2212
    layer = 26 * 1536 + 8 * 1536 + 8 * 8960 + 4 * 12 + 8 + 2 * length
    last_norm = tokens * (8 * 1536 + 4)
    kept = text_activations(SHAPES, 8, length, checkpointing=True)
    assert kept == last_norm + tokens * (28 * 4 * 1536 + layer)
    assert text_activations(SHAPES, 8, length, checkpointing=False) == last_norm + tokens * 28 * layer


def test_memory_of_kv_cache_and_head_equals_a_calculation_by_hand() -> None:
    # Keys and values, 28 layers, 2 heads of 128, two bytes each.
    assert kv_cache_bytes(SHAPES, 8, 2212) == 8 * 2212 * (2 * 28 * 2 * 128 * 2)
    # 4,096 scored tokens fill a tile; gradients in float32.
    assert head_bytes(SHAPES, 4096) == 4096 * 32768 * 2 + 4 * 1536 * (4096 + VOCABULARY)
    assert head_bytes(SHAPES, 100) == 100 * 32768 * 2 + 4 * 1536 * (100 + VOCABULARY)


def test_stage_two_holds_a_reference_model_unless_beta_is_zero() -> None:
    def held(**settings: Any) -> Any:
        recipe = HcmGrpoRecipe(learning_rate=1e-6, max_completion_tokens=512, **settings)
        return grpo_memory(recipe, PARAMETERS, SHAPES, prompt=1700, gpus=1, gpu_memory=80 * GIB)

    assert held().held["reference model"] == 4 * PARAMETERS.total
    assert "reference model" not in held(kl_beta=0).held
    assert held().rollouts == {"KV cache of the rollouts": kv_cache_bytes(SHAPES, 8, 2212)}
    engine = held(vllm="colocate", vllm_memory=0.25)
    assert engine.held["vLLM engine"] == 20 * GIB
    assert not engine.rollouts
    sleeping = held(vllm="colocate", vllm_memory=0.25, vllm_sleep=True)
    assert sleeping.rollouts == {"vLLM engine": 20 * GIB}
    assert "vLLM engine" not in sleeping.held
    server = held(vllm="server", vllm_server="http://there:8000")
    assert not server.rollouts
    assert "vLLM engine" not in server.held
    assert held().held["optimizer (AdamW)"] == 8 * PARAMETERS.total  # nothing is frozen


def test_memory_of_a_divided_model_equals_a_calculation_by_hand() -> None:
    total = 2_088_957_440
    trained, unit = total - 304_012_288 - 8_662_016, 232_971_264  # the embeddings, and the head, are the largest units
    gathered = 2 * (unit + 8_662_016 + 2 * unit) + 6 * unit
    sft = SftRecipe(learning_rate=1e-5, captions=False, gradient_checkpointing=True)
    memory = sft_memory(sft, PARAMETERS, SHAPES, prompt=1700, answer=512, gpus=8, sharded=True)
    assert memory.held == {
        "weights, divided": 4 * total // 8,
        "gradients, divided": 4 * trained // 8,
        "optimizer (AdamW), divided": trained,
        "gathered weights and gradients": gathered,
        "CUDA and fragmentation": ALLOWANCE,
    }
    whole = sft_memory(sft, PARAMETERS, SHAPES, prompt=1700, answer=512, gpus=8)
    assert memory.training == whole.training, "activations are not divided"

    grpo = HcmGrpoRecipe(learning_rate=1e-6, max_completion_tokens=512)
    divided = grpo_memory(grpo, PARAMETERS, SHAPES, prompt=1700, gpus=8, gpu_memory=80 * GIB, sharded=True)
    assert divided.held["reference model"] == 4 * total // 8
    assert divided.rollouts == {
        "whole weights in bfloat16": 2 * total,
        "buffer of the gathered reference": 2 * total,
        "KV cache of the rollouts": kv_cache_bytes(SHAPES, 8, 2212),
    }


def test_the_pictures_of_a_step_equal_a_calculation_by_hand() -> None:
    grpo = {"learning_rate": 1e-6, "max_completion_tokens": 512, "batch_size": 8, "gradient_accumulation": 3}
    recipe, tiled = HcmGrpoRecipe.model_validate(grpo), replace(SHAPES, tiles=5)
    one, five = (
        grpo_memory(recipe, PARAMETERS, shapes, prompt=1700, gpus=1, gpu_memory=80 * GIB).held["pictures of a step"]
        for shapes in (SHAPES, tiled)
    )
    # 24 completions with five pictures each, of 448 x 448 pixels in three colours and four bytes.
    assert one == 24 * 5 * 448 * 448 * 3 * 4
    assert five == 5 * one


def test_rollouts_and_training_take_turns() -> None:
    recipe = HcmGrpoRecipe(learning_rate=1e-6, max_completion_tokens=512)
    memory = grpo_memory(recipe, PARAMETERS, SHAPES, prompt=1700, gpus=1, gpu_memory=80 * GIB)
    turns = sum(memory.rollouts.values()), sum(memory.training.values())
    assert memory.peak == sum(memory.held.values()) + max(turns)


def test_memory_of_a_colocated_engine_equals_a_calculation_by_hand() -> None:
    recipe = HcmGrpoRecipe(learning_rate=1e-6, max_completion_tokens=512, vllm="colocate", vllm_memory=0.1)
    engine = engine_memory(recipe, PARAMETERS, SHAPES, prompt=1700, gpu_memory=80 * GIB)
    assert engine.weights == 2 * PARAMETERS.total
    assert engine.kv_cache == 8 * GIB - 2 * PARAMETERS.total - 3 * GIB // 2
    assert engine.at_once == engine.wanted == 8
    assert engine_memory(recipe.model_copy(update={"vllm": "none"}), PARAMETERS, SHAPES, prompt=1, gpu_memory=1) is None
