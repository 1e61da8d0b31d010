"""Problems of recipes are found, and the proposed remedies work."""

from __future__ import annotations

from dataclasses import replace

import pytest
import yaml

from tests.trainer.training.plan.model_2b import SHAPES, case, changed
from trainer.training.plan.checks import _grpo_remedies, find_notes, find_problems
from trainer.training.plan.report import as_text


def test_the_shipped_recipes_work_on_one_gpu_of_80_gib() -> None:
    assert find_problems(case()) == []
    assert find_problems(case(gpus=8)) == []


def test_a_batch_of_broken_groups_is_refused_and_the_remedy_works() -> None:
    (problem,) = find_problems(case(changed("hcm_grpo", batch_size=6)))
    assert "the 6 completions of a step on a GPU" in problem
    assert "2 are left over. Set hcm_grpo.batch_size to 8" in problem
    assert find_problems(case(changed("hcm_grpo", batch_size=8))) == []
    # The completions of all passes of a step must be divisible into groups, on each GPU.
    assert find_problems(case(changed("hcm_grpo", batch_size=6, gradient_accumulation=2))) == []
    assert len(find_problems(case(changed("hcm_grpo", batch_size=6), gpus=2))) == 1


def test_a_context_longer_than_the_model_is_refused_and_the_remedy_works() -> None:
    short = replace(SHAPES, max_positions=2048)
    problems = find_problems(case(shapes=short))
    assert len(problems) == 2
    assert "an answer of 512 (max_tokens_cot) exceed the model's 2048 positions" in problems[0]
    assert "Lower max_tokens_cot to 368, or choose smaller pictures" in problems[0]
    assert "Lower hcm_grpo.max_completion_tokens to 368" in problems[1]
    tiled = find_problems(case(case().recipe.model_copy(update={"tiles": 4}), shapes=short))
    assert "or choose fewer tiles" in tiled[0]
    shorter = changed("hcm_grpo", max_completion_tokens=368).model_copy(update={"max_tokens_cot": 368})
    assert find_problems(case(shorter, shapes=short)) == []
    assert find_problems(case(shapes=short, text=2048 - 1280 - 512)) == []  # the positions are exactly filled


def test_answers_with_boxes_need_room_and_the_remedy_works() -> None:
    located, enough = changed("sft_answer", locate=0.5), replace(SHAPES, max_positions=1780 + 512 + 256)
    assert find_problems(case(located)) == find_problems(case(located, shapes=enough)) == []
    short = replace(enough, max_positions=enough.max_positions - 1)
    (problem,) = find_problems(case(located, shapes=short))
    assert "a question of 1780 tokens that asks for boxes and an answer of 768 (max_tokens_cot 512, and" in problem
    assert "Lower max_tokens_cot to 511" in problem
    remedy = located.model_copy(update={"max_tokens_cot": 511})
    assert not any("boxes" in each for each in find_problems(case(remedy, shapes=short)))


def test_boxes_without_any_room_are_refused_and_the_remedy_works() -> None:
    just, recipe = replace(SHAPES, max_positions=1680 + 300), case().recipe.model_copy(update={"max_tokens_cot": 300})
    located = changed("sft_answer", locate=0.5).model_copy(update={"max_tokens_cot": 300})
    problems = find_problems(case(located, shapes=just))
    assert [each for each in problems if "asks for boxes" in each and "or teach no boxes (`locate: 0`" in each]
    assert not any("boxes" in each for each in find_problems(case(recipe, shapes=just)))


def test_a_long_question_in_direct_mode_is_refused() -> None:
    planned = case(shapes=replace(SHAPES, max_positions=1280 + 1200))
    assert find_problems(planned) == []
    (problem,) = find_problems(replace(planned, tokens=replace(planned.tokens, text_direct=1193)))
    assert "a question of 2473 tokens and an answer of 8 (Direct mode) exceed the model's 2480 positions" in problem


def test_boxes_make_the_samples_of_sft_longer() -> None:
    recipe, located = case().recipe, changed("sft_answer", locate=0.5)
    without, with_boxes = (case(r).sft_memory(r.sft_answer) for r in (recipe, located))
    as_long = case(recipe.model_copy(update={"max_tokens_cot": 512 + 256}), text=400 + 100)
    assert with_boxes == as_long.sft_memory(recipe.sft_answer) != without
    assert case(located).longest_sample == case(recipe).longest_sample + 256 + 100
    assert "for boxes, at most" in as_text(case(located), [])
    assert "for boxes" not in as_text(case(recipe), [])


def test_a_prompt_longer_than_the_model_is_refused() -> None:
    (problem,) = find_problems(case(shapes=replace(SHAPES, max_positions=1024)))
    assert "a question of 1680 tokens" in problem and "Shorten the prompt, or choose smaller pictures" in problem


def test_cut_rollouts_are_refused_and_the_remedy_works() -> None:
    (problem,) = find_problems(case(changed("hcm_grpo", max_completion_tokens=256)))
    assert "cut at 256 tokens" in problem
    assert "Raise hcm_grpo.max_completion_tokens to 512" in problem


