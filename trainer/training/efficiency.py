"""8-bit AdamW and flash attention: what a stage's settings mean to transformers, and what they need."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import torch

from trainer.training.recipe.recipe import RecipeError
from trainer.training.recipe.stages import FLASH, HcmGrpoRecipe, SftRecipe

if TYPE_CHECKING:
    from transformers import PreTrainedModel

OPTIM: Mapping[str, str] = {"adamw": "adamw_torch_fused", "adamw_8bit": "adamw_bnb_8bit"}
"""Optimizer of a recipe → transformers' name."""


def check_available(section: str, settings: SftRecipe | HcmGrpoRecipe) -> None:
    """Check before a training that this machine has what the optimizer and the attention need.

    Args:
        section: section of the recipe, for messages.

    Raises:
        RecipeError: a package or a GPU is missing.
    """
    if settings.optimizer == "adamw_8bit" and find_spec("bitsandbytes") is None:
        raise RecipeError(
            f"{section}.optimizer adamw_8bit needs the package bitsandbytes. Install it, or set `optimizer: adamw`"
        )
    if settings.attention != FLASH:
        return
    if not torch.cuda.is_available():
        raise RecipeError(f"{section}.attention {FLASH} needs a GPU. Set `attention: sdpa`")
    if find_spec("flash_attn") is None:
        raise RecipeError(
            f"{section}.attention {FLASH} needs the package flash-attn, built for this version of torch. Install it, "
            "or set `attention: sdpa`"
        )


@contextmanager
def masked_attention(model: PreTrainedModel) -> Iterator[None]:
    """Have a model with flash attention compute with `sdpa` for a while.

    Flash attention takes no custom mask and no float32, in which a model answers validation questions.
    """
    configs: list[Any] = [model.config.vision_config, model.config.text_config]
    flash = [config for config in configs if config._attn_implementation == FLASH]
    for config in flash:
        config._attn_implementation = "sdpa"
    try:
        yield
    finally:
        for config in flash:
            config._attn_implementation = FLASH
