"""Computes the stages of a recipe, with their schedule and memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from trainer.training.plan.adapters import find_adapters
from trainer.training.plan.memory import GIB, EngineMemory, Memory, engine_memory, grpo_memory, sft_memory
from trainer.training.plan.parameters import Parameters
from trainer.training.plan.schedule import GrpoSchedule, SftSchedule, grpo_schedule, sft_schedule
from trainer.training.plan.shapes import Shapes
from trainer.training.plan.tokens import Tokens
from trainer.training.recipe.recipe import Recipe
from trainer.training.recipe.stages import BOX_TOKENS, HcmGrpoRecipe, LoraRecipe, SftRecipe

PAPER_SAMPLES = 1044
"""Size of the paper's training split (table 1)."""

PAPER_WEAK_SAMPLES = 10724
"""Size of the paper's pseudo-label split (table 1), for stage 1.1."""

PAPER_HARD_SHARE = 434 / 1044
"""Share of hard cases in the training set for the paper's 2B model (section 4). A run's own share is known only after
its stage 1."""


MARGIN = 0.06
"""Share of a GPU's memory that a plan leaves free: the estimate was not compared with a GPU, a fragmented allocator
needs more than it holds, and a run may run out of memory only after hours."""

EIGHTY_GB = 79.1
"""GiB that torch reports on cards sold as 80 GB: 79.1 on H100, 79.2 on A100. nvidia-smi shows 81,559 and 81,920 MiB,
which include the driver's share; for an H200 it shows 143,771 MiB."""


@dataclass(frozen=True, slots=True)
class Hardware:
    """GPUs that train data-parallel."""

    gpus: int
    gpu_memory: float
    """Memory of each GPU in GiB."""
    sharded: bool = False
    """Whether FSDP2 divides the model among the GPUs; otherwise each holds the whole model."""

    @property
    def gpu_bytes(self) -> float:
        return self.gpu_memory * GIB

    @property
    def usable_bytes(self) -> float:
        """Bytes per GPU that a plan may use."""
        return self.gpu_bytes * (1 - MARGIN)


@dataclass(frozen=True, slots=True)
class DataSize:
    """The amount of training data."""

    samples: int
    weak_samples: int
    """Samples of stage 1.1; 0 leaves this stage out."""
    weak_captions: int
    """Pictures of stage 1.1 that have a caption."""
    hard_cases: int
    assumed: tuple[str, ...] = ()
    """Descriptions of the numbers that are assumed."""


@dataclass(frozen=True, slots=True)
class StagePlan:
    """One stage of training."""

    name: str
    trained: int
    frozen: int
    memory: Memory
    schedule: SftSchedule | GrpoSchedule
    engine: EngineMemory | None = None


@dataclass(frozen=True, slots=True)
class Case:
    """The inputs of a plan: a recipe, its model, its data and the hardware."""

    recipe: Recipe
    source: str
    """Source of the architecture, in words."""
    shapes: Shapes
    parameters: Parameters
    tokens: Tokens
    hardware: Hardware
    data: DataSize

    @property
    def sft_stages(self) -> Sequence[tuple[str, SftRecipe]]:
        """SFT stages that have samples, by the names of their sections in the recipe."""
        answer = ("sft_answer", self.recipe.sft_answer)
        return (("sft_weak", self.recipe.sft_weak), answer) if self.data.weak_samples else (answer,)

    @property
    def completion_limit(self) -> int:
        """Maximum length of a completion in any stage, in tokens."""
        grpo = self.recipe.hcm_grpo
        return max(self.recipe.max_tokens_cot, grpo.max_completion_tokens if grpo else 0)

    @property
    def longest_sample(self) -> int:
        """Maximum length of question and answer in any stage, in tokens."""
        in_sft = (sum(self.sft_tokens(sft)) for _, sft in self.sft_stages)
        return max(self.tokens.prompt + self.completion_limit, *in_sft)

    def sft_tokens(self, sft: SftRecipe) -> tuple[int, int]:
        """Tokens of the longest question of an SFT stage, and of its longest answer."""
        answer = self.recipe.max_tokens_cot
        return (self.tokens.locating_prompt, answer + BOX_TOKENS) if sft.locate else (self.tokens.prompt, answer)

    def sft_memory(self, sft: SftRecipe) -> Memory:
        """Memory of one GPU in an SFT stage with these settings."""
        prompt, answer = self.sft_tokens(sft)
        return sft_memory(
            sft,
            self.parameters,
            self.shapes,
            prompt=prompt,
            answer=answer,
            gpus=self.hardware.gpus,
            sharded=self.hardware.sharded,
        )

    def grpo_memory(self, grpo: HcmGrpoRecipe) -> Memory:
        """Memory of one GPU in stage 2 with these settings."""
        return grpo_memory(
            grpo,
            self.parameters,
            self.shapes,
            prompt=self.tokens.prompt,
            gpus=self.hardware.gpus,
            gpu_memory=self.hardware.gpu_bytes,
            sharded=self.hardware.sharded,
        )

    def engine(self, grpo: HcmGrpoRecipe) -> EngineMemory | None:
        """Memory of the colocated vLLM with these settings; None without one."""
        return engine_memory(
            grpo, self.parameters, self.shapes, prompt=self.tokens.prompt, gpu_memory=self.hardware.gpu_bytes
        )

    def grpo_schedule(self, grpo: HcmGrpoRecipe) -> GrpoSchedule:
        """Schedule of stage 2 with these settings."""
        return grpo_schedule(grpo, self.data.samples, self.data.hard_cases, self.hardware.gpus)

    def trained(self, lora: LoraRecipe | None, *, vision: bool) -> int:
        """Number of trained parameters of a stage, adapters included."""
        if lora:
            return find_adapters(self.parameters, lora, vision=vision).trained
        return self.parameters.trained(vision=vision)

    def stages(self) -> Iterator[StagePlan]:
        """The stages of the recipe, in order."""
        for name, sft in self.sft_stages:
            trained = self.trained(sft.lora, vision=False)
            samples = self.data.weak_samples if name == "sft_weak" else self.data.samples
            # Stage 1.2 is assumed to have as many captions per sample as stage 1.1.
            captions = self.data.weak_captions * samples // max(self.data.weak_samples, 1)
            schedule = sft_schedule(sft, samples, captions, self.hardware.gpus)
            frozen = self.parameters.total - (0 if sft.lora else trained)
            yield StagePlan(name, trained, frozen, self.sft_memory(sft), schedule)
        if grpo := self.recipe.hcm_grpo:
            memory, engine, trained = self.grpo_memory(grpo), self.engine(grpo), self.trained(grpo.lora, vision=True)
            frozen = self.parameters.total if grpo.lora else 0
            yield StagePlan("hcm_grpo", trained, frozen, memory, self.grpo_schedule(grpo), engine)
