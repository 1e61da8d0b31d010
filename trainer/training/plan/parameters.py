"""Counts a model's parameters on its real modules, without allocating them (torch's meta device)."""

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
"""Part → prefix of its parameters. The first match counts, so `language_model` does not include the embeddings."""

VISION = ("vit", "projector")
"""Parts that are frozen in both SFT stages (table 2). Stage 2 freezes nothing."""


@dataclass(frozen=True, slots=True)
class Part:
    """Parameters of one part of the model."""

    name: str
    total: int
    matrices: int
    """Parameters of linear layers and convolutions, whose weights autocast copies to bfloat16 in the forward pass."""
    tensors: tuple[int, ...] = ()
    """Parameters of each tensor; they sum to `total`."""


@dataclass(frozen=True, slots=True)
class Layer:
    """A linear layer."""

    name: str
    inputs: int
    outputs: int


@dataclass(frozen=True, slots=True)
class Parameters:
    """Parameters of all parts, as `import` leaves them: with a head of its own."""

    parts: tuple[Part, ...]
    tied: bool
    """Whether the head of the base model is the embeddings' matrix, which `import` changes."""
    layers: tuple[Layer, ...] = ()
    """All linear layers, among which LoRA chooses."""

    @property
    def total(self) -> int:
        return sum(part.total for part in self.parts)

    def trained(self, *, vision: bool) -> int:
        """Trained parameters, with or without ViT and projector."""
        return sum(part.total for part in self.trained_parts(vision=vision))

    def trained_parts(self, *, vision: bool) -> list[Part]:
        """Trained parts, with or without ViT and projector."""
        return [part for part in self.parts if vision or part.name not in VISION]

    def copied(self, *, vision: bool) -> int:
        """Trained parameters of which autocast keeps a bfloat16 copy.

        Embeddings are looked up, and TRL's fused head works in tiles, so neither is copied whole. Copies of frozen
        matrices are not kept.
        """
        skipped = ("embeddings", "head", *(() if vision else VISION))
        return sum(part.matrices for part in self.parts if part.name not in skipped)


def build_on_meta(config: InternVLConfig) -> PreTrainedModel:
    """Build the model of a configuration on the meta device: with shapes, but without values."""
    import torch
    from transformers import InternVLForConditionalGeneration

    with torch.device("meta"):
        return InternVLForConditionalGeneration(config)


def count_parameters(model: PreTrainedModel) -> Parameters:
    """Count the parameters of each part. A head that is tied to the embeddings counts as one of its own.

    Raises:
        ValueError: a parameter belongs to no known part, because this transformers version uses other names.
    """
    matrices = dict.fromkeys(PARTS, 0)
    tensors: dict[str, list[int]] = {part: [] for part in PARTS}
    head = model.get_output_embeddings().weight
    tied = head is model.get_input_embeddings().weight
    if tied:  # `named_parameters` lists it once, with the embeddings
        matrices["head"], tensors["head"] = head.numel(), [head.numel()]
    for name, parameter in model.named_parameters():
        part = next((part for part, prefix in PARTS.items() if name.startswith(prefix)), None)
        if part is None:
            raise ValueError(f"the parameter {name} belongs to none of the parts {', '.join(PARTS)}")
        tensors[part].append(parameter.numel())
        # Only weights of linear layers (2 dimensions) and convolutions (4) are multiplied.
        if name.endswith(".weight") and parameter.ndim in (2, 4):
            matrices[part] += parameter.numel()
    layers = (
        Layer(name, module.in_features, module.out_features)
        for name, module in model.named_modules()
        if hasattr(module, "in_features")
    )
    return Parameters(
        tuple(Part(part, sum(tensors[part]), matrices[part], tuple(tensors[part])) for part in PARTS),
        tied,
        tuple(layers),
    )
