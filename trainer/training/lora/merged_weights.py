"""The weights with which a model with adapters computes, for an engine that knows no adapters."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from peft import PeftModel
    from peft.tuners.lora import LoraLayer


@torch.no_grad()
def merged_weights(model: PeftModel) -> Iterator[tuple[str, Tensor]]:
    """Every weight under its name in the model without adapters, with its adapter added.

    One sum exists at a time. The model itself does not change: adding adapters to 16-bit weights in place and
    subtracting them again, as peft does, would change these weights by rounding, and they are also the reference of
    stage 2. Weights in 4 bits are given in 16 and keep the error of their quantization, as in the model.
    """
    from peft.tuners.lora import LoraLayer

    base = model.base_model.model
    adapted = {name: layer for name, layer in base.named_modules() if isinstance(layer, LoraLayer)}
    for name, parameter in base.named_parameters():
        if model.prefix in name or ".original_module." in name:
            continue
        layer, inside, last = name.partition(".base_layer.")
        if not inside:
            yield name.replace(".modules_to_save.default.", "."), parameter.data
        elif last == "weight":
            yield f"{layer}.weight", _sum(adapted[layer])
        else:
            yield f"{layer}.{last}", parameter.data


def _sum(layer: LoraLayer) -> Tensor:
    from peft.utils.integrations import dequantize_module_weight

    weight = dequantize_module_weight(layer.get_base_layer())
    (adapter,) = layer.active_adapters
    return (weight.float() + layer.get_delta_weight(adapter).float()).to(weight.dtype)
