"""Is there enough to train on? Said before a training starts, by `plan` and by every training in the same sentence.

A training that takes no step, or only part of one, ends like any other and leaves a checkpoint; only its weights are
those of its parent. `trainer.training.finetuning` therefore also checks afterwards that the weights changed.
"""

from __future__ import annotations

import math

from trainer.training.hard_cases import epoch_sizes
from trainer.training.recipe import HcmGrpoRecipe, RecipeError, SftRecipe


def sft_problem(name: str, settings: SftRecipe, rows: int, gpus: int) -> str | None:
    """What keeps an SFT stage from taking whole steps; None where nothing does.

    Args:
        name: section of the recipe.
        rows: questions, and captions where the stage trains on them.
        gpus: processes that train together.
    """
    per_step = settings.batch_size * settings.gradient_accumulation * gpus
    if rows >= per_step:
        return None
    return (
        f"{name} has {rows} rows to train on, fewer than the {per_step} of one step; give more data, or lower "
        f"{name}.batch_size or {name}.gradient_accumulation"
    )


def grpo_problem(settings: HcmGrpoRecipe, samples: int, hard: int, gpus: int) -> str | None:
    """What keeps stage 2 from taking whole steps, or from mining hard cases; None where nothing does.

    Args:
        samples, hard: questions, and how many of them the stage-1 model answers wrong.
        gpus: processes that train together.
    """
    if problem := groups_problem(settings):
        return problem
    parts, last = settings.last_parts, settings.last_epochs
    sizes = epoch_sizes(samples, hard, epochs=settings.epochs, last_epochs=last, last_parts=parts)
    if not sizes:
        return "stage 2 has no epochs; raise hcm_grpo.epochs, or leave out hcm_grpo"
    if empty := [number for number, size in enumerate(sizes, 1) if not size]:
        return f"epoch {empty[0]} of stage 2 would be empty; add `all` to hcm_grpo.last_parts"
    per_step = settings.batch_size * settings.gradient_accumulation * gpus // settings.group_size
    if (questions := sum(sizes)) < per_step:
        return (
            f"all of stage 2 has {questions} questions, fewer than the {per_step} of one step; give more data, or "
            "lower hcm_grpo.batch_size or hcm_grpo.gradient_accumulation"
        )
    if last and not hard and (mined := next((part for part in ("hard", "random") if part in parts), None)):
        return (
            f"there are no hard cases, and hcm_grpo.last_parts asks for `{mined}`; give questions that the stage-1 "
            f"model answers wrong, or take `{mined}` out of hcm_grpo.last_parts"
        )
    return None


def groups_problem(settings: HcmGrpoRecipe) -> str | None:
    """Why the completions of a step cannot be divided into groups; None where they can.

    TRL asks for whole groups over all GPUs; the trainer asks for them on each, so that no group is spread.
    """
    completions = settings.batch_size * settings.gradient_accumulation
    if not (over := completions % settings.group_size):
        return None
    whole = math.ceil(settings.batch_size / settings.group_size) * settings.group_size
    return (
        f"the {completions} completions of a step on a GPU (hcm_grpo.batch_size {settings.batch_size} x "
        f"gradient_accumulation {settings.gradient_accumulation}) are not divisible by group_size "
        f"{settings.group_size}, {over} are left over; set hcm_grpo.batch_size to {whole}"
    )


def refuse(problem: str | None) -> None:
    """Stop a training before it starts.

    Raises:
        RecipeError: there is a problem.
    """
    if problem:
        raise RecipeError(problem)
