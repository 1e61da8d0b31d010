"""Recipes: every setting of a training run, in one YAML file per model.

Unknown keys are refused, and the resolved recipe is saved with each run, so that a typing error fails at once and a
run can be repeated.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from screening.prompt import PROMPTS, Prompt
from trainer.pretrain.model import Architecture

RECIPES = Path(__file__).parent / "recipes"


class RecipeError(ValueError):
    """A recipe is missing or not understood; the message names the file and the field."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class PoolRecipe(_Strict):
    """Pictures for pretraining."""

    products: int
    usable_per_product: int
    defective_per_product: int
    seed: int
    render_size: int
    """Side in pixels at which pictures are rendered, before they are brought to the model's size."""
    severities: tuple[float, float, float]
    dimension_weights: tuple[float, float, float, float]
    """Share of appearance, shadow, layout, extension among the planted defects."""
    held_out: int
    """Products kept out of training, for the numbers in the log."""


class Course(_Strict):
    """One stage of pretraining: how long, and the learning rate over time."""

    steps: int = Field(gt=0)
    families_per_step: int = Field(gt=0)
    """A family is an original with four generated pictures."""
    learning_rate: float
    final_rate: float = 0.02
    """The cosine ends at this multiple of `learning_rate`."""
    vision_rate: float = Field(default=1.0, ge=0)
    """Learning rate of the ViT, as a multiple of the others'."""
    warmup_steps: int
    weight_decay: float


class SpeakCourse(Course):
    """The stage with words."""

    shares: dict[Literal["describe", "describe_all", "screen", "screen_direct"], float]
    """A step draws its task in these proportions."""


class PretrainRecipe(_Strict):
    """Stands in for the base model's own pretraining; see `trainer.pretrain.stages`."""

    pool: PoolRecipe
    vocabulary: int
    see: Course
    read: Course
    speak: SpeakCourse
    jitter: int
    """Pictures are shifted by up to this many pixels at the model's size."""
    usable_counts: tuple[float, float, float, float, float]
    """Share of samples with 0..4 usable pictures."""
    seed: int


class SftRecipe(_Strict):
    """One SFT stage (paper, section 4 and table 2): ViT and aligner frozen, language model trained."""

    epochs: int = 5
    batch_size: int = 8
    gradient_accumulation: int = 1
    learning_rate: float
    warmup_ratio: float = 0.05
    weight_decay: float = 0.0
    captions: bool
    """Train on captions of the pictures as well (stage 1.1)."""
    direct_share: float = 0.0
    """Share of samples that are asked in Direct mode instead of CoT."""
    seed: int = 0


class Recipe(_Strict):
    """Everything that makes one model."""

    name: str
    base: str | None = None
    """Model to start from (a directory or a hub name); None starts from random weights with `architecture`."""
    prompt: Literal["standard", "compact"]
    architecture: Architecture | None = None
    pretrain: PretrainRecipe | None = None
    sft_weak: SftRecipe
    """Stage 1.1: captions and weakly supervised reasoning."""
    sft_answer: SftRecipe
    """Stage 1.2: answer-driven reasoning."""
    max_tokens_cot: int = Field(gt=0)

    @property
    def prompt_texts(self) -> Prompt:
        return PROMPTS[self.prompt]


def load_recipe(name_or_path: str) -> Recipe:
    """Read a recipe by name (`tiny`) or path.

    Raises:
        RecipeError: there is no such recipe, or it has unknown, missing or wrong fields.
    """
    path = Path(name_or_path)
    if not path.suffix:
        path = RECIPES / f"{name_or_path}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in RECIPES.glob("*.yaml")))
        raise RecipeError(
            f"there is no recipe {name_or_path!r}; shipped ones: {known}; or give the path of a YAML file"
        )
    try:
        return Recipe.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except yaml.YAMLError as error:
        raise RecipeError(f"{path} is not YAML: {error}") from error
    except ValidationError as error:
        raise RecipeError(f"{path}: {error}") from error
