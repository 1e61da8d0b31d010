"""Recipes: every setting of a training run, in one YAML file per model.

Unknown keys are refused, and the resolved recipe is saved with each run, so that a typing error fails at once and a
run can be repeated.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from screening.errors import UserError
from screening.prompt import PROMPTS, Prompt
from trainer.reward import RewardKind
from trainer.training.architecture import Architecture
from trainer.training.hard_cases import HCM_PARTS, Part

RECIPES = Path(__file__).parents[1] / "recipes"


class RecipeError(UserError, ValueError):
    """A recipe is missing or not understood; the message names the file and the field."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_switch_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        """YAML reads `yes` and `on` as true, and pydantic takes that for 1."""
        switch = any(isinstance(one, bool) for one in (value if isinstance(value, list) else [value]))
        if switch and cls.model_fields[str(info.field_name)].annotation is not bool:
            raise ValueError("give a number, not true or false")
        return value


def _not_all_zero(shares: tuple[float, ...]) -> tuple[float, ...]:
    if not sum(shares):
        raise ValueError("at least one share must be above 0")
    return shares


Share = Annotated[float, Field(ge=0, le=1)]
Shares3 = Annotated[tuple[Share, Share, Share], AfterValidator(_not_all_zero)]
Shares4 = Annotated[tuple[Share, Share, Share, Share], AfterValidator(_not_all_zero)]
Shares5 = Annotated[tuple[Share, Share, Share, Share, Share], AfterValidator(_not_all_zero)]
"""Shares are drawn in proportion to each other."""
LARGEST = 10**9
"""Larger counts are typing errors: no training ends that takes so many steps."""
Count = Annotated[int, Field(ge=1, le=LARGEST)]
CountFrom0 = Annotated[int, Field(ge=0, le=LARGEST)]
Factor = Annotated[float, Field(ge=0, le=1000)]
Rate = Annotated[float, Field(gt=0, le=1)]
"""A learning rate. Larger ones than 1 are typing errors with AdamW and Muon."""
WeightDecay = Annotated[float, Field(ge=0, lt=1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
"""What NumPy takes."""


class PoolRecipe(_Strict):
    """Pictures for pretraining."""

    products: Count
    usable_per_product: Count
    defective_per_product: int = Field(ge=4, le=LARGEST)
    """A sample without a usable picture takes four."""
    variations_per_product: CountFrom0 = 0
    """Pictures in which several of the product's attributes are changed at once; see
    `trainer.data.render.defects.vary`."""
    seed: Seed
    render_size: int = Field(ge=32, le=4096)
    """Side in pixels at which pictures are rendered, before they are brought to the model's size."""
    severities: Shares3
    dimension_weights: Shares4
    """Share of appearance, shadow, layout, extension among the planted defects."""
    held_out: Count
    """Products kept out of training, for the numbers in the log."""

    @model_validator(mode="after")
    def _some_are_left(self) -> Self:
        if self.held_out >= self.products:
            raise ValueError(f"held_out {self.held_out} leaves none of the {self.products} products to train on")
        return self


class Course(_Strict):
    """One stage of pretraining: how long, and the learning rate over time."""

    steps: Count
    families_per_step: Count
    """A family is an original with four generated pictures."""
    learning_rate: Rate
    final_rate: float = Field(default=0.02, ge=0, le=1)
    """The cosine ends at this multiple of `learning_rate`."""
    vision_rate: Factor = 1.0
    """Learning rate of the ViT, as a multiple of the others'."""
    warmup_steps: CountFrom0
    weight_decay: WeightDecay
    optimizer: Literal["adamw", "muon"] = "adamw"
    """`muon`: for the matrices of the layers of ViT and language model; the rest is AdamW's either way."""


class HeadsCourse(Course):
    """A stage without words."""

    varied_share: float = Field(default=0.0, ge=0, le=1)
    """Share of the generated pictures that are variations of the product (`variations_per_product` of the pool)."""


def _some_task(shares: Mapping[Any, float]) -> Mapping[Any, float]:
    _not_all_zero(tuple(shares.values()))
    return shares


