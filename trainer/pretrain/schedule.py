"""Optimizer and learning rate of pretraining."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Protocol

import torch

from trainer.recipe import PretrainRecipe


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
    """AdamW for some of a model's parameters; no weight decay on biases, norms and embeddings."""
    wanted = {id(parameter) for parameter in parameters}
    decayed, rest = [], []
    for name, parameter in model.named_parameters():
        if id(parameter) not in wanted:
            continue
        inner = parameter.ndim >= 2 and "embed" not in name and "lm_head" not in name
        (decayed if inner else rest).append(parameter)
    return torch.optim.AdamW(
        [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": rest, "weight_decay": 0.0}],
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


def shares_at(step: int, settings: PretrainRecipe) -> dict[str, float]:
    """The mixture of tasks at a step: task → share, summing to 1."""
    for phase in settings.phases:
        if step < phase.steps:
            total = sum(phase.shares.values())
            return {task: share / total for task, share in phase.shares.items()}
        step -= phase.steps
    raise IndexError("the step lies behind the last phase")
