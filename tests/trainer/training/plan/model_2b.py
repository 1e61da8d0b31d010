"""The 2B model without torch, for everything that is arithmetic, and plans of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from trainer.records import Sample
from trainer.training.plan.parameters import Parameters, Part
from trainer.training.plan.plan import Case, DataSize, Hardware
from trainer.training.plan.shapes import Layers, Shapes
from trainer.training.plan.tokens import Tokens
from trainer.training.recipe.recipe import Recipe, load_recipe

VOCABULARY = 151674

VISION = Layers(24, 1024, 4096, 16, 16, 64)
SHAPES = Shapes(VISION, Layers(28, 1536, 8960, 12, 2, 128), 448, 32, 256, VOCABULARY, 32768)
PARAMETERS = Parameters(
    (
        Part("vit", 304_012_288, 302_592_000),
        Part("projector", 8_662_016, 8_650_752),
        Part("embeddings", 232_971_264, 232_971_264),
        Part("language_model", 1_310_340_608, 1_310_195_712),
        Part("head", 232_971_264, 232_971_264),
    ),
    tied=False,
)


def with_base(base: Path | str, **changes: Any) -> Recipe:
    return load_recipe("internvl3-2b").model_copy(update={"base": str(base), "prompt": "compact", **changes})


def reasoned(length: int = 60) -> Sample:
    pictures = [
        {"file": f"{o}.jpg", "option": o, "usable": True, "dimensions": [], "severity": 0, "comment": "fine"}
        for o in "ABCD"
    ]
    words = "the product is unchanged and stands on the table, " * (length // 10)
    return Sample.model_validate(
        {
            "id": "s",
            "product": "p",
            "original": {"file": "o.jpg"},
            "generated": pictures,
            "label": "ABCD",
            "reasoning": words,
        }
    )


def case(
    recipe: Recipe | None = None,
    *,
    gpus: int = 1,
    sharded: bool = False,
    gpu_memory: float = 80,
    text: int = 400,
    longest: int | None = None,
    measured: bool = True,
    shapes: Shapes = SHAPES,
    parameters: Parameters = PARAMETERS,
    hard: int = 434,
    samples: int = 1044,
) -> Case:
    return Case(
        recipe=recipe or load_recipe("internvl3-2b"),
        source="test",
        shapes=shapes,
        parameters=parameters,
        tokens=Tokens(256, 1280, text, 100, text, measured=measured, longest_answer=longest),
        hardware=Hardware(gpus, gpu_memory, sharded),
        data=DataSize(samples, samples, 5 * samples, hard),
    )


def changed(section: str = "", **changes: Any) -> Recipe:
    recipe = load_recipe("internvl3-2b")
    if section:
        changes = {section: getattr(recipe, section).model_copy(update=changes)}
    return recipe.model_copy(update=changes)
