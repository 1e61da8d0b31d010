"""Chooses the layers of a model that get an adapter, by their names."""

from __future__ import annotations

from collections.abc import Iterable

from trainer.training.recipe.recipe import RecipeError
from trainer.training.recipe.stages import LoraRecipe

VISION_PREFIXES = ("model.vision_tower.", "model.multi_modal_projector.")
"""Beginnings of the names of the layers that both SFT stages freeze."""
HEAD = "lm_head"
IN_FULL = {"projector": "multi_modal_projector", "embeddings": "embed_tokens", "head": HEAD}
"""Part that a recipe may train in full → last part of its module's name."""


def adapted_layers(names: Iterable[str], lora: LoraRecipe, *, vision: bool) -> list[str]:
    """Names of the layers that get an adapter, in the given order.

    Args:
        names: names of all linear layers of the model.
        vision: whether the stage trains ViT and projector.

    Raises:
        RecipeError: a target matches no layer of the parts that the stage trains.
    """
    in_full = {IN_FULL[part] for part in lora.in_full}
    candidates = [
        name
        for name in names
        if name != HEAD and (vision or not name.startswith(VISION_PREFIXES)) and not in_full & set(name.split("."))
    ]
    if lora.target == "all-linear":
        return candidates
    unmatched = [target for target in lora.target if not any(_ends_with(name, target) for name in candidates)]
    if unmatched:
        known = ", ".join(dict.fromkeys(name.rpartition(".")[2] for name in candidates))
        raise RecipeError(
            f"lora.target: {unmatched[0]!r} names no linear layer that this stage trains with an adapter. "
            f"Choose among {known}, or give all-linear. `in_full` trains projector, embeddings and head"
        )
    return [name for name in candidates if any(_ends_with(name, target) for target in lora.target)]


def _ends_with(name: str, target: str) -> bool:
    return f".{name}".endswith(f".{target}")
