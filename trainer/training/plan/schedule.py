"""Computes the exact numbers of steps, questions and rollouts of the stages from numbers of samples."""

from __future__ import annotations

import math
from dataclasses import dataclass

from trainer.training.hard_cases.curriculum import epoch_sizes
from trainer.training.recipe.stages import HcmGrpoRecipe, SftRecipe


@dataclass(frozen=True, slots=True)
class SftSchedule:
    """Steps of one SFT stage. The last step of an epoch may have fewer rows."""

    rows: int
    epochs: int
    rows_per_step: int
    steps_per_epoch: int
    steps: int


@dataclass(frozen=True, slots=True)
class GrpoEpoch:
    """One epoch of stage 2."""

    number: int
    groups: int
    """Questions, each answered by a group of rollouts."""
    rollouts: int
    """Completions generated."""
    steps: int
    """Optimizer steps that end in this epoch; a step may start in the epoch before."""


@dataclass(frozen=True, slots=True)
class GrpoSchedule:
    """Steps of stage 2, whose epochs form one flat curriculum (see `trainer.training.hard_cases`)."""

    samples: int
    hard_cases: int
    completions_per_step: int
    groups_per_step: int
    epochs: tuple[GrpoEpoch, ...]
    groups: int
    rollouts: int
    steps: int
    dropped: int
    """Questions at the end of the curriculum that do not fill a step, which TRL drops."""


def sft_schedule(settings: SftRecipe, samples: int, captions: int, gpus: int) -> SftSchedule:
    """Steps of an SFT stage.

    Args:
        captions: number of pictures with a caption. If the stage trains on captions, each is a row, besides one row per
            sample.
    """
    if settings.captions_per_sample is not None:
        captions = min(captions, settings.captions_per_sample * samples)
    rows = samples + (captions if settings.captions else 0)
    per_step = settings.batch_size * settings.gradient_accumulation * gpus
    per_epoch = math.ceil(rows / per_step)
    return SftSchedule(rows, settings.epochs, per_step, per_epoch, per_epoch * settings.epochs)


def grpo_schedule(settings: HcmGrpoRecipe, samples: int, hard: int, gpus: int) -> GrpoSchedule:
    """Steps of stage 2.

    A step takes batch_size x gradient_accumulation x GPUs completions, group_size of them per question; all are
    generated before the step. If they are not divisible into groups, the rest is ignored here;
    `trainer.training.enough_data` reports it.
    """
    completions = settings.batch_size * settings.gradient_accumulation * gpus
    per_step = completions // settings.group_size
    epochs: list[GrpoEpoch] = []
    seen = steps = 0
    sizes = epoch_sizes(
        samples, hard, epochs=settings.epochs, last_epochs=settings.last_epochs, last_parts=settings.last_parts
    )
    for number, size in enumerate(sizes, 1):
        seen += size
        ended = seen // per_step - steps if per_step else 0
        steps += ended
        epochs.append(GrpoEpoch(number, size, size * settings.group_size, ended))
    used = steps * per_step
    return GrpoSchedule(
        samples=samples,
        hard_cases=hard,
        completions_per_step=completions,
        groups_per_step=per_step,
        epochs=tuple(epochs),
        groups=used,
        rollouts=used * settings.group_size,
        steps=steps,
        dropped=seen - used,
    )
