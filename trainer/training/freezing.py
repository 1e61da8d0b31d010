"""Freezes the parts of a model that stage 1 does not train."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def freeze_vision(model: PreTrainedModel) -> None:
    """Freeze ViT and aligner, as stage 1 does; stage 2 trains everything (paper, section 4).

    For gradient checkpointing, transformers marks the inputs of all parts as trained, also of frozen ones. Without
    `no_grad`, autograd would keep the activations of the ViT and compute gradients that nothing uses.
    """
    for part in (model.model.vision_tower, model.model.multi_modal_projector):
        part.requires_grad_(False)
    tower = model.model.vision_tower
    tower.forward = torch.no_grad()(tower.forward)
