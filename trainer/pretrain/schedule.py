"""Optimizer and learning rate of pretraining."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch

from trainer.recipe import Course


def build_optimizer(
    model: torch.nn.Module, settings: Course, parameters: Iterable[torch.nn.Parameter]
) -> torch.optim.AdamW:
    """AdamW for some of a model's parameters; no weight decay on biases, norms and embeddings.

    The ViT's parameters are in groups of their own, marked `vision`.
    """
    wanted = {id(parameter) for parameter in parameters}
    groups: dict[tuple[bool, bool], list[torch.nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if id(parameter) in wanted:
            decayed = parameter.ndim >= 2 and "embed" not in name and "lm_head" not in name
            groups.setdefault(("vision_tower" in name, decayed), []).append(parameter)
    return torch.optim.AdamW(
        [
            {"params": group, "weight_decay": settings.weight_decay if decayed else 0.0, "vision": vision}
            for (vision, decayed), group in groups.items()
        ],
        lr=settings.learning_rate,
        betas=(0.9, 0.98),
        fused=True,
    )


def learning_rate(step: int, settings: Course) -> float:
    """Linear warm-up, then a cosine down to `final_rate` of the peak."""
    if step < settings.warmup_steps:
        return settings.learning_rate * (step + 1) / settings.warmup_steps
    final = settings.final_rate
    progress = (step - settings.warmup_steps) / max(1, settings.steps - settings.warmup_steps)
    return settings.learning_rate * (final + (1 - final) * 0.5 * (1 + math.cos(math.pi * progress)))
