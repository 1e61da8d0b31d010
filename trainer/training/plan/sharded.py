"""Computes what a training with FSDP2 holds on each GPU (`trainer.training.sharding`).

Weights, gradients and AdamW's moments are in float32 and divided among the GPUs. The computation gathers weights in
bfloat16, one unit at a time and the next one in advance. A unit is a layer, the embeddings or the head. The head and
what belongs to no unit, mainly the projector, stay gathered from the forward into the backward pass. The gradient of a
unit is whole in bfloat16 before it is summed in float32:

    bfloat16 x (head + projector + 2 units) + (bfloat16 + float32) x 1 unit, for the largest unit

There are no bfloat16 copies and no gradient buckets beside these. Before a model answers, each GPU gathers all weights.
TRL shards the reference as a single unit, which is gathered through a buffer of the same size.
"""

from __future__ import annotations

import math

from trainer.training.plan.optimizer import TITLES, state_bytes
from trainer.training.plan.parameters import Parameters
from trainer.training.plan.shapes import Shapes
from trainer.training.recipe.stages import HcmGrpoRecipe, SftRecipe

FLOAT32 = 4
BFLOAT16 = 2


def excluded_by_sharding(settings: SftRecipe | HcmGrpoRecipe) -> str | None:
    """A setting that a sharded training cannot have; None if there is none.

    bitsandbytes does not know sharded tensors. Adapters and vLLM have not been tried with them.
    """
    if settings.lora:
        return "lora"
    if settings.optimizer != "adamw":
        return f"optimizer {settings.optimizer}"
    if isinstance(settings, HcmGrpoRecipe) and settings.vllm != "none":
        return f"vllm {settings.vllm}"
    return None


def sharded_states(
    parameters: Parameters, shapes: Shapes, gpus: int, optimizer: str, *, vision: bool
) -> dict[str, int]:
    """Bytes on each GPU that do not depend on the batch, by use."""
    states = {
        "weights": FLOAT32 * parameters.total,
        "gradients": FLOAT32 * parameters.trained(vision=vision),
        TITLES[optimizer]: state_bytes(optimizer, parameters.trained_parts(vision=vision)),
    }
    divided = {f"{use}, divided": math.ceil(size / gpus) for use, size in states.items()}
    return {**divided, "gathered weights and gradients": _gathered(parameters, shapes)}


def divided_reference(parameters: Parameters, gpus: int) -> int:
    """Bytes of the reference model on each GPU."""
    return math.ceil(FLOAT32 * parameters.total / gpus)


def whole_weights(parameters: Parameters) -> int:
    """Bytes of all weights, which each GPU gathers before its model answers."""
    return BFLOAT16 * parameters.total


def _gathered(parameters: Parameters, shapes: Shapes) -> int:
    sizes = {part.name: part.total for part in parameters.parts}
    layers = sizes["language_model"] // shapes.text.number, sizes["vit"] // shapes.vision.number
    unit = max(sizes["embeddings"], sizes["head"], *layers)
    kept = sizes["head"] + sizes["projector"]
    return BFLOAT16 * (kept + 2 * unit) + (BFLOAT16 + FLOAT32) * unit
