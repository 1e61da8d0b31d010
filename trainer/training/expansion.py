"""Give a trained model more layers without changing what it computes.

Method: block expansion, C. Wu et al. 2024, "LLaMA Pro" (arXiv:2401.02415, section 3.2). A new layer is a copy of the
one before it, with zeros in the two matrices that write to the residual stream. So it begins as the identity and still
has useful weights everywhere else.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from transformers import InternVLForConditionalGeneration

_LAYER = re.compile(r"(.*(?P<tower>vision_tower|language_model)\.(?:encoder\.)?layers?\.)(?P<number>\d+)(\..*)")
_WRITES = ("attention.projection_layer", "mlp.fc2", "self_attn.o_proj", "mlp.down_proj")
"""Modules that write to the residual stream, in the ViT and in the language model."""


def expand(
    model: InternVLForConditionalGeneration, vision_layers: int, text_layers: int
) -> InternVLForConditionalGeneration:
    """A model with at least as many layers as the given one and the same output.

    The new layers are spread evenly between the old ones.
    """
    from transformers import InternVLConfig, InternVLForConditionalGeneration

    fields = model.config.to_dict()
    fields["vision_config"]["num_hidden_layers"] = vision_layers
    fields["text_config"] |= {"num_hidden_layers": text_layers, "layer_types": ["full_attention"] * text_layers}
    expanded = InternVLForConditionalGeneration(InternVLConfig(**fields))
    expanded.generation_config = model.generation_config
    origins = {
        "vision_tower": origins_of_layers(model.config.vision_config.num_hidden_layers, vision_layers),
        "language_model": origins_of_layers(model.config.text_config.num_hidden_layers, text_layers),
    }
    old = model.state_dict()
    expanded.load_state_dict({name: _weight(name, old, origins) for name in expanded.state_dict()})
    return expanded


def origins_of_layers(old: int, new: int) -> list[tuple[int, bool]]:
    """For each of the new model's layers: number of the old layer, and whether it is a copy that begins as identity."""
    added = new - old
    copied = [math.ceil(old * (i + 1) / (added + 1)) - 1 for i in range(added)]
    return [(layer, again > 0) for layer in range(old) for again in range(1 + copied.count(layer))]


def _weight(name: str, old: dict[str, torch.Tensor], origins: dict[str, list[tuple[int, bool]]]) -> torch.Tensor:
    found = _LAYER.fullmatch(name)
    if found is None:
        return old[name]
    layer, copy = origins[found["tower"]][int(found["number"])]
    weight = old[f"{found[1]}{layer}{found[4]}"]
    writes = any(f".{module}." in found[4] for module in _WRITES)
    return weight.new_zeros(weight.shape) if copy and writes else weight