class SpeakCourse(Course):
    """The stage with words."""

    shares: Annotated[
        dict[Literal["describe", "describe_all", "screen", "screen_direct"], Share], AfterValidator(_some_task)
    ]
    """A step draws its task in these proportions."""
    usable_counts: Shares5 | None = None
    """Share of samples with 0..4 usable pictures, if other than in the stages before. With fewer usable ones the model
    holds back when in doubt: a wrong picture shown costs a shop more than a good one not shown."""


class PretrainRecipe(_Strict):
    """Stands in for the base model's own pretraining; see `trainer.research.pretrain.stages`."""

    pool: PoolRecipe
    vocabulary: Count
    see: HeadsCourse | None
    """None for a recipe that goes on from a checkpoint that sees already (`pretrain --start`)."""
    read: HeadsCourse
    speak: SpeakCourse
    jitter: CountFrom0
    """Pictures are shifted by up to this many pixels at the model's size."""
    usable_counts: Shares5
    """Share of samples with 0..4 usable pictures."""
    seed: Seed


class SftRecipe(_Strict):
    """One SFT stage (paper, section 4 and table 2): ViT and aligner frozen, language model trained."""

    epochs: Count = 5
    batch_size: Count = 8
    gradient_accumulation: Count = 1
    learning_rate: Rate
    warmup_ratio: float = Field(default=0.05, ge=0, lt=1)
    weight_decay: WeightDecay = 0.0
    captions: bool
    """Train on captions of the pictures as well (stage 1.1)."""
    captions_per_sample: Count | None = None
    """Take at most so many of a sample's captions, drawn by the seed: a base that describes already needs few."""
    direct_share: Share = 0.0
    """Share of samples that are asked in Direct mode instead of CoT."""
    gradient_checkpointing: bool = False
    """Keep one tensor per layer for the backward pass and compute the others again: a third more work, same result."""
    save_steps: Count = 200
    """Optimizer steps from one saved state to the next: what a kill costs at most. The result does not depend on it."""
    seed: Seed = 0

    @property
    def deciding(self) -> dict[str, Any]:
        """What decides the weights, as JSON values. A run may be continued with other `save_steps`, and one from before
        `captions_per_sample` took all."""
        excluded = {"save_steps"} | ({"captions_per_sample"} if self.captions_per_sample is None else set())
        return self.model_dump(mode="json", exclude=excluded)


class HcmGrpoRecipe(_Strict):
    """Stage 2 (paper, section 4 and table 2): nothing frozen, rollouts from the model as it is at each step.

    Defaults are table 2's where it has a number: G = 4, beta = 0.04, temperature 1, top_k 3, top_p 0.8, 8 completions
    per device, 3 + 2 epochs. We know no learning rate, clipping range or length limit of it; those are ours.
    """

    reward: RewardKind = "dpa"
    """r_acc of eq. 6: `dpa` (eq. 7) or `exact` (plain GRPO)."""
    epochs: CountFrom0 = 3
    """First epochs, over the whole training set."""
    last_epochs: CountFrom0 = 2
    last_parts: tuple[Part, ...] = HCM_PARTS
    """What each of the last epochs is made of, [] for none; `trainer.training.hard_cases` lists the paper's
    variants."""
    group_size: int = Field(default=4, ge=2, le=LARGEST)
    """G, completions per question; the advantage is taken within them (eq. 2)."""
    batch_size: Count = 8
    """Completions (not questions) per device and pass, as TRL counts."""
    gradient_accumulation: Count = 1
    """Passes per optimizer step; the rollouts of all of them are made at once."""
    learning_rate: Rate
    schedule: Literal["cosine", "constant"] = "cosine"
    """Of the learning rate, after the warm-up. A constant one does not depend on the length of the course, so that
    courses which begin alike can share their beginning (`hcm-grpo --after`)."""
    warmup_ratio: float = Field(default=0.05, ge=0, lt=1)
    weight_decay: WeightDecay = 0.0
    max_grad_norm: float = Field(default=1.0, gt=0)
    scale_rewards: Literal["group", "none"] = "group"
    """`group`: advantages are divided by the standard deviation of the group (eq. 2), that of a sample (G - 1). `none`:
    they are not, so that a small difference of rewards in a group counts for less than a large one (Dr. GRPO, Liu et
    al. 2025)."""
    kl_beta: Factor = 0.04
    """Weight of the KL penalty against the reference model (eq. 3); 0 leaves the reference model out."""
    clip_epsilon: float = Field(default=0.2, gt=0, lt=1)
    """The ratio of eq. 4 is clipped to 1 ± this."""
    temperature: float = Field(default=1.0, gt=0, le=1000)
    top_k: CountFrom0 = 3
    """0 takes all tokens."""
    top_p: float = Field(default=0.8, gt=0, le=1)
    max_completion_tokens: Count
    """Rollouts are cut here; a cut one is not readable and earns nothing."""
    cut_rollouts: bool = False
    """Whether `max_completion_tokens` may be below `max_tokens_cot`, what an answer may have: the model then learns to
    answer in fewer tokens. `plan` refuses it unless it is meant."""
    vllm: Literal["none", "colocate"] = "none"
    """Rollouts by transformers' `generate`, or by a vLLM engine on the same GPU."""
    vllm_memory: float = Field(default=0.3, gt=0, lt=1)
    """Share of the GPU's memory that the colocated engine takes: weights, KV cache and its own activations."""
    gradient_checkpointing: bool = True
    save_steps: Count = 50
    """As in SFT."""
    seed: Seed = 0

    @property
    def deciding(self) -> dict[str, Any]:
        """What decides the weights, as JSON values. A run may be continued with other `save_steps`; `cut_rollouts` is
        for `plan`; and a run from before a setting of `_LATER` had what is its default now."""
        found = self.model_dump(mode="json", exclude={"save_steps", "cut_rollouts"})
        defaults = type(self).model_fields
        return {name: value for name, value in found.items() if name not in _LATER or value != defaults[name].default}


