"""Sections `sft_weak`, `sft_answer` and `hcm_grpo`: the stages of the method, with LoRA and validation."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, field_validator, model_validator

from screening.runtime.extensions import find
from trainer.reward import REWARDS
from trainer.training.hard_cases.curriculum import HCM_PARTS, Part
from trainer.training.recipe.fields import LARGEST, Count, CountFrom0, Factor, Rate, Seed, Share, Strict, WeightDecay

InFull = Literal["projector", "embeddings", "head"]
"""Parts of a model that LoRA may train in full."""


class LoraRecipe(Strict):
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


class ValidationRecipe(Strict):
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

BOX_TOKENS = 256
"""Number of tokens that an answer may have for boxes: eight boxes of 32 tokens."""
_Locate = Annotated[Share, Field(exclude_if=lambda share: share == 0)]
"""Left out of the resolved recipe if it is 0, so that recipes without it keep their record."""


class SftRecipe(Strict):
    """Settings of one SFT stage (paper, section 4 and table 2): ViT and aligner are frozen."""

    undeciding: ClassVar[frozenset[str]] = frozenset({"save_steps", "gradient_checkpointing"})
    """Settings that do not decide the weights. A run may be continued with others, for example after it ran out of
    memory."""

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
    locate: _Locate = 0.0
    """Share of the CoT samples with known boxes that are asked where each issue is, in place of the plain question.
    Above 0, the checkpoint can be asked with `locate` afterwards."""
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
        """The settings that decide the weights, as JSON values."""
        return self.model_dump(mode="json", exclude=set(self.undeciding))


def _reward(name: str) -> str:
    find(name, REWARDS, "reward")  # so that a typing error is found before the training
    return name


class HcmGrpoRecipe(Strict):
    """Settings of stage 2 (paper, section 4 and table 2): all weights are trained, on rollouts of the current model.

    Defaults are those of table 2: G = 4, beta = 0.04, temperature 1, top_k 3, top_p 0.8, 8 completions per device,
    3 + 2 epochs. The paper does not state learning rate, clipping range and length limit; those are ours.
    """

    undeciding: ClassVar[frozenset[str]] = frozenset(
        {"save_steps", "gradient_checkpointing", "cut_rollouts", "vllm_memory", "vllm_server", "vllm_sleep"}
    )
    """Settings that do not decide the weights, as in SFT. `cut_rollouts` concerns only `plan`."""

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
        if self.vllm == "colocate" and self.lora and self.lora.bits == 4:
            raise ValueError(
                "lora.bits 4 cannot be combined with `vllm: colocate`: TRL would load the engine in 4 bits as well, "
                "which this vLLM does not support. Set `bits: 16`, or `vllm: none` or `vllm: server`"
            )
        return self

    @property
    def deciding(self) -> dict[str, Any]:
        """The settings that decide the weights, as JSON values."""
        return self.model_dump(mode="json", exclude=set(self.undeciding))
