"""What a worker needs to know. It is sent to other machines, so it contains no open files and no engine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from screening.answer import Mode
from trainer.evaluation.evaluate.by_checkpoint import OpenEngine
from trainer.evaluation.evaluate.generate import open_engine

ENGINES: Mapping[str, OpenEngine] = {"vllm": open_engine}
"""Name of `--engine` → what starts the engine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """The settings that decide the content of a part."""

    checkpoint: Path
    digest: str
    """Digest of the checkpoint. A worker whose copy differs refuses to start."""
    out: Path
    mode: Mode
    locate: bool
    """Whether the model is asked where the issues are."""
    review_below: float
    keep: tuple[str, ...] | None
    """Columns of the input that are copied; None for all but the pictures."""
    engine: str
