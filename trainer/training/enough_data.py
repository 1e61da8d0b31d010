"""Checks that there is enough data to train on. `plan` and every training report the same sentences.

A training that takes no whole step would end normally and leave a checkpoint with the weights of its parent. So these
checks run before a training, and `trainer.training.finetuning` checks afterwards that the weights changed.
"""

from __future__ import annotations

import math

from trainer.training.hard_cases.curriculum import epoch_sizes
from trainer.training.recipe.recipe import RecipeError
from trainer.training.recipe.stages import HcmGrpoRecipe, SftRecipe


def sft_problem(name: str, settings: SftRecipe, rows: int, gpus: int) -> str | None:
    """Why an SFT stage cannot take a whole step; None if it can.

    Args:
        name: section of the recipe.
        rows: number of questions, and of captions if the stage trains on them.
        gpus: number of processes that train together.
    """
    per_step = settings.batch_size * settings.gradient_accumulation * gpus
    if rows >= per_step:
        return None
    return (
        f"{name} has {rows} rows to train on, fewer than the {per_step} of one step. Give more data, or lower "
        f"{name}.batch_size or {name}.gradient_accumulation"
    )


def captions_problem(name: str, settings: SftRecipe, captions: int) -> str | None:
    """Why an SFT stage cannot train on captions; None if it can, or is not to.

    Args:
        name: section of the recipe.
        captions: number of pictures of the data that have a caption.
    """
    if captions or not settings.captions:
        return None
    return (
        f"{name}.captions: no picture of the data has a caption. Write captions with `annotate progressive`, or set "
        f"{name}.captions to false"
    )


def grpo_problem(settings: HcmGrpoRecipe, samples: int, hard: int, gpus: int) -> str | None:
    """Why stage 2 cannot take a whole step or has no hard cases; None if it can and has.

    Args:
        samples: number of questions.
        hard: number of questions that the stage-1 model answers wrong.
        gpus: number of processes that train together.
    """
    if problem := groups_problem(settings):
        return problem
    parts, last = settings.last_parts, settings.last_epochs
    sizes = epoch_sizes(samples, hard, epochs=settings.epochs, last_epochs=last, last_parts=parts)
    if not sizes:
        return "stage 2 has no epochs. Raise hcm_grpo.epochs, or leave out hcm_grpo"
    if empty := [number for number, size in enumerate(sizes, 1) if not size]:
        return f"epoch {empty[0]} of stage 2 would be empty. Add `all` to hcm_grpo.last_parts"
    per_step = settings.batch_size * settings.gradient_accumulation * gpus // settings.group_size
    if (questions := sum(sizes)) < per_step:
        return (
            f"stage 2 has {questions} questions in all its epochs, fewer than the {per_step} of one step. Give more "
            "data, or lower hcm_grpo.batch_size or hcm_grpo.gradient_accumulation"
        )
    if last and not hard and (mined := next((part for part in ("hard", "random") if part in parts), None)):
        return (
            f"the stage-1 model answers every question right, so hcm_grpo.last_parts cannot have `{mined}`. Give "
            f"harder questions, or remove `{mined}` from hcm_grpo.last_parts"
        )
    return None


def groups_problem(settings: HcmGrpoRecipe) -> str | None:
    """Why the completions of a step cannot be divided into groups; None if they can.

    TRL needs whole groups over all GPUs. The trainer needs them on each GPU, so that each group stays on one.
    """
    completions = settings.batch_size * settings.gradient_accumulation
    if not (over := completions % settings.group_size):
        return None
    whole = math.ceil(settings.batch_size / settings.group_size) * settings.group_size
    return (
        f"the {completions} completions of a step on a GPU (hcm_grpo.batch_size {settings.batch_size} x "
        f"gradient_accumulation {settings.gradient_accumulation}) are not divisible by group_size "
        f"{settings.group_size}, {over} are left over. Set hcm_grpo.batch_size to {whole}"
    )


def refuse(problem: str | None) -> None:
    """Raise a problem, so that a training does not start.

    Raises:
        RecipeError: `problem` is not None.
    """
    if problem:
        raise RecipeError(problem)
