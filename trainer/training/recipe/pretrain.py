"""Section `pretrain`: a small model from random weights, in place of a base model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from trainer.training.recipe.fields import (
    LARGEST,
    Count,
    CountFrom0,
    Factor,
    Rate,
    Seed,
    Share,
    Shares3,
    Shares4,
    Shares5,
    Strict,
    WeightDecay,
    not_all_zero,
)


def _kinds(weights: dict[str, float]) -> dict[str, float]:
    from trainer.data.render.defect_kinds import KINDS
    from trainer.data.render.photo_kinds import PHOTO_KINDS

    known = [kind for kind in KINDS if kind not in PHOTO_KINDS]
    if unknown := sorted(weights.keys() - set(known)):
        given, choice = ", ".join(unknown), ", ".join(known)
        raise ValueError(f"{given}: no kind of defect of a rendered product. Choose from {choice}")
    return weights


class PoolRecipe(Strict):
    """The pool of pictures for pretraining."""

    products: Count
    usable_per_product: Count
    defective_per_product: int = Field(ge=4, le=LARGEST)
    """Defective pictures per product; a sample without a usable picture takes four."""
    variations_per_product: CountFrom0 = 0
    """Pictures per product in which several of its attributes are changed at once; see
    `trainer.data.render.defects.vary`."""
    seed: Seed
    render_size: int = Field(ge=32, le=4096)
    """Side in pixels at which pictures are rendered, before they are scaled to the model's size."""
    severities: Shares3
    dimension_weights: Shares4
    """Shares of the dimensions among the planted defects, in the order of
    `trainer.data.render.defects.DIMENSION_WEIGHTS`: appearance, shadow, layout, extension."""
    kind_weights: Annotated[dict[str, Annotated[float, Field(gt=0, le=1000)]], AfterValidator(_kinds)] = Field(
        default_factory=dict
    )
    """How often a kind of defect is drawn compared with the others of its dimension; 1 for kinds that are not named.
    Weights above 1 for the kinds that a model misses spend the training where it is needed."""
    held_out: Count
    """Number of products kept out of training, on which the log's measurements are made."""

    @model_validator(mode="after")
    def _some_are_left(self) -> Self:
        if self.held_out >= self.products:
            raise ValueError(f"held_out {self.held_out} leaves none of the {self.products} products for training")
        return self


class StageSettings(Strict):
    """Settings of one stage of pretraining: its length and its learning rate over time."""

    steps: Count
    families_per_step: Count
    """Families per step. A family is an original with four generated pictures."""
    learning_rate: Rate
    final_rate: float = Field(default=0.02, ge=0, le=1)
    """Learning rate at the end of the cosine, as a multiple of `learning_rate`."""
    vision_rate: Factor = 1.0
    """Learning rate of the ViT, as a multiple of that of the other parts."""
    warmup_steps: CountFrom0
    weight_decay: WeightDecay
    place_weight: Factor = 0.2
    """Weight of the mean error of places, in tenths of the picture's side, in the losses of the heads. All other
    questions together have the weight 1. With 1, places get most of the gradient. `see` asks for no places."""
    measure_weight: Factor = 1.0
    """Weight of the mean error of proportions and shades in the losses of the heads. One other question has the
    weight 1."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """`muon` trains the matrices in the layers of ViT and language model with Muon, and the rest with AdamW."""


class HeadsStageSettings(StageSettings):
    """Settings of a stage that trains classification heads, without words."""

    varied_share: float = Field(default=0.0, ge=0, le=1)
    """Share of the generated pictures that are variations of the product (`variations_per_product` of the pool)."""


class SeeStageSettings(HeadsStageSettings):
    """Settings of the stage that trains the ViT."""

    unrelated: bool = False
    """Whether the pictures of a step, five times `families_per_step`, are drawn from all products. Then a step teaches
    more about what pictures show, and nothing about the differences between an original and its generated pictures."""

    @model_validator(mode="after")
    def _nothing_to_vary(self) -> Self:
        if self.unrelated and self.varied_share:
            raise ValueError("varied_share has no effect with `unrelated: true`; set it to 0")
        return self


def _some_task(shares: Mapping[Any, float]) -> Mapping[Any, float]:
    not_all_zero(tuple(shares.values()))
    return shares


class SpeakStageSettings(StageSettings):
    """Settings of the stage that trains the language model to answer in words."""

    shares: Annotated[
        dict[Literal["read", "describe", "describe_all", "screen", "screen_direct", "screen_locate"], Share],
        AfterValidator(_some_task),
    ]
    """Shares of the tasks; each step draws its task by them. `read` repeats steps of the stage before, without words
    and with the settings of its section. With `screen_locate`, the checkpoint can be asked with `locate` afterwards."""
    usable_counts: Shares5 | None = None
    """Shares of samples with 0 to 4 usable pictures; by default those of the earlier stages. With fewer usable pictures
    the model learns to hold back when in doubt, because showing a wrong picture costs a shop more than hiding a good
    one."""
    box_weight: Factor = 1.0
    """Weight of the numbers of boxes in the loss; a word has the weight 1. Once the words are learned, the losses of
    the heads are larger than that of the few numbers."""


class PretrainRecipe(Strict):
    """Pretraining of a small model in place of a base model's own; see `trainer.research.pretrain.stages`."""

    pool: PoolRecipe
    vocabulary: Count
    see: SeeStageSettings | None
    """None for a recipe that starts from a checkpoint whose ViT is already trained (`pretrain --start`)."""
    read: HeadsStageSettings
    speak: SpeakStageSettings
    jitter: CountFrom0
    """Maximum random shift of a picture, in pixels at the model's size: in `see`, in `read`, and in the steps of
    `speak` that repeat `read`."""
    usable_counts: Shares5
    """Shares of samples with 0 to 4 usable pictures."""
    seed: Seed

    @property
    def locates(self) -> bool:
        """Whether the model learns to point at issues."""
        return self.speak.shares.get("screen_locate", 0) > 0
