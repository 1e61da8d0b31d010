"""What a worker needs to know. It is sent to other machines, so it contains no open files and no engine."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from screening.answer import Mode
from screening.checkpoint.manifest import Manifest
from trainer.evaluation.evaluate.generate import OfflineEngine, open_engine

OpenEngine = Callable[[Path, Manifest, Mode], AbstractContextManager[OfflineEngine]]

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
    review_below: float
    keep: tuple[str, ...] | None
    """Columns of the input that are copied; None for all but the pictures."""
    engine: str
