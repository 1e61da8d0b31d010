"""Optimizers and learning-rate schedule of pretraining."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import Any

import torch

from trainer.research.pretrain.muon import Muon
from trainer.training.recipe.pretrain import StageSettings


def build_optimizers(
    model: torch.nn.Module, course: StageSettings, parameters: Iterable[torch.nn.Parameter]
) -> list[torch.optim.Optimizer]:
    """Optimizers for a subset of a model's parameters, without weight decay on biases, norms and embeddings.

    The parameters of the ViT are in separate groups with the mark `vision`.
    """
    wanted = {id(parameter) for parameter in parameters}
    groups: dict[tuple[bool, bool, bool], list[torch.nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if id(parameter) in wanted:
            hidden = parameter.ndim == 2 and re.search(r"\.layers?\.\d+\.", name) is not None
            decayed = parameter.ndim >= 2 and "embed" not in name and "lm_head" not in name
            muon = hidden and course.optimizer == "muon"
            groups.setdefault((muon, "vision_tower" in name, decayed), []).append(parameter)
    described: dict[bool, list[dict[str, Any]]] = {False: [], True: []}
    for (muon, vision, decayed), group in groups.items():
        decay = course.weight_decay if decayed else 0.0
        described[muon].append({"params": group, "weight_decay": decay, "vision": vision})
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(described[False], lr=course.learning_rate, betas=(0.9, 0.98), fused=True)
    ]
    if described[True]:
        optimizers.append(Muon(described[True], lr=course.learning_rate))
    return optimizers


def learning_rate(step: int, settings: StageSettings) -> float:
    """Linear warm-up, then cosine decay to `final_rate` times the peak."""
    if step < settings.warmup_steps:
        return settings.learning_rate * (step + 1) / settings.warmup_steps
    final = settings.final_rate
    progress = (step - settings.warmup_steps) / max(1, settings.steps - settings.warmup_steps)
    return settings.learning_rate * (final + (1 - final) * 0.5 * (1 + math.cos(math.pi * progress)))
