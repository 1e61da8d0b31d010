"""The formulas for activations, compared with the tensors that autograd keeps."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from trainer.training.plan.memory import (
    projector_bytes,
    text_activations,
    vision_layer_bytes,
)
from trainer.training.plan.shapes import Layers, shapes_of


def small_model(layers: int, vision_layers: int) -> Any:
    from transformers import InternVLConfig, InternVLForConditionalGeneration

    config = InternVLConfig(
        vision_config={
            "hidden_size": 48,
            "num_hidden_layers": vision_layers,
            "num_attention_heads": 4,
            "intermediate_size": 128,
            "attention_bias": True,
            "image_size": [64, 64],
            "patch_size": [8, 8],
        },
        text_config={
            "model_type": "qwen2",
            "vocab_size": 128,
            "hidden_size": 64,
            "num_hidden_layers": layers,
            "num_attention_heads": 8,
            "num_key_value_heads": 2,
            "intermediate_size": 160,
            "tie_word_embeddings": False,
            "bos_token_id": None,
            "eos_token_id": 1,
            "pad_token_id": 0,
        },
        image_token_id=5,
        tie_word_embeddings=False,
    )
    model = InternVLForConditionalGeneration(config).train()
    model.set_attn_implementation("sdpa")
    return model


def kept_bytes(model: Any, forward: Any) -> int:
    """Bytes of all tensors kept for the backward pass, parameters and their bfloat16 copies left out."""
    storages = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    matrices = {tuple(parameter.shape) for parameter in model.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        shape, storage = tuple(tensor.shape), tensor.untyped_storage().data_ptr()
        copied = tensor.dtype is torch.bfloat16 and (shape in matrices or shape[::-1] in matrices)
        if storage not in storages and not copied:
            kept[storage] = tensor  # kept alive, so that no other tensor gets its address
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), torch.autocast("cpu", torch.bfloat16):
        output = forward()
    assert output.requires_grad
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def language_model_bytes(layers: int, length: int, *, checkpointing: bool) -> int:
    model = small_model(layers, 1)
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    ids = torch.randint(6, 100, (3, length))
    mask = torch.ones_like(ids)
    mask[0, :5] = 0  # one shorter sample with padding, because autograd keeps no mask without padding
    inner = model.model.language_model
    return kept_bytes(model, lambda: inner(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state)


@pytest.mark.slow
@pytest.mark.parametrize("length", [40, 96])
def test_activations_of_the_language_model_are_what_autograd_keeps(length) -> None:
    shapes = shapes_of(small_model(1, 1).config)
    # The difference of two depths leaves out tensors that are kept once: embeddings, rotations, the last norm.
    measured = language_model_bytes(5, length, checkpointing=False) - language_model_bytes(
        2, length, checkpointing=False
    )
    deep, shallow = (replace(shapes, text=Layers(number, 64, 160, 8, 2, 8)) for number in (5, 2))
    expected = text_activations(deep, 3, length, checkpointing=False) - text_activations(
        shallow, 3, length, checkpointing=False
    )
    assert measured == expected

    measured = language_model_bytes(5, length, checkpointing=True) - language_model_bytes(2, length, checkpointing=True)
    expected = text_activations(deep, 3, length, checkpointing=True) - text_activations(
        shallow, 3, length, checkpointing=True
    )
    assert measured == expected


def test_activations_of_the_vit_and_the_projector_are_what_autograd_keeps() -> None:
    shapes = shapes_of(small_model(1, 1).config)
    pixels = torch.randn(3, 3, 64, 64)
    tower = [
        kept_bytes(model, lambda m=model: m.model.vision_tower(pixel_values=pixels).last_hidden_state)
        for model in (small_model(1, 2), small_model(1, 5))
    ]
    assert tower[1] - tower[0] == 3 * 3 * shapes.vision_length * vision_layer_bytes(shapes)

    model = small_model(1, 1)
    folded = torch.randn(3, 16, shapes.folded_width, requires_grad=True)
    projector = kept_bytes(model, lambda: model.model.multi_modal_projector(folded))
    assert projector == 3 * 16 * projector_bytes(shapes)
