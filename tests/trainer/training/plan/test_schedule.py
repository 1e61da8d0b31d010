"""Numbers of steps and rollouts, compared with numbers calculated by hand and with TRL."""

from __future__ import annotations

import pytest

from trainer.training.plan.schedule import grpo_schedule, sft_schedule
from trainer.training.recipe.stages import HcmGrpoRecipe, SftRecipe


def test_steps_of_sft_equal_a_calculation_by_hand() -> None:
    sft = SftRecipe(learning_rate=1e-5, captions=True)
    schedule = sft_schedule(sft, samples=1044, captions=5220, gpus=1)
    assert (schedule.rows, schedule.rows_per_step) == (6264, 8)
    assert (schedule.steps_per_epoch, schedule.steps) == (783, 5 * 783)
    fewer = sft_schedule(sft.model_copy(update={"captions_per_sample": 2}), samples=1044, captions=5220, gpus=1)
    assert fewer.rows == 1044 + 2 * 1044
    plain = sft_schedule(sft.model_copy(update={"captions": False}), samples=1044, captions=5220, gpus=2)
    assert (plain.rows, plain.rows_per_step, plain.steps_per_epoch) == (1044, 16, 66)  # 65.25, the last one smaller


def test_steps_of_the_paper_equal_a_calculation_by_hand() -> None:
    schedule = grpo_schedule(HcmGrpoRecipe(learning_rate=1e-6, max_completion_tokens=512), 1044, 434, gpus=1)
    assert schedule.groups_per_step == 2
    assert [(e.groups, e.rollouts, e.steps) for e in schedule.epochs] == [
        (1044, 4176, 522),
        (1044, 4176, 522),
        (1044, 4176, 522),
        (1478, 5912, 739),
        (1478, 5912, 739),
    ]
    assert (schedule.groups, schedule.rollouts, schedule.steps, schedule.dropped) == (6088, 24352, 3044, 0)


@pytest.mark.parametrize(
    ("batch", "group", "accumulation", "gpus"), [(8, 4, 1, 8), (6, 4, 2, 1), (16, 8, 3, 1), (4, 4, 1, 1), (8, 2, 1, 3)]
)
def test_steps_are_those_of_trl(batch, group, accumulation, gpus) -> None:
    from trl.trainer.utils import RepeatSampler

    recipe = HcmGrpoRecipe(
        learning_rate=1e-6,
        max_completion_tokens=512,
        batch_size=batch,
        group_size=group,
        gradient_accumulation=accumulation,
    )
    schedule = grpo_schedule(recipe, 103, 41, gpus)
    curriculum = 3 * 103 + 2 * 144
    completions = batch * accumulation * gpus
    sampler = RepeatSampler(
        range(curriculum), mini_repeat_count=group, batch_size=completions // group, repeat_count=1, shuffle=False
    )
    seen = list(sampler)
    assert schedule.steps == len(seen) // completions
    assert schedule.rollouts == len(seen)
    assert schedule.dropped == curriculum - len(set(seen))
    assert sum(epoch.steps for epoch in schedule.epochs) == schedule.steps


def test_variants_change_the_last_epochs_only() -> None:
    recipe = HcmGrpoRecipe(learning_rate=1e-6, max_completion_tokens=512, last_parts=["easy"])
    assert [epoch.groups for epoch in grpo_schedule(recipe, 1044, 434, 1).epochs] == [1044] * 3 + [610] * 2
    none = recipe.model_copy(update={"last_parts": ()})
    assert [epoch.groups for epoch in grpo_schedule(none, 1044, 434, 1).epochs] == [1044] * 3
