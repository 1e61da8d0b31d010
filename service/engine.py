"""What a service needs from an engine. Two implementations: vllm_engine and scripted_engine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from PIL import Image

from screening.answer import Mode
from screening.checkpoint import Calibration
from screening.generation import Step, Watched


@dataclass(frozen=True, slots=True)
class Contract:
    """What the loaded checkpoint says about itself; changes as a whole or not at all."""

    name: str
    version: str
    digest: str
    image_size: int
    """Side of the square pictures that `Engine.generate` takes, in pixels."""
    calibration: Calibration
    watched: Watched


@dataclass(frozen=True, slots=True)
class Question:
    """One request as the engine sees it."""

    request_id: str
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


class Engine(Protocol):
    """Turns a question into text.

    `generate` may be cancelled at any time and then frees what the request held in the engine.
    """

    @property
    def name(self) -> str:
        """`vllm` or `scripted`; every answer carries it."""

    @property
    def contract(self) -> Contract:
        """The checkpoint served now. Only after `start`."""

    @property
    def alive(self) -> bool:
        """False once the engine has died and every further request would fail."""

    async def start(self) -> None:
        """Load everything; returns when the first question may be asked. Raises when it cannot be done."""

    async def stop(self) -> None:
        """Free everything; harmless when nothing was started."""

    async def generate(self, question: Question) -> Generated:
        """Answer one question.

        Raises:
            EngineLost: the engine died.
            EngineFailed: this one request failed.
        """

    def running(self) -> int:
        """Requests inside the engine now."""
