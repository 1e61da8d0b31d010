"""Finds the problems of a recipe. Each problem is a sentence that says what to change."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

from trainer.training.enough_data import captions_problem, grpo_problem, sft_problem
from trainer.training.plan.memory import GIB, Memory
from trainer.training.plan.plan import MARGIN, Case
from trainer.training.plan.schedule import SftSchedule
from trainer.training.plan.sharded import excluded_by_sharding
from trainer.training.positions import asked_by, forms_problem
from trainer.training.recipe.stages import FLASH, HcmGrpoRecipe, SftRecipe


def find_problems(case: Case) -> list[str]:
    """All problems of a recipe, for which a training would fail or be useless."""
    return list(_problems(case))


def find_notes(case: Case) -> list[str]:
    """Facts worth knowing that are not problems."""
    return list(_notes(case))


def _problems(case: Case) -> Iterator[str]:
    grpo = case.recipe.hcm_grpo
    yield from _pictures(case)
    yield from _positions(case)
    yield from _cut_answers(case)
    yield from _enough(case)
    yield from _sharding(case)
    if grpo:
        yield from _engine_room(case, grpo)
    for name, sft in case.sft_stages:
        memory, smaller = case.sft_memory(sft), _sft_remedies(sft)
        yield from _fits(case, name, memory, smaller, case.sft_memory, with_lora=bool(sft.lora))
    if grpo:
        memory, remedies = case.grpo_memory(grpo), _grpo_remedies(case, grpo)
        yield from _fits(case, "hcm_grpo", memory, remedies, case.grpo_memory, with_lora=bool(grpo.lora))


def _notes(case: Case) -> Iterator[str]:
    grpo, longest, limit = case.recipe.hcm_grpo, case.tokens.longest_answer, case.recipe.max_tokens_cot
    if case.parameters.tied:
        yield (
            "the base model ties its head to its embeddings. `trainer import` unties them, because a running service "
            "would otherwise keep the old head when it loads new weights. The head is counted as one of its own"
        )
    if longest is not None and not case.tokens.measured and longest > limit:
        yield (
            f"the longest answer of the data has about {longest} tokens (estimated), more than max_tokens_cot {limit}. "
            "Give a local directory as `base` to have them counted with its tokenizer"
        )
    if grpo and grpo.max_completion_tokens < limit and grpo.cut_rollouts:
        yield (
            f"rollouts are cut at {grpo.max_completion_tokens} tokens, although answers may have {limit}, because "
            "the recipe sets cut_rollouts"
        )
    engine = case.engine(grpo) if grpo else None
    if engine and 0 < engine.at_once < engine.wanted:
        yield f"vLLM's KV cache may hold only {engine.at_once} of the {engine.wanted} completions of a round at a time"


def _pictures(case: Case) -> Iterator[str]:
    side = case.shapes.patches_per_side
    if side % 2:
        yield (
            f"a picture of {case.shapes.image_size} pixels has {side} patches per side, and pixel shuffle merges "
            "them two by two. Choose an image size that is an even number of patches"
        )


def _positions(case: Case) -> Iterator[str]:
    positions = case.shapes.max_positions
    smaller = f"choose {'fewer tiles' if case.recipe.tiles > 1 else 'smaller pictures'}"
    prompt, decoding = asked_by(case.recipe)
    if problem := forms_problem(prompt.forms, case.tokens, decoding, positions):
        yield f"{problem}, or {smaller}"
    grpo, room = case.recipe.hcm_grpo, positions - case.tokens.prompt
    if grpo and 0 < room < grpo.max_completion_tokens:
        yield (
            f"the prompt's {case.tokens.prompt} tokens and hcm_grpo.max_completion_tokens {grpo.max_completion_tokens} "
            f"exceed the model's {positions} positions. Lower hcm_grpo.max_completion_tokens to {room}, or {smaller}"
        )


def _cut_answers(case: Case) -> Iterator[str]:
    grpo, longest, limit = case.recipe.hcm_grpo, case.tokens.longest_answer, case.recipe.max_tokens_cot
    if longest is not None and case.tokens.measured and longest > limit:
        yield (
            f"the longest answer of the data has {longest} tokens, but the model may write only {limit}. "
            f"Raise max_tokens_cot to {longest} and import the model again"
        )
        limit = longest
    if grpo and grpo.cut_rollouts:
        limit = (longest or 0) if case.tokens.measured else 0
    if grpo and grpo.max_completion_tokens < limit:
        yield (
            f"rollouts would be cut at {grpo.max_completion_tokens} tokens, but answers may have {limit}. "
            f"Raise hcm_grpo.max_completion_tokens to {limit}"
        )


def _enough(case: Case) -> Iterator[str]:
    gpus, grpo = case.hardware.gpus, case.recipe.hcm_grpo
    rows = {stage.name: stage.schedule.rows for stage in case.stages() if isinstance(stage.schedule, SftSchedule)}
    found = [sft_problem(name, sft, rows[name], gpus) for name, sft in case.sft_stages]
    if case.data.weak_samples:  # otherwise the number of captions is not known
        found += [captions_problem(name, sft, case.data.weak_captions) for name, sft in case.sft_stages]
    if grpo:
        found.append(grpo_problem(grpo, case.data.samples, case.data.hard_cases, gpus))
    yield from filter(None, found)


def _sharding(case: Case) -> Iterator[str]:
    if not case.hardware.sharded:
        return
    if case.hardware.gpus == 1:
        yield "FSDP2 divides the model among several GPUs, and there is one. Use --sharding none or more --gpus"
    stages: list[tuple[str, SftRecipe | HcmGrpoRecipe]] = list(case.sft_stages)
    if case.recipe.hcm_grpo:
        stages.append(("hcm_grpo", case.recipe.hcm_grpo))
    for name, settings in stages:
        if setting := excluded_by_sharding(settings):
            yield f"{name}.{setting} cannot be combined with FSDP2. Remove it, or use --sharding none"


def _engine_room(case: Case, grpo: HcmGrpoRecipe) -> Iterator[str]:
    engine = case.engine(grpo)
    if engine is None or engine.at_once:
        return
    share = math.ceil(engine.least_share / case.hardware.gpu_bytes * 100) / 100
    remedy = f"Raise hcm_grpo.vllm_memory to {share:.2f}" if share < 1 else "Use larger GPUs or hcm_grpo.vllm: none"
    yield (
        f"vLLM's share of {engine.share / GIB:.1f} GiB cannot hold its weights and one sequence "
        f"({engine.least_share / GIB:.1f} GiB). {remedy}"
    )


def _fits(
    case: Case,
    name: str,
    memory: Memory,
    remedies: Iterator[tuple[str, Any]],
    price: Callable[[Any], Memory],
    *,
    with_lora: bool,
) -> Iterator[str]:
    """Compare the peak with the GPU's memory, and find the first change that makes it fit."""
    usable = case.hardware.usable_bytes
    if memory.peak <= usable:
        return
    need = (
        f"{name} needs {memory.peak / GIB:.1f} GiB per GPU, but only {usable / GIB:.1f} of "
        f"{case.hardware.gpu_memory:g} can be used, because {MARGIN:.0%} stay free. "
    )
    least = memory.peak
    for change, settings in remedies:
        peak = price(settings).peak
        if peak <= usable:
            yield f"{need}Set in {name}: {change} (then {peak / GIB:.1f} GiB)"
            return
        least = min(least, peak)
    divided = "" if case.hardware.sharded or with_lora else ", several GPUs that divide the model (--sharding fsdp2)"
    lora = "" if case.hardware.sharded or with_lora else ", or LoRA (as the recipe internvl3-2b-lora does)"
    other = f"larger GPUs{divided}{lora}"
    yield f"{need}No batch is small enough: the smallest takes {least / GIB:.1f} GiB. Use {other}"