_LATER = ("schedule", "scale_rewards")
"""Settings of stage 2 that recipes did not have at first."""


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
    hcm_grpo: HcmGrpoRecipe | None = None
    """Stage 2; None ends the training after stage 1."""
    max_tokens_cot: Count

    @property
    def prompt_texts(self) -> Prompt:
        return PROMPTS[self.prompt]


def load_recipe(name_or_path: str) -> Recipe:
    """Read a recipe by name (`tiny`) or path.

    A recipe may begin with `extends: NAME_OR_PATH`: it then says only what is different, key by key down the tree.

    Raises:
        RecipeError: there is no such recipe, or it has unknown, missing or wrong fields.
    """
    path = _path_of(name_or_path)
    try:
        return Recipe.model_validate(_read(path))
    except ValidationError as error:
        raise RecipeError(f"{path}, {_first(error)}") from error


def _first(error: ValidationError) -> str:
    """What is wrong, as one sentence: a field with its value, those that are there before those that are missing."""
    found = sorted(error.errors(include_url=False), key=lambda one: one["type"] == "missing")
    first, *others = found
    given = f" (it is {first['input']!r})" if isinstance(first["input"], str | int | float) else ""
    more = f"; also wrong: {', '.join(map(_field, others[:3]))}{', …' if len(others) > 3 else ''}" if others else ""
    return f"{_field(first)}: {first['msg'].removeprefix('Value error, ')}{given}{more}"


def _field(error: Any) -> str:
    return ".".join(str(part) for part in error["loc"]) or "the file"


def _path_of(name_or_path: str) -> Path:
    path = Path(name_or_path)
    if not path.suffix:
        path = RECIPES / f"{name_or_path}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in RECIPES.glob("*.yaml")))
        raise RecipeError(
            f"there is no recipe {name_or_path!r}; shipped ones: {known}; or give the path of a YAML file"
        )
    return path


def _read(path: Path, readers: tuple[Path, ...] = ()) -> Any:
    """The file's content, merged into that of the recipe that it extends."""
    if path.resolve() in readers:
        raise RecipeError(f"{path} extends itself")
    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RecipeError(f"{path} cannot be read ({error.strerror})") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(settings, dict) or "extends" not in settings:
        return settings
    parent = settings.pop("extends")
    if not isinstance(parent, str):
        raise RecipeError(f"{path}: `extends` is the name of a recipe, or the path of one")
    beside = path.parent / parent
    return _merged(_read(beside if beside.is_file() else _path_of(parent), (*readers, path.resolve())), settings)


def _merged(old: Any, new: Any) -> Any:
    if not isinstance(old, dict) or not isinstance(new, dict):
        return new
    return {**old, **{key: _merged(old.get(key), value) for key, value in new.items()}}
