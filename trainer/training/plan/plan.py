"""What a recipe comes to: the stages with their schedule and memory, and what keeps the recipe from working."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from trainer.training.plan.memory import GIB, Engine, Memory, engine_memory, grpo_memory, sft_memory
from trainer.training.plan.parameters import Parameters
from trainer.training.plan.schedule import GrpoSchedule, SftSchedule, grpo_schedule, sft_schedule
from trainer.training.plan.shapes import Shapes
from trainer.training.plan.tokens import Tokens
from trainer.training.recipe import HcmGrpoRecipe, Recipe, SftRecipe

PAPER_SAMPLES = 1044
"""The paper's training split (table 1)."""

PAPER_WEAK_SAMPLES = 10724
"""The paper's pseudo-label split (table 1), for stage 1.1."""

PAPER_HARD_SHARE = 434 / 1044
"""Of the training set, for the 2B model (section 4). What a run's share is, its stage-1 model will show."""


MARGIN = 0.06
"""Share of a GPU that a plan leaves free. The estimate was not compared with a GPU, a fragmented allocator needs more
than it holds, and a run that ends for want of memory ends after hours."""

EIGHTY_GB = 79.1
"""GiB that torch finds on cards sold with 80 GB: H100 79.1, A100 79.2. nvidia-smi shows 81,559 MiB and 81,920 MiB, with
what the driver keeps; an H200 shows 143,771 MiB."""


@dataclass(frozen=True, slots=True)
class Hardware:
    """GPUs that train together, data parallel, each with all of the model."""

    gpus: int
    gpu_memory: float
    """Of each, in GiB."""

    @property
    def gpu_bytes(self) -> float:
        return self.gpu_memory * GIB

    @property
    def usable_bytes(self) -> float:
        """What a plan may fill."""
        return self.gpu_bytes * (1 - MARGIN)


@dataclass(frozen=True, slots=True)
class DataSize:
    """How much there is to train on."""

    samples: int
    weak_samples: int
    """For stage 1.1."""
    weak_captions: int
    """Pictures with a caption among those of stage 1.1."""
    hard_cases: int
    assumed: tuple[str, ...] = ()
    """What of this is not known but assumed, in words."""


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage of training."""

    name: str
    trained: int
    frozen: int
    memory: Memory
    schedule: SftSchedule | GrpoSchedule
    engine: Engine | None = None


@dataclass(frozen=True, slots=True)
class Case:
    """A recipe, its model, its data and the machine: all that a plan is computed from."""

    recipe: Recipe
    source: str
    """Where the architecture is from."""
    shapes: Shapes
    parameters: Parameters
    tokens: Tokens
    hardware: Hardware
    data: DataSize

    @property
    def sft_stages(self) -> Sequence[tuple[str, SftRecipe]]:
        """Names of the recipe's sections, which name the stages, and their settings."""
        return (("sft_weak", self.recipe.sft_weak), ("sft_answer", self.recipe.sft_answer))

    @property
    def completion_limit(self) -> int:
        """The longest completion of any stage, tokens."""
        grpo = self.recipe.hcm_grpo
        return max(self.recipe.max_tokens_cot, grpo.max_completion_tokens if grpo else 0)

    def sft_memory(self, sft: SftRecipe) -> Memory:
        """One GPU in an SFT stage with these settings."""
        return sft_memory(
            sft,
            self.parameters,
            self.shapes,
            prompt=self.tokens.prompt,
            answer=self.recipe.max_tokens_cot,
            gpus=self.hardware.gpus,
        )

    def grpo_memory(self, grpo: HcmGrpoRecipe) -> Memory:
        """One GPU in stage 2 with these settings."""
        return grpo_memory(
            grpo,
            self.parameters,
            self.shapes,
            prompt=self.tokens.prompt,
            gpus=self.hardware.gpus,
            gpu_memory=self.hardware.gpu_bytes,
        )

    def engine(self, grpo: HcmGrpoRecipe) -> Engine | None:
        """The colocated vLLM with these settings."""
        return engine_memory(
            grpo, self.parameters, self.shapes, prompt=self.tokens.prompt, gpu_memory=self.hardware.gpu_bytes
        )

    def grpo_schedule(self, grpo: HcmGrpoRecipe) -> GrpoSchedule:
        """Steps of stage 2 with these settings."""
        return grpo_schedule(grpo, self.data.samples, self.data.hard_cases, self.hardware.gpus)

    def stages(self) -> Iterator[Stage]:
        """The stages that the recipe has, in order."""
        trained = self.parameters.trained(vision=False)
        for name, sft in self.sft_stages:
            samples = self.data.weak_samples if name == "sft_weak" else self.data.samples
            # A recipe that wants captions in stage 1.2 finds as many per sample as there are in stage 1.1.
            captions = self.data.weak_captions * samples // max(self.data.weak_samples, 1)
            schedule = sft_schedule(sft, samples, captions, self.hardware.gpus)
            yield Stage(name, trained, self.parameters.total - trained, self.sft_memory(sft), schedule)
        if grpo := self.recipe.hcm_grpo:
            memory, engine = self.grpo_memory(grpo), self.engine(grpo)
            yield Stage("hcm_grpo", self.parameters.total, 0, memory, self.grpo_schedule(grpo), engine)
