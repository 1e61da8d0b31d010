"""What a service needs from an engine. `service.engines.table` lists the engines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from PIL import Image

from screening.answer import Mode
from screening.calibration import Calibration
from screening.checkpoint.domain import DomainRule
from screening.checkpoint.manifest import ImageContract, Manifest
from screening.checkpoint.probes import Probe
from screening.inference.generation import Step, Watched
from screening.task import STANDARD_DIMENSIONS, Dimension


@dataclass(frozen=True, slots=True)
class LoadedCheckpoint:
    """What an engine's checkpoint says about itself. A swap replaces the whole object."""

    name: str
    version: str
    digest: str
    image: ImageContract
    """How the pictures are prepared that `Engine.generate` takes."""
    calibration: Mapping[Mode, Calibration]
    """Calibration of each mode; a mode that is missing is uncalibrated."""
    watched: Watched
    domain: DomainRule | None = None
    """The kind of pictures that the checkpoint was trained on; None if the checkpoint does not say."""
    dimensions: tuple[Dimension, ...] = STANDARD_DIMENSIONS
    """The dimensions that the checkpoint was trained on; an answer names no others."""
    locates: bool = False
    """Whether the checkpoint was trained to say where issues are."""


@dataclass(frozen=True, slots=True)
class Question:
    """One request as the engine sees it."""

    request_id: str
    """The engine's own id. The id of a response may belong to several requests."""
    mode: Mode
    pictures: tuple[Image.Image, ...]
    """Original, A, B, C, D, each prepared by `screening.inference.pictures` for the checkpoint."""
    locate: bool = False
    """Whether the model is to say where the issues are. Only for a checkpoint that `locates`, in the mode `cot`."""


@dataclass(frozen=True, slots=True)
class Generated:
    """What the engine wrote. `steps` is empty if the engine gives no log-probabilities."""

    text: str
    steps: tuple[Step, ...]
    prompt_tokens: int
    completion_tokens: int
    checkpoint: LoadedCheckpoint
    """The checkpoint that wrote it."""
    domain_scores: tuple[float, ...] | None = None
    """Score of each picture, the original first; 1 and above is out of the domain (`screening.checkpoint.domain`). None
    for a checkpoint without a domain, and if the engine does not know the score."""


class Engine(Protocol):
    """Turns a question into text.

    `generate` may be cancelled at any time; it then frees what the request held in the engine.
    """

    @property
    def name(self) -> str:
        """`vllm`, `scripted` or the name of an engine of your own; every answer carries it."""

    @property
    def loads_checkpoints(self) -> bool:
        """Whether it answers with a checkpoint. `start` then gets its directory, `--checkpoint` is required, and the
        service verifies, swaps and follows checkpoints."""

    @property
    def machine(self) -> str:
        """The kind of machine that computes; see `screening.runtime.machine`. Only after `start`."""

    @property
    def in_float32(self) -> bool:
        """Whether it computes in float32, so that every kind of machine gives the same log-probabilities. Only after
        `start`."""

    @property
    def checkpoint(self) -> LoadedCheckpoint:
        """The checkpoint that is loaded. Only after `start`."""

    @property
    def alive(self) -> bool:
        """False if every request would fail: the engine died, was stopped or killed, or its last start failed."""

    async def start(self, checkpoint: Path | None, /) -> None:
        """Load everything. Returns when the engine can answer the first question; raises if it cannot be started.

        Args:
            checkpoint: directory to load; None for an engine that needs none.
        """

    async def stop(self) -> None:
        """Free everything. Harmless if nothing was started. `start` may be called again afterwards."""

    async def kill(self) -> None:
        """End the processes of an engine that hangs, at once. Its requests end with EngineLost."""

    async def inspect(self, checkpoint: Path, manifest: Manifest, /) -> None:
        """Check whether this kind of engine could load a checkpoint, without loading it.

        It needs no started engine, and does not disturb one that answers requests.

        Raises:
            CheckpointError: the engine could not load it, or would read its prompts differently from its publisher.
            CheckpointUnavailable: the check itself failed.
        """

    async def reload(self, checkpoint: Path, manifest: Manifest, /) -> None:
        """Replace the loaded weights by others of the same architecture. No request may run meanwhile.

        Raises:
            EngineLost: the engine died or was stopped.
            EngineFailed: the reload failed, or this engine has no weights. Which weights are loaded is then unknown.
        """

    async def expect(self, manifest: Manifest, /) -> None:
        """Prepare the prompts and probes of a checkpoint that will be reloaded, while requests are answered.

        This only makes the reload and its verification faster.

        Raises:
            Exception: any error of the engine.
        """

    async def log_probabilities(self, probe: Probe, /) -> list[float]:
        """Natural log-probabilities of the last tokens of a probe's answer, as many as the probe has."""

    async def domain_scores(self, pictures: Sequence[Image.Image], /) -> tuple[float, ...] | None:
        """The scores of the five pictures of a question, without an answer; see `Generated.domain_scores`."""

    async def generate(self, question: Question) -> Generated:
        """Answer one question.

        Raises:
            EngineLost: the engine died.
            EngineFailed: this one request failed.
        """

    def running(self) -> int:
        """Number of requests inside the engine now."""

    @property
    def progress(self) -> int:
        """Number of outputs so far, those of unfinished requests included.

        If it does not change while requests are inside, the engine hangs.
        """
