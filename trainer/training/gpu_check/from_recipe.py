"""Makes the order of a measurement from a recipe, with the estimates of `plan` for the same settings."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Literal

from trainer.training.architecture import Architecture
from trainer.training.gpu_check.order import Adapters, Order, Task, Use
from trainer.training.lora.layers import IN_FULL
from trainer.training.plan.adapters import find_adapters
from trainer.training.plan.architectures import find_model
from trainer.training.plan.memory import PICTURES, Memory
from trainer.training.plan.parameters import build_on_meta, count_parameters
from trainer.training.plan.plan import EIGHTY_GB, Case, DataSize, Hardware
from trainer.training.plan.shapes import shapes_of
from trainer.training.plan.tokens import count_tokens, load_tokenizer
from trainer.training.recipe.recipe import Recipe, load_recipe
from trainer.training.recipe.stages import LoraRecipe

SMALL_CARD = "internvl3-2b-lora"
"""The shipped recipe whose adapters are measured if the recipe itself has none."""
TINY = Architecture(
    image_size=64, patch_size=16, vision_width=64, vision_layers=2, text_width=64, text_layers=2, text_mlp=128
)
"""Architecture at the scale `tiny`."""
TINY_TOKENS = 8
"""Tokens of an answer, and of the prompt's text, at the scale `tiny`."""

FULL = "full fine-tuning"
MEASURED = {"optimizer": "adamw", "attention": "sdpa"}
"""Settings with which every stage is measured: flash-attn may not be installed."""

Scale = Literal["true", "tiny"]


def make_order(recipe_name: str, scale: Scale = "true") -> Order:
    """Make the order of all measurements: both stages in full and with adapters of 16 and 4 bits.

    A recipe with adapters is not measured in full.

    Args:
        scale: `tiny` takes a tiny architecture, short texts and one group per step, to try the command.

    Raises:
        PlanError, RecipeError: the recipe, or the architecture of its model, cannot be used.
    """
    recipe = load_recipe(recipe_name)
    model = find_model(_with_tiny_model() if scale == "tiny" else recipe)
    # As `import` leaves the model.
    model.config.tie_word_embeddings = model.config.text_config.tie_word_embeddings = False
    shapes, parameters = shapes_of(model.config, recipe.most_tiles), count_parameters(build_on_meta(model.config))
    tokens = count_tokens(recipe.prompt_texts, shapes.most_tokens, load_tokenizer(model.directory))
    if scale == "tiny":
        recipe, tokens = _shortened(recipe), replace(tokens, text=TINY_TOKENS)
    case = Case(
        recipe, model.source, shapes, parameters, tokens, Hardware(gpus=1, gpu_memory=EIGHTY_GB), DataSize(1, 1, 1, 1)
    )
    return Order(recipe.name, scale, model.source, model.config.to_diff_dict(), tuple(_tasks(case)))


def _with_tiny_model() -> Recipe:
    return load_recipe("tiny").model_copy(update={"architecture": TINY})


def _shortened(recipe: Recipe) -> Recipe:
    grpo = recipe.hcm_grpo
    if grpo:
        short = {"max_completion_tokens": TINY_TOKENS, "batch_size": grpo.group_size, "gradient_accumulation": 1}
        grpo = grpo.model_copy(update=short)
    # Boxes would make the short texts long.
    sft = recipe.sft_answer.model_copy(update={"batch_size": 2, "gradient_accumulation": 1, "locate": 0.0})
    return recipe.model_copy(update={"max_tokens_cot": TINY_TOKENS, "sft_answer": sft, "hcm_grpo": grpo})


def _tasks(case: Case) -> Iterator[Task]:
    """Both stages in full come first, because the time budget may end before the adapters are measured."""
    sft, grpo = case.recipe.sft_answer, case.recipe.hcm_grpo
    for title, bits in ((FULL, None), ("LoRA", 16), ("QLoRA", 4)):
        if bits or sft.lora is None:
            yield _sft(case, title, _with_bits(sft.lora, bits))
        if grpo and (bits or grpo.lora is None):
            yield _grpo(case, title, _with_bits(grpo.lora, bits))


def _with_bits(own: LoraRecipe | None, bits: int | None) -> LoraRecipe | None:
    """Adapters on frozen weights of so many bits: the recipe's own, or those of `SMALL_CARD`. None for no bits."""
    adapters = own or load_recipe(SMALL_CARD).sft_answer.lora
    return adapters.model_copy(update={"bits": bits}) if adapters and bits else None


def _sft(case: Case, title: str, lora: LoraRecipe | None) -> Task:
    settings = case.recipe.sft_answer.model_copy(update={"lora": lora, **MEASURED})
    prompt, answer = case.sft_tokens(settings)
    return Task(
        stage="sft",
        title=f"SFT, {title}",
        batch_size=settings.batch_size,
        passes=settings.gradient_accumulation,
        prompt=prompt,
        answer=answer,
        tiles=case.shapes.tiles,
        checkpointing=settings.gradient_checkpointing,
        adapters=_adapters(case, lora, vision=False),
        estimates=_estimates(case.sft_memory(settings)),
    )


def _grpo(case: Case, title: str, lora: LoraRecipe | None) -> Task:
    # Rollouts through vLLM cannot be measured without vLLM.
    settings = case.recipe.stage_2.model_copy(update={"lora": lora, "vllm": "none", **MEASURED})
    return Task(
        stage="hcm_grpo",
        title=f"stage 2, {title}",
        batch_size=settings.batch_size,
        passes=settings.gradient_accumulation,
        prompt=case.tokens.prompt,
        answer=settings.max_completion_tokens,
        tiles=case.shapes.tiles,
        checkpointing=settings.gradient_checkpointing,
        adapters=_adapters(case, lora, vision=True),
        estimates=_estimates(case.grpo_memory(settings)),
        group_size=settings.group_size,
        reference=bool(settings.kl_beta),
        sampling=(settings.temperature, settings.top_k, settings.top_p),
    )


def _adapters(case: Case, lora: LoraRecipe | None, *, vision: bool) -> Adapters | None:
    if lora is None:
        return None
    layers = tuple(layer.name for layer in find_adapters(case.parameters, lora, vision=vision).layers)
    in_full = tuple(IN_FULL[part] for part in lora.in_full)
    return Adapters(lora.rank, lora.alpha, lora.dropout, layers, in_full, lora.bits)


def _estimates(memory: Memory) -> dict[str, int]:
    """`plan`'s bytes by the uses that can be told apart in a measurement."""
    held = dict(memory.held)
    pictures = held.pop(PICTURES, 0)  # gpu-check keeps them once per question
    outside, copies = held.pop("CUDA and fragmentation"), held.pop("bfloat16 copies")
    apart = {name: held.pop(name, 0) for name in (Use.REFERENCE, Use.GRADIENTS, Use.OPTIMIZER)}
    found = {Use.WEIGHTS: sum(held.values()), **apart}
    if memory.rollouts:
        found[Use.ROLLOUTS] = copies + sum(memory.rollouts.values())
    found |= {
        Use.STEP: copies + sum(memory.training.values()),
        Use.PEAK: memory.peak - outside - pictures,
        Use.OUTSIDE: outside,
    }
    return {name: size for name, size in found.items() if size}