def _sft_remedies(sft: SftRecipe) -> Iterator[tuple[str, SftRecipe]]:
    """Changes that save memory and do not change the result."""
    changes: list[str] = []
    if not sft.gradient_checkpointing:
        sft = sft.model_copy(update={"gradient_checkpointing": True})
        changes.append("gradient_checkpointing: true")
        yield ", ".join(changes), sft
    yield from _smaller_passes(changes, sft)


def _grpo_remedies(case: Case, grpo: HcmGrpoRecipe) -> Iterator[tuple[str, HcmGrpoRecipe]]:
    """Changes that save memory and do not change the result. vLLM's share still holds one round of rollouts.

    A pass of less than a group computes the prompt once per completion (`GroupGRPOTrainer`), so batches stay whole
    groups. With flash attention every pass does that, and a batch may be of any size.
    """
    changes: list[str] = []
    if not grpo.gradient_checkpointing:
        grpo = grpo.model_copy(update={"gradient_checkpointing": True})
        changes.append("gradient_checkpointing: true")
        yield ", ".join(changes), grpo
    if engine := case.engine(grpo):
        enough = engine.least_share + engine.per_sequence * (engine.wanted - 1)
        share = math.ceil(enough / case.hardware.gpu_bytes * 100) / 100
        if share < grpo.vllm_memory:
            grpo = grpo.model_copy(update={"vllm_memory": share})
            changes.append(f"vllm_memory: {share:.2f}")
            yield ", ".join(changes), grpo
        if not grpo.vllm_sleep:
            grpo = grpo.model_copy(update={"vllm_sleep": True})
            changes.append("vllm_sleep: true")
            yield ", ".join(changes), grpo
    yield from _smaller_passes(changes, grpo, whole=1 if grpo.attention == FLASH else grpo.group_size)


def _smaller_passes(changes: list[str], settings: Any, *, whole: int = 1) -> Iterator[tuple[str, Any]]:
    """Halve the batch and double the accumulation, which does not change a step.

    Args:
        whole: number by which the batch must stay divisible.
    """
    batch, accumulation = settings.batch_size, settings.gradient_accumulation
    while batch % (2 * whole) == 0:
        batch, accumulation = batch // 2, accumulation * 2
        smaller = settings.model_copy(update={"batch_size": batch, "gradient_accumulation": accumulation})
        yield ", ".join([*changes, f"batch_size: {batch}, gradient_accumulation: {accumulation}"]), smaller
