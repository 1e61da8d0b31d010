"""Recipes: every setting of a training run, in one YAML file per model.

Unknown keys are refused, so that a typing error fails at once. The resolved recipe is saved with each run, so that the
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
    Discriminator,
    Field,
    Tag,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from screening.errors import UserError
from screening.prompt import PROMPTS, Prompt
from screening.runtime.extensions import find
from trainer.prompt_texts import PromptError, PromptTexts, load_texts
from trainer.reward import REWARDS
from trainer.training.architecture import Architecture
from trainer.training.hard_cases import HCM_PARTS, Part

RECIPES = Path(__file__).parents[1] / "recipes"


class RecipeError(UserError, ValueError):
    """A recipe is missing or wrong, or its training cannot start; the message names the file and the field."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_switch_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse booleans for numbers: YAML reads `yes` and `on` as true, which pydantic would take for 1."""
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
"""Shares are relative to each other; they need not add up to 1."""
LARGEST = 10**9
"""Maximum of a count. A larger one is a typing error: a training with so many steps would never end."""
Count = Annotated[int, Field(ge=1, le=LARGEST)]
CountFrom0 = Annotated[int, Field(ge=0, le=LARGEST)]
Factor = Annotated[float, Field(ge=0, le=1000)]
Rate = Annotated[float, Field(gt=0, le=1)]
"""A learning rate. With AdamW and Muon, a rate above 1 is a typing error."""
WeightDecay = Annotated[float, Field(ge=0, lt=1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
"""A seed in the range that NumPy accepts."""
InFull = Literal["projector", "embeddings", "head"]
"""Parts of a model that LoRA may train in full."""


class PoolRecipe(_Strict):
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
    """Shares of the dimensions that the renderer draws among the planted defects, in the order of
    `trainer.data.render.DIMENSION_WEIGHTS`: appearance, shadow, layout, extension."""
    held_out: Count
    """Number of products kept out of training, on which the log's measurements are made."""

    @model_validator(mode="after")
    def _some_are_left(self) -> Self:
        if self.held_out >= self.products:
            raise ValueError(f"held_out {self.held_out} leaves none of the {self.products} products for training")
        return self


class StageSettings(_Strict):
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
    optimizer: Literal["adamw", "muon"] = "adamw"
    """`muon` trains the matrices in the layers of ViT and language model with Muon, and the rest with AdamW."""


class HeadsStageSettings(StageSettings):
    """Settings of a stage that trains classification heads, without words."""

    varied_share: float = Field(default=0.0, ge=0, le=1)
    """Share of the generated pictures that are variations of the product (`variations_per_product` of the pool)."""


def _some_task(shares: Mapping[Any, float]) -> Mapping[Any, float]:
    _not_all_zero(tuple(shares.values()))
    return shares


class SpeakStageSettings(StageSettings):
    """Settings of the stage that trains the language model to answer in words."""

    shares: Annotated[
        dict[Literal["describe", "describe_all", "screen", "screen_direct"], Share], AfterValidator(_some_task)
    ]
    """Shares of the tasks; each step draws its task by them."""
    usable_counts: Shares5 | None = None
    """Shares of samples with 0 to 4 usable pictures; by default those of the earlier stages. With fewer usable pictures
    the model learns to hold back when in doubt, because showing a wrong picture costs a shop more than hiding a good
    one."""


class PretrainRecipe(_Strict):
    """Pretraining of a small model in place of a base model's own; see `trainer.research.pretrain.stages`."""

    pool: PoolRecipe
    vocabulary: Count
    see: HeadsStageSettings | None
    """None for a recipe that starts from a checkpoint whose ViT is already trained (`pretrain --start`)."""
    read: HeadsStageSettings
    speak: SpeakStageSettings
    jitter: CountFrom0
    """Maximum random shift of a picture, in pixels at the model's size."""
    usable_counts: Shares5
    """Shares of samples with 0 to 4 usable pictures."""
    seed: Seed


class LoraRecipe(_Strict):
    """Settings of LoRA (Hu et al. 2021). An adapted layer W x becomes W x + alpha / rank * B A x, and only A and B are
    trained. The checkpoint holds the sum, so it has the form of any other.
    """

    rank: int = Field(ge=1, le=8192)
    """Rows of A and columns of B. A rank above the smaller side of a layer's matrix only costs memory."""
    alpha: Factor
    """Scale of the adapters, relative to `rank`."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of an adapter's inputs that are set to zero in training."""
    target: Literal["all-linear"] | tuple[str, ...] = "all-linear"
    """Layers that get an adapter: `all-linear` for every linear layer of the parts that the stage trains (SFT: the
    language model; stage 2: ViT and projector too), or a list of the last parts of layers' names, such as
    [q_proj, v_proj]. The head gets no adapter; see `in_full`."""
    in_full: tuple[InFull, ...] = ()
    """Parts that are trained in full, in float32: of `projector` (stage 2 only), `embeddings` and `head`. Every other
    weight without an adapter is frozen, which includes norms and biases."""
    bits: Literal[16, 4] = 16
    """Bits per frozen weight in the training: 16 for bfloat16; 4 for QLoRA (Dettmers et al. 2023), NF4 with double
    quantization in the matrices of the language model's layers."""

    @field_validator("alpha")
    @classmethod
    def _some_scale(cls, alpha: float) -> float:
        if not alpha:
            raise ValueError("with alpha 0 the adapters have no effect. Give a number above 0, such as twice the rank")
        return alpha

    @field_validator("target")
    @classmethod
    def _some_target(cls, target: str | tuple[str, ...]) -> str | tuple[str, ...]:
        if not target or not all(target):
            raise ValueError("name at least one layer, such as [q_proj, v_proj], or give all-linear")
        return target


class ValidationRecipe(_Strict):
    """Settings of the validation while a stage trains. The run publishes the weights with the best score."""

    every_steps: Count
    """Optimizer steps between two scores. The last step is always scored."""
    samples: Count = 100
    """Maximum number of validation samples that are asked, drawn once by the stage's seed."""
    patience: Count | None = None
    """Number of scores in a row without a gain after which the training stops; None never stops early."""
    min_gain: float = Field(default=0.0, ge=0, le=100)
    """Percentage points by which a score must exceed the best one before it to be a gain."""


FLASH = "flash_attention_2"
_Optimizer = Annotated[Literal["adamw", "adamw_8bit"], Field(exclude_if=lambda name: name == "adamw")]
_Attention = Annotated[Literal["sdpa", "flash_attention_2"], Field(exclude_if=lambda name: name == "sdpa")]
"""Left out of the resolved recipe if they have their defaults, so that recipes without them keep their record."""
_Validation = Annotated[ValidationRecipe | None, Field(exclude_if=lambda settings: settings is None)]
"""Left out of the resolved recipe if it is None, so that recipes without it keep their record."""


class SftRecipe(_Strict):
    """Settings of one SFT stage (paper, section 4 and table 2): ViT and aligner are frozen."""

    epochs: Count = 5
    batch_size: Count = 8
    gradient_accumulation: Count = 1
    learning_rate: Rate
    warmup_ratio: float = Field(default=0.05, ge=0, lt=1)
    weight_decay: WeightDecay = 0.0
    optimizer: _Optimizer = "adamw"
    """Optimizer: AdamW, with its two moments in float32 or quantized to 8 bits in blocks of 256 values (bitsandbytes;
    Dettmers et al. 2022). The embeddings' moments stay in float32."""
    attention: _Attention = "sdpa"
    """Kernels of the attention: `sdpa` for torch's own, `flash_attention_2` for those of the package flash-attn, which
    need a GPU."""
    captions: bool
    """Whether to train on captions of the pictures as well, as in stage 1.1."""
    captions_per_sample: Count | None = None
    """Maximum number of captions per sample, drawn by the seed; None for all. A base model that can already describe
    pictures needs few."""
    direct_share: Share = 0.0
    """Share of samples that are asked in Direct mode instead of CoT."""
    gradient_checkpointing: bool = False
    """Keep one tensor per layer for the backward pass and recompute the others: a third more work, the same result."""
    save_steps: Count = 200
    """Optimizer steps between saved states; a kill loses at most so many. The result does not depend on it."""
    seed: Seed = 0
    lora: LoraRecipe | None = None
    """Adapters in place of full fine-tuning; None trains all weights that are not frozen."""
    validation: _Validation = None
    """Scores on `--validation` while the stage trains; None publishes the last weights."""

    @field_validator("lora")
    @classmethod
    def _frozen_projector(cls, lora: LoraRecipe | None) -> LoraRecipe | None:
        if lora and "projector" in lora.in_full:
            raise ValueError("SFT freezes the projector. Remove `projector` from in_full; stage 2 may have it")
        return lora

    @property
    def deciding(self) -> dict[str, Any]:
        """The settings that decide the weights, as JSON values. A run may be continued with other `save_steps`."""
        return self.model_dump(mode="json", exclude={"save_steps"})


def _reward(name: str) -> str:
    find(name, REWARDS, "reward")  # so that a typing error is found before the training
    return name


class HcmGrpoRecipe(_Strict):
    """Settings of stage 2 (paper, section 4 and table 2): all weights are trained, on rollouts of the current model.

    Defaults are those of table 2: G = 4, beta = 0.04, temperature 1, top_k 3, top_p 0.8, 8 completions per device,
    3 + 2 epochs. The paper does not state learning rate, clipping range and length limit; those are ours.
    """

    reward: Annotated[str, AfterValidator(_reward)] = "dpa"
    """r_acc of eq. 6: `dpa` (eq. 7), `exact` (plain GRPO), or `package.module:name`, a reward of your own."""
    epochs: CountFrom0 = 3
    """Number of first epochs, each over the whole training set."""
    last_epochs: CountFrom0 = 2
    """Number of last epochs, each over `last_parts`."""
    last_parts: tuple[Part, ...] = HCM_PARTS
    """Parts of which each of the last epochs is made, [] for none; `trainer.training.hard_cases.curriculum` lists the
    paper's variants."""
    group_size: int = Field(default=4, ge=2, le=LARGEST)
    """G: completions per question, among which the advantage is computed (eq. 2)."""
    batch_size: Count = 8
    """Completions (not questions) per device and pass, as TRL counts them."""
    gradient_accumulation: Count = 1
    """Passes per optimizer step; their rollouts are generated together."""
    learning_rate: Rate
    schedule: Literal["cosine", "constant"] = "cosine"
    """Learning rate after the warm-up. A constant rate does not depend on the length of the curriculum, as a warm start
    (`hcm-grpo --after`) needs it."""
    warmup_ratio: float = Field(default=0.05, ge=0, lt=1)
    weight_decay: WeightDecay = 0.0
    optimizer: _Optimizer = "adamw"
    """Optimizer, as in SFT."""
    attention: _Attention = "sdpa"
    """Kernels of the attention, as in SFT. With `flash_attention_2` rollouts and forward passes read a prompt once per
    completion, not once per group."""
    max_grad_norm: float = Field(default=1.0, gt=0)
    scale_rewards: Literal["group", "none"] = "group"
    """`group` divides advantages by the sample standard deviation of the group (eq. 2; divisor G - 1). `none` does not,
    so that a small difference of rewards in a group counts less than a large one (Dr. GRPO, Liu et al. 2025)."""
    kl_beta: Factor = 0.04
    """Weight of the KL penalty against the reference model (eq. 3); with 0 no reference model is loaded."""
    clip_epsilon: float = Field(default=0.2, gt=0, lt=1)
    """Clipping range: the ratio of eq. 4 is clipped to 1 ± this value."""
    temperature: float = Field(default=1.0, gt=0, le=1000)
    top_k: CountFrom0 = 3
    """Number of most probable tokens to sample from; 0 for all."""
    top_p: float = Field(default=0.8, gt=0, le=1)
    max_completion_tokens: Count
    """Maximum length of a rollout in tokens. A longer one is cut, unreadable, and earns no reward."""
    cut_rollouts: bool = False
    """Whether `max_completion_tokens` may be below `max_tokens_cot`, the maximum length of an answer. The model then
    learns to answer in fewer tokens. If this is false, `plan` reports it as a problem."""
    vllm: Literal["none", "colocate", "server"] = "none"
    """Engine of the rollouts: `none` for transformers in the training process, `colocate` for vLLM on the same GPU,
    `server` for a vLLM server on GPUs of its own."""
    vllm_memory: float = Field(default=0.3, gt=0, lt=1)
    """Share of the GPU's memory for the colocated engine: its weights, KV cache and activations."""
    vllm_sleep: bool = False
    """Whether the colocated engine releases its memory between rollouts; all weights are copied to it for the next."""
    vllm_server: str | None = Field(default=None, pattern=r"^https?://\S+$")
    """Base URL of the server, such as http://HOST:8000; needed for `vllm: server`."""
    gradient_checkpointing: bool = True
    save_steps: Count = 50
    """Optimizer steps between saved states, as in SFT."""
    seed: Seed = 0
    lora: LoraRecipe | None = None
    """Adapters in place of full fine-tuning; None trains all weights. With adapters, the reference is the same model
    with its adapters off, so it takes no memory of its own."""
    validation: _Validation = None
    """Scores on `--validation` while the stage trains; None publishes the last weights."""

    @model_validator(mode="after")
    def _one_engine(self) -> Self:
        if (self.vllm == "server") != bool(self.vllm_server):
            raise ValueError("`vllm: server` and `vllm_server: URL` need each other. Set both, or neither")
        if self.vllm_sleep and self.vllm != "colocate":
            raise ValueError("vllm_sleep is for a colocated engine. Set `vllm: colocate`, or remove vllm_sleep")
        return self

    @model_validator(mode="after")
    def _exact_reference(self) -> Self:
        if self.lora and self.vllm != "none":
            # TRL adds the adapters to the frozen weights before it copies them to vLLM, and subtracts them afterwards.
            raise ValueError(
                "lora needs `vllm: none`. For each step, TRL would add the adapters to the 16-bit weights for vLLM and "
                "subtract them again, and rounding would change the frozen weights, which are also the reference"
            )
        return self

    @property
    def deciding(self) -> dict[str, Any]:
        """The settings that decide the weights, as JSON values. A run may be continued with other `save_steps` and on
        another server, and `cut_rollouts` concerns only `plan`."""
        return self.model_dump(mode="json", exclude={"save_steps", "cut_rollouts", "vllm_server", "vllm_sleep"})


_TEXTS = "texts"
_PromptChoice = Annotated[
    Annotated[Literal["standard", "compact"], Tag("name")] | Annotated[PromptTexts, Tag(_TEXTS)],
    Discriminator(lambda prompt: "name" if isinstance(prompt, str) else _TEXTS),
]


class Recipe(_Strict):
    """All settings that make one model."""

    name: str
    base: str | None = None
    """Model to start from (a directory or a hub name); None starts from random weights with `architecture`."""
    prompt: _PromptChoice
    """What the model is asked: `standard`, `compact`, or texts of your own under the keys `cot` and `direct`. A file
    with these keys may hold the texts: give its path, or the name of a shipped one (`paper`)."""
    architecture: Architecture | None = None
    pretrain: PretrainRecipe | None = None
    sft_weak: SftRecipe
    """Stage 1.1: captions and weakly supervised reasoning."""
    sft_answer: SftRecipe
    """Stage 1.2: answer-driven reasoning."""
    hcm_grpo: HcmGrpoRecipe | None = None
    """Stage 2; None if the training ends after stage 1."""
    max_tokens_cot: Count

    @property
    def prompt_texts(self) -> Prompt:
        return self.prompt.prompt if isinstance(self.prompt, PromptTexts) else PROMPTS[self.prompt]

    def refuse_other_prompt(self, asked: Prompt) -> None:
        """Refuse a checkpoint that is asked with other texts than those that the recipe states.

        Args:
            asked: the prompt of the checkpoint from which a training starts. With a built-in prompt in the recipe, the
                checkpoint may have another version of it, and keeps that.

        Raises:
            RecipeError: the prompts differ.
        """
        if isinstance(self.prompt, PromptTexts) and asked != self.prompt_texts:
            raise RecipeError(
                f"recipe {self.name!r} states the prompt {self.prompt_texts.version}, but the checkpoint is asked with "
                f"{asked.version}, which a training does not change. Start from a base model that `trainer import` "
                "gave this prompt, or write `prompt: standard`, with which a checkpoint keeps its own"
            )

    @property
    def stage_2(self) -> HcmGrpoRecipe:
        """The settings of stage 2.

        Raises:
            RecipeError: the recipe has none.
        """
        if self.hcm_grpo is None:
            raise RecipeError(f"recipe {self.name!r} has no section `hcm_grpo`, which stage 2 needs")
        return self.hcm_grpo


def load_recipe(name_or_path: str) -> Recipe:
    """Read a recipe by name (`tiny`) or path.

    A recipe with `extends: NAME_OR_PATH` states only the keys, at any depth, that differ from that recipe.

    Raises:
        RecipeError: the recipe does not exist, or has unknown, missing or wrong fields.
    """
    path = _path_of(name_or_path)
    try:
        return Recipe.model_validate(_read(path))
    except ValidationError as error:
        raise RecipeError(f"{path}, {_first(error)}") from error


def _first(error: ValidationError) -> str:
    """The first error as one sentence with field and value. Wrong fields come before missing ones."""
    found = sorted(error.errors(include_url=False), key=lambda one: one["type"] == "missing")
    first, *others = found
    given = f" (it is {repr(first['input'])[:100]})" if isinstance(first["input"], str | int | float) else ""
    more = f"; also wrong: {', '.join(map(_field, others[:3]))}{', …' if len(others) > 3 else ''}" if others else ""
    return f"{_field(first)}: {first['msg'].removeprefix('Value error, ')}{given}{more}"


def _field(error: Any) -> str:
    return ".".join(str(part) for part in error["loc"] if part != _TEXTS) or "the file"


def _path_of(name_or_path: str) -> Path:
    path = Path(name_or_path)
    if not path.suffix:
        path = RECIPES / f"{name_or_path}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in RECIPES.glob("*.yaml")))
        raise RecipeError(
            f"recipe {name_or_path!r} does not exist. Give the path of a YAML file, or a shipped recipe: {known}"
        )
    return path


def _read(path: Path, readers: tuple[Path, ...] = ()) -> Any:
    """The content of a recipe file, merged into the recipe that it extends."""
    if path.resolve() in readers:
        raise RecipeError(f"{path} extends itself")
    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RecipeError(f"{path} cannot be read ({error.strerror})") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(settings, dict):
        return settings
    if isinstance(prompt := settings.get("prompt"), str) and prompt not in PROMPTS:
        settings["prompt"] = _texts(path, prompt)
    if "extends" not in settings:
        return settings
    parent = settings.pop("extends")
    if not isinstance(parent, str):
        raise RecipeError(f"{path}: `extends` must be the name or the path of a recipe")
    beside = path.parent / parent
    return _merged(_read(beside if beside.is_file() else _path_of(parent), (*readers, path.resolve())), settings)


def _texts(recipe: Path, prompt: str) -> Any:
    """The texts of the file that a recipe names as its prompt."""
    try:
        return load_texts(prompt, beside=recipe.parent).model_dump()
    except PromptError as error:
        raise RecipeError(f"{recipe}, prompt: {error}") from error


def _merged(old: Any, new: Any) -> Any:
    if not isinstance(old, dict) or not isinstance(new, dict):
        return new
    return {**old, **{key: _merged(old.get(key), value) for key, value in new.items()}}
