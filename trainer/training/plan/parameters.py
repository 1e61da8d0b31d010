"""Parameters of a model, counted on its real modules without memory for them (torch's meta device)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import InternVLConfig, PreTrainedModel

PARTS: Mapping[str, str] = {
    "vit": "model.vision_tower.",
    "projector": "model.multi_modal_projector.",
    "embeddings": "model.language_model.embed_tokens.",
    "language_model": "model.language_model.",
    "head": "lm_head.",
}
"""Part → prefix of its parameters; the first that fits counts, so `language_model` is without its embeddings."""

VISION = ("vit", "projector")
"""Frozen in both SFT stages (table 2). In stage 2 nothing is frozen."""


@dataclass(frozen=True, slots=True)
class Part:
    """Parameters of one part of the model."""

    name: str
    total: int
    matrices: int
    """Those in weights of linear layers and convolutions, which autocast copies to bfloat16 for the forward pass."""


@dataclass(frozen=True, slots=True)
class Parameters:
    """All parts. A tied head counts under the embeddings, so no parameter counts twice."""

    parts: tuple[Part, ...]
    tied: bool
    """The head is the embeddings' matrix."""

    @property
    def total(self) -> int:
        return sum(part.total for part in self.parts)

    def trained(self, *, vision: bool) -> int:
        """Trained parameters, with or without ViT and projector."""
        return sum(part.total for part in self.parts if vision or part.name not in VISION)

    def copied(self, *, vision: bool) -> int:
        """Trained parameters of which autocast keeps a bfloat16 copy. Embeddings are looked up and the head is applied
        in tiles (TRL's fused head), so neither is copied whole; nor are frozen matrices, whose copies are dropped."""
        skipped = ("embeddings", "head", *(() if vision else VISION))
        return sum(part.matrices for part in self.parts if part.name not in skipped)


def build_on_meta(config: InternVLConfig) -> PreTrainedModel:
    """The model that the configuration describes, with shapes and without values."""
    import torch
    from transformers import InternVLForConditionalGeneration

    with torch.device("meta"):
        return InternVLForConditionalGeneration(config)


def count_parameters(model: PreTrainedModel) -> Parameters:
    """Count each parameter once, under the part that it belongs to.

    Raises:
        ValueError: a parameter belongs to no known part: this transformers version names them in another way.
    """
    totals, matrices = dict.fromkeys(PARTS, 0), dict.fromkeys(PARTS, 0)
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    for name, parameter in model.named_parameters():  # a tied one comes once
        part = next((part for part, prefix in PARTS.items() if name.startswith(prefix)), None)
        if part is None:
            raise ValueError(f"the parameter {name} is in none of the parts {', '.join(PARTS)}")
        totals[part] += parameter.numel()
        # Position embeddings and layer scales have more than one dimension or none; only these two are multiplied.
        if name.endswith(".weight") and parameter.ndim in (2, 4):
            matrices[part] += parameter.numel()
    return Parameters(tuple(Part(part, totals[part], matrices[part]) for part in PARTS), tied)