def test_answers_of_the_data_that_do_not_fit_are_refused_when_counted_and_noted_when_estimated() -> None:
    problems = find_problems(case(longest=600))
    assert "Raise max_tokens_cot to 600 and import the model again" in problems[0]
    assert "Raise hcm_grpo.max_completion_tokens to 600" in problems[1]
    longer = changed("hcm_grpo", max_completion_tokens=600).model_copy(update={"max_tokens_cot": 600})
    assert find_problems(case(longer, longest=600)) == []
    assert find_problems(case(longest=600, measured=False)) == []
    assert any("about 600 tokens (estimated)" in note for note in find_notes(case(longest=600, measured=False)))


def test_what_does_not_fit_is_refused_with_the_first_change_that_helps() -> None:
    plain = changed("sft_answer", gradient_checkpointing=False)
    (problem,) = find_problems(case(plain))
    assert problem.startswith("sft_answer needs ")
    assert "Set in sft_answer: gradient_checkpointing: true (then " in problem

    # On 66 GiB the engine's share must shrink or the passes: the plan names the change, and the change works.
    (problem,) = find_problems(case(changed("hcm_grpo", vllm_memory=0.3), gpu_memory=66))
    change = problem.partition("Set in hcm_grpo: ")[2].partition(" (then")[0]
    helped = changed("hcm_grpo", **yaml.safe_load(f"{{{change}}}"))
    assert find_problems(case(helped, gpu_memory=66)) == []
    before, after = changed("hcm_grpo").hcm_grpo, helped.hcm_grpo
    assert before.batch_size * before.gradient_accumulation == after.batch_size * after.gradient_accumulation


def test_a_smaller_batch_of_stage_two_is_a_multiple_of_the_group() -> None:
    """A pass of less than a group would compute the prompt once per completion."""
    batches = []
    for attention in ("sdpa", "flash_attention_2"):
        start = changed("hcm_grpo", batch_size=24, attention=attention)
        assert start.hcm_grpo is not None and start.hcm_grpo.group_size == 4
        proposed = {one.batch_size for _, one in _grpo_remedies(case(start), start.hcm_grpo)}
        batches.append(sorted(proposed))
    assert batches == [[12, 24], [3, 6, 12, 24]]


def test_a_gpu_that_is_too_small_for_anything_is_named() -> None:
    problems = find_problems(case(gpu_memory=16))
    assert len(problems) == 4  # both SFT stages, stage 2, and the engine in it
    assert all("Use larger GPUs" in problem for problem in problems if problem.split()[0] in ("sft_weak", "hcm_grpo"))


def test_a_model_that_fits_only_divided_is_refused_with_that_remedy_and_the_remedy_works() -> None:
    recipe = changed("hcm_grpo", vllm="none")
    problems = find_problems(case(recipe, gpus=8, gpu_memory=24))
    assert len(problems) == 3
    assert all("several GPUs that divide the model (--sharding fsdp2)" in problem for problem in problems)
    divided = case(recipe, gpus=8, gpu_memory=24, sharded=True)
    assert find_problems(divided) == []
    assert "with 8 GPU(s) that divide the model (FSDP2)" in as_text(divided, [])


def test_what_a_divided_model_excludes_is_refused() -> None:
    (problem,) = find_problems(case(gpus=8, sharded=True))
    assert problem == "hcm_grpo.vllm colocate cannot be combined with FSDP2. Remove it, or use --sharding none"
    (problem,) = find_problems(case(changed("hcm_grpo", vllm="none"), sharded=True))
    assert "there is one. Use --sharding none or more --gpus" in problem


def test_an_engine_without_room_is_refused_and_the_remedy_works() -> None:
    (problem,) = find_problems(case(changed("hcm_grpo", vllm_memory=0.05)))
    share = float(problem.rpartition("Raise hcm_grpo.vllm_memory to ")[2])
    tight = case(changed("hcm_grpo", vllm_memory=share))
    assert find_problems(tight) == []
    assert any("may hold only" in note for note in find_notes(tight))


@pytest.mark.parametrize(
    ("changes", "data", "expected"),
    [
        ({"last_parts": ("hard",)}, {"hard": 0}, "epoch 4 of stage 2 would be empty. Add `all`"),
        ({"epochs": 0, "last_parts": ()}, {}, "no epochs"),
        ({"gradient_accumulation": 40}, {"samples": 10, "hard": 4}, "fewer than the 80 of one step"),
    ],
)
def test_a_stage_two_without_steps_is_refused(changes, data, expected) -> None:
    (problem,) = find_problems(case(changed("hcm_grpo", **changes), **data))
    assert expected in problem


def test_an_odd_number_of_patches_is_refused() -> None:
    (problem,) = find_problems(case(shapes=replace(SHAPES, patches_per_side=31)))
    assert "31 patches per side" in problem


def test_a_recipe_without_stage_two_is_planned_without_it() -> None:
    short = case(changed(hcm_grpo=None))
    assert find_problems(short) == []
    assert [stage.name for stage in short.stages()] == ["sft_weak", "sft_answer"]
    assert "HCM-GRPO" not in as_text(short, [])
