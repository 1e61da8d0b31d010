"""Renders a plan as text for people and as JSON values for programs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from typing import Any

from screening.prompt import PICTURES_PER_SAMPLE
from trainer.runs.plain_table import aligned
from trainer.training.plan.adapters import find_adapters
from trainer.training.plan.memory import GIB
from trainer.training.plan.parameters import PARTS, VISION
from trainer.training.plan.plan import MARGIN, Case, StagePlan
from trainer.training.plan.schedule import GrpoSchedule, SftSchedule
from trainer.training.plan.shapes import Shapes
from trainer.training.recipe.stages import LoraRecipe

TITLES = {"sft_weak": "SFT 1.1", "sft_answer": "SFT 1.2", "hcm_grpo": "HCM-GRPO"}
"""Section of the recipe → name of the stage in the paper."""


def as_json(case: Case, problems: Sequence[str], notes: Sequence[str]) -> dict[str, Any]:
    """The plan as JSON values; memory in bytes."""
    return {
        "recipe": case.recipe.name,
        "architecture": case.source,
        "hardware": {**asdict(case.hardware), "usable_bytes": round(case.hardware.usable_bytes)},
        "data": asdict(case.data),
        "parameters": {
            "total": case.parameters.total,
            "tied": case.parameters.tied,
            "parts": {part.name: part.total for part in case.parameters.parts},
        },
        "tokens": {
            "per_picture": case.tokens.per_picture,
            "pictures": case.tokens.pictures,
            "text": case.tokens.text,
            "prompt": case.tokens.prompt,
            "completion_limit": case.completion_limit,
            "total": case.longest_sample,
            "positions": case.shapes.max_positions,
            "measured": case.tokens.measured,
            "longest_answer": case.tokens.longest_answer,
        },
        "stages": {stage.name: _stage_json(stage) for stage in case.stages()},
        "notes": list(notes),
        "problems": list(problems),
    }


def as_text(case: Case, notes: Sequence[str]) -> str:
    """The plan as a page of text, without the problems."""
    stages = list(case.stages())
    blocks = [
        [f"Recipe {case.recipe.name}, {case.source}"],
        _parameters(case),
        _tokens(case),
        *(_memory(case, stage) for stage in stages),
        _schedule(case, stages),
    ]
    if notes:
        blocks.append(["Notes", *(f"  {note}" for note in notes)])
    return "\n\n".join("\n".join(block) for block in blocks)


def _stage_json(stage: StagePlan) -> dict[str, Any]:
    memory = stage.memory
    return {
        "trained": stage.trained,
        "frozen": stage.frozen,
        "memory": {
            "held": dict(memory.held),
            "rollouts": dict(memory.rollouts),
            "training": dict(memory.training),
            "peak": memory.peak,
        },
        "engine": asdict(stage.engine) if stage.engine else None,
        "schedule": asdict(stage.schedule),
    }


def _parameters(case: Case) -> list[str]:
    """One row per part and a total; SFT 1.1 and 1.2 share a column if they train the same."""
    stages = {stage.name: stage for stage in case.stages()}
    titles, weak = dict(TITLES), stages.get("sft_weak")
    alike = weak is not None and weak.trained == stages["sft_answer"].trained
    if alike:
        titles["sft_weak"] = "SFT 1.1, 1.2"
    columns = [name for name in stages if name != "sft_answer" or not alike]
    rows = [
        (part.name, f"{part.total:,}", *(_state(case, name, part.name) for name in columns))
        for part in case.parameters.parts
    ]
    head = ("part", "parameters", *(titles[name] for name in columns))
    totals = (f"{stages[name].trained:,} trained" for name in columns)
    return ["Parameters", *_table([head, *rows, ("total", f"{case.parameters.total:,}", *totals)])]


def _state(case: Case, stage: str, part: str) -> str:
    """What a stage does with a part of the model."""
    lora: LoraRecipe | None = getattr(case.recipe, stage).lora
    if lora is None:
        return "frozen" if part in VISION and stage != "hcm_grpo" else "trained"
    if part in lora.in_full:
        return "trained"
    adapters = find_adapters(case.parameters, lora, vision=stage == "hcm_grpo")
    size = adapters.size_in(PARTS[part])
    return f"frozen, adapters of {size:,}" if size else "frozen"


def _tokens(case: Case) -> list[str]:
    tokens, shapes = case.tokens, case.shapes
    places = case.longest_sample - tokens.prompt - case.completion_limit
    how = "counted with the model's tokenizer" if tokens.measured else "estimated without a tokenizer"
    rows = [
        (
            "pictures",
            f"{tokens.pictures:,}",
            f"{PICTURES_PER_SAMPLE} of {_tiles(shapes)}, {tokens.per_picture} tokens each",
        ),
        ("text of the prompt", f"{tokens.text:,}", how),
        ("completion, at most", f"{case.completion_limit:,}", ""),
        *([("for boxes, at most", f"{places:,}", "further question and answer, with `locate`")] if places > 0 else []),
        ("sample, at most", f"{case.longest_sample:,}", f"the model has {shapes.max_positions:,} positions"),
    ]
    if tokens.longest_answer is not None:
        rows.append(("longest answer of the data", f"{tokens.longest_answer:,}", how))
    return ["Tokens of a sample", *_table(rows)]


def _tiles(shapes: Shapes) -> str:
    size = f"{shapes.image_size} x {shapes.image_size} pixels"
    return f"{size}, one tile" if shapes.tiles == 1 else f"at most {shapes.tiles - 1} tiles of {size} and a thumbnail"


def _memory(case: Case, stage: StagePlan) -> list[str]:
    memory = stage.memory
    rows = [(name, _gib(size), "") for name, size in memory.held.items()]
    rows += [(name, _gib(size), "while generating") for name, size in memory.rollouts.items()]
    rows += [(name, _gib(size), "while training") for name, size in memory.training.items()]
    usable = case.hardware.usable_bytes / GIB
    left = usable - memory.peak / GIB
    verdict = f"{left:.1f} left" if left >= 0 else f"{-left:.1f} too much"
    rows.append(
        (
            "peak",
            _gib(memory.peak),
            f"{verdict}, of {usable:.1f} ({MARGIN:.0%} of {case.hardware.gpu_memory:g} stay free)",
        )
    )
    lines, shared = _table(rows), " that divide the model (FSDP2)" if case.hardware.sharded else ""
    if engine := stage.engine:
        lines.append(
            f"  vLLM's share: {_gib(engine.weights)} GiB weights, {_gib(max(engine.kv_cache, 0))} GiB KV cache "
            f"(one completion with its prompt takes {engine.per_sequence / 2**20:.0f} MiB)"
        )
    return [f"Memory per GPU in {TITLES[stage.name]}, GiB, with {case.hardware.gpus} GPU(s){shared}", *lines]


def _schedule(case: Case, stages: Iterable[StagePlan]) -> list[str]:
    data = case.data
    lines = ["Steps", *(f"  assumed: {what}" for what in data.assumed)]
    for stage in stages:
        lines += _sft(stage, stage.schedule) if isinstance(stage.schedule, SftSchedule) else _grpo(stage.schedule)
    return lines


def _sft(stage: StagePlan, schedule: SftSchedule) -> Iterator[str]:
    yield (
        f"  {TITLES[stage.name]}: {schedule.rows:,} rows, {schedule.rows_per_step} a step, "
        f"{schedule.steps_per_epoch:,} steps x {schedule.epochs} epochs = {schedule.steps:,} steps"
    )


def _grpo(schedule: GrpoSchedule) -> Iterator[str]:
    yield (
        f"  HCM-GRPO: {schedule.samples:,} samples, {schedule.hard_cases:,} of them hard; a step has "
        f"{schedule.groups_per_step} groups, {schedule.completions_per_step} rollouts"
    )
    rows = [("epoch", "groups", "rollouts", "steps")]
    rows += [(str(e.number), f"{e.groups:,}", f"{e.rollouts:,}", f"{e.steps:,}") for e in schedule.epochs]
    rows.append(("total", f"{schedule.groups:,}", f"{schedule.rollouts:,}", f"{schedule.steps:,}"))
    yield from (f"  {line}" for line in _table(rows))
    if schedule.dropped:
        yield f"    the last {schedule.dropped} groups do not fill a step and are dropped"


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"  {line}" for line in aligned(rows)]


def _gib(size: float) -> str:
    return f"{size / GIB:.2f}"
