"""Optimizer, learning rate and phases of pretraining."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Protocol

import numpy as np
import torch

from trainer.recipe import Phase, PretrainRecipe


class Course(Protocol):
    """Settings of one course of training."""

    @property
    def steps(self) -> int: ...
    @property
    def learning_rate(self) -> float: ...
    @property
    def warmup_steps(self) -> int: ...
    @property
    def weight_decay(self) -> float: ...


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
    """Linear warm-up, then a cosine down to 2 % of the peak."""
    if step < settings.warmup_steps:
        return settings.learning_rate * (step + 1) / settings.warmup_steps
    progress = (step - settings.warmup_steps) / max(1, settings.steps - settings.warmup_steps)
    return settings.learning_rate * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress)))


def phase_at(step: int, settings: PretrainRecipe) -> Phase:
    """The phase that a step belongs to.

    Raises:
        IndexError: the step lies behind the last phase.
    """
    for phase in settings.phases:
        if step < phase.steps:
            return phase
        step -= phase.steps
    raise IndexError("the step lies behind the last phase")


def draw_task(phase: Phase, rng: np.random.Generator) -> str:
    """One of the phase's tasks, in proportion to their shares."""
    total = sum(phase.shares.values())
    return str(rng.choice(list(phase.shares), p=[share / total for share in phase.shares.values()]))
