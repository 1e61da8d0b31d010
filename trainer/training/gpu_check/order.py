"""The order of a measurement: the model, the batches, and the bytes that `plan` estimates, as JSON values."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from screening.errors import UserError

if TYPE_CHECKING:
    from transformers import InternVLConfig

Stage = Literal["sft", "hcm_grpo"]


class Use(StrEnum):
    """Uses of memory, in the order of the report."""

    WEIGHTS = "weights"
    REFERENCE = "reference model"
    GRADIENTS = "gradients"
    OPTIMIZER = "optimizer (AdamW)"
    ROLLOUTS = "rollouts: KV cache, copies"
    """Copies are those of weights in bfloat16."""
    STEP = "step: activations, head, copies"
    PEAK = "peak"
    """Without `OUTSIDE`."""
    OUTSIDE = "CUDA and fragmentation"


class OrderError(UserError):
    """The order of a measurement cannot be read, or this machine cannot follow it; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Adapters:
    """The adapters of a task, with the names of the modules in place of a recipe's choice."""

    rank: int
    alpha: float
    dropout: float
    layers: tuple[str, ...]
    """Linear layers that get an adapter."""
    in_full: tuple[str, ...]
    """Modules that are trained in full."""
    bits: int
    """16, or 4 for QLoRA."""


@dataclass(frozen=True, slots=True)
class Task:
    """One stage of a recipe, and how it trains the weights."""

    stage: Stage
    title: str
    batch_size: int
    """Sequences per pass. In stage 2 these are completions."""
    passes: int
    """Passes per optimizer step."""
    prompt: int
    """Tokens of a question, image tokens included."""
    answer: int
    """Tokens of an answer; the maximum of the recipe."""
    checkpointing: bool
    estimates: Mapping[str, int]
    """Bytes that `plan` estimates, by use."""
    tiles: int = 1
    """Tiles per picture, thumbnail included."""
    adapters: Adapters | None = None
    group_size: int = 1
    reference: bool = False
    """Whether there is a reference model."""
    sampling: tuple[float, int, float] = (1.0, 0, 1.0)
    """Temperature, top_k and top_p of the rollouts."""

    @property
    def questions(self) -> int:
        """Questions of a step in stage 2."""
        return self.batch_size * self.passes // self.group_size


@dataclass(frozen=True, slots=True)
class Order:
    """What to measure."""

    recipe: str
    scale: Literal["true", "tiny"]
    source: str
    """Source of the model's architecture, in words."""
    config: Mapping[str, Any]
    """Configuration of the model, as in its config.json."""
    tasks: tuple[Task, ...] = field(default_factory=tuple)

    def model_config(self) -> InternVLConfig:
        """The configuration as transformers takes it."""
        from trainer.training.plan.architectures import read_values

        return read_values(self.config, f"the order for recipe {self.recipe!r}")

    def as_json(self) -> str:
        return json.dumps(asdict(self), indent=1)


def read_order(path: Path) -> Order:
    """Read an order that `gpu-check --write-order` wrote.

    Raises:
        OrderError: the file is something else.
        OSError: the file cannot be read.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        return Order(**{**values, "tasks": tuple(map(_task, values["tasks"]))})
    except (ValueError, TypeError, KeyError) as error:
        raise OrderError(
            f"{path} is not a specification of gpu-check ({error}). Write it with --write-order"
        ) from error


def _task(values: dict[str, Any]) -> Task:
    adapters = values["adapters"]
    if adapters:
        adapters = Adapters(**{**adapters, "layers": tuple(adapters["layers"]), "in_full": tuple(adapters["in_full"])})
    return Task(**{**values, "adapters": adapters, "sampling": tuple(values["sampling"])})
