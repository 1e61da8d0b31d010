"""What a service needs from an engine. `service.engines.registry` has the table of engines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from PIL import Image

from screening.answer import Mode
from screening.calibration import Calibration
from screening.checkpoint.domain import DomainRule
from screening.checkpoint.manifest import Manifest
from screening.checkpoint.probes import Probe
from screening.inference.generation import Step, Watched
from screening.task import STANDARD_DIMENSIONS, Dimension


@dataclass(frozen=True, slots=True)
class Contract:
    """What the loaded checkpoint says about itself; changes as a whole or not at all."""

    name: str
    version: str
    digest: str
    image_size: int
    """Side of the square pictures that `Engine.generate` takes, in pixels."""
    calibration: Mapping[Mode, Calibration]
    """Uncalibrated in a mode that is not in it."""
    watched: Watched
    domain: DomainRule | None = None
    """What it was trained on, for answers about something else; None for a checkpoint that does not say."""
    dimensions: tuple[Dimension, ...] = STANDARD_DIMENSIONS
    """What it was trained to see; an answer names no other."""


@dataclass(frozen=True, slots=True)
class Question:
    """One request as the engine sees it."""

    request_id: str
    """The engine's own: a response's id may belong to several requests."""
    mode: Mode
    pictures: tuple[Image.Image, ...]
    """Original, A, B, C, D: square RGB of the contract's size."""


@dataclass(frozen=True, slots=True)
class Generated:
    """What the engine wrote. `steps` is empty when it gives no log-probabilities."""

    text: str
    steps: tuple[Step, ...]
    prompt_tokens: int
    completion_tokens: int
    contract: Contract
    """The checkpoint that wrote it."""
    domain_scores: tuple[float, ...] | None = None
    """Of each picture, original first; 1 and above is out of the domain (`screening.checkpoint.domain`). None for a
    checkpoint without a domain, and where the engine cannot say."""


class Engine(Protocol):
    """Turns a question into text.

    `generate` may be cancelled at any time and then frees what the request held in the engine.
    """

    @property
    def name(self) -> str:
        """`vllm` or `scripted`; every answer carries it."""

    @property
    def loads_checkpoints(self) -> bool:
        """Whether it answers with a checkpoint. `start` then gets its directory, `--checkpoint` is required, and the
        service verifies, swaps and follows checkpoints."""

    @property
    def machine(self) -> str:
        """What computes; see `screening.runtime.machine`. Only after `start`."""

    @property
    def contract(self) -> Contract:
        """The checkpoint served now. Only after `start`."""

    @property
    def alive(self) -> bool:
        """False when every request would fail: the engine died, was stopped or killed, or its last start failed."""

    async def start(self, checkpoint: Path | None, /) -> None:
        """Load everything; returns when the first question may be asked. Raises when it cannot be done.

        Args:
            checkpoint: directory to load; None for an engine that needs none.
        """

    async def stop(self) -> None:
        """Free everything; harmless when nothing was started. `start` may be called again afterwards."""

    async def kill(self) -> None:
        """End its processes at once, for an engine that hangs: what is in it ends with EngineLost."""

    async def inspect(self, checkpoint: Path, manifest: Manifest, /) -> None:
        """Find out whether this kind of engine could load a checkpoint, without loading it; `start` need not have been
        called, and requests are answered meanwhile.

        Raises:
            CheckpointError: it could not, or would read its prompts otherwise than its probes recorded.
            CheckpointUnavailable: this could not be found out.
        """

    async def reload(self, checkpoint: Path, manifest: Manifest, /) -> None:
        """Put other weights of the same architecture in the place of those loaded. Nothing may run meanwhile.

        Raises:
            EngineLost: the engine died, or was stopped, before or meanwhile.
            EngineFailed: it did not work, or this engine has no weights. What is loaded is unknown then.
        """

    async def expect(self, manifest: Manifest, /) -> None:
        """Prepare for a checkpoint that is to be reloaded, while requests are answered: its prompts, and its proof. It
        only saves time later.

        Raises:
            Exception: whatever the engine raised.
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
        """Requests inside the engine now."""

    @property
    def progress(self) -> int:
        """Outputs so far, those of unfinished requests counted: with requests inside, it stands still in a hang."""
