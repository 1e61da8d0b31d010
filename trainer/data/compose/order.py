"""The settings of a run, and the tools that they name."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trainer.data.compose.failures import ComposeError
from trainer.data.compose.inpainter import Inpainter, make_inpainter
from trainer.data.compose.layout import AUTO
from trainer.data.compose.licences import require_accepted
from trainer.data.compose.model_options import ModelOptions
from trainer.data.compose.segmenter import Segmenter, make_segmenter
from trainer.data.compose.sources import Source, references_in


@dataclass(frozen=True, kw_only=True)
class Order:
    """What the command line says."""

    products: Path
    references: Path
    out: Path
    seed: int
    side: int = 768
    """Side of the pictures in pixels."""
    layout: str = AUTO
    segmenter: str = "auto"
    inpainter: str = "scene"
    paste: bool = False
    """Whether to put the product's own pixels back."""
    model: ModelOptions = field(default_factory=ModelOptions)
    accepted: frozenset[str] = frozenset()
    """Names of the licences that the user has accepted."""


@dataclass(frozen=True)
class Tools:
    """What makes the pictures of a run."""

    segmenter: Segmenter
    inpainter: Inpainter
    references: tuple[Source, ...]

    @property
    def maker(self) -> str:
        """Name of the inpainter for people: it says so if no generative model made the pictures."""
        name = self.inpainter.name
        return f"{name} (stand-in without a generative model)" if self.inpainter.stand_in else name


def prepare(order: Order) -> Tools:
    """Make the tools. Licences are checked first; no weights are loaded.

    Raises:
        ComposeError: a licence is not accepted, or a setting cannot be used.
    """
    segmenter, inpainter = make_segmenter(order.segmenter), make_inpainter(order.inpainter, order.model)
    require_accepted((segmenter.licence, inpainter.licence), order.accepted)
    if order.side not in inpainter.sides:
        raise ComposeError(f"--size: {inpainter.name} cannot paint {order.side} pixels; it paints {_told(inpainter)}")
    return Tools(segmenter, inpainter, tuple(references_in(order.references)))


def origin(order: Order, tools: Tools) -> dict[str, Any]:
    """Everything that decides the pictures of a product. The other products do not, so they may change.

    Raises:
        ComposeError: the weights of a model may not be loaded.
    """
    return {
        "stage": "compose",
        "seed": order.seed,
        "size": order.side,
        "layout": order.layout,
        "paste": order.paste,
        "segmenter": tools.segmenter.identity,
        "inpainter": tools.inpainter.identity,
        "references": [reference.digest for reference in tools.references],
    }


def _told(inpainter: Inpainter) -> str:
    sides = inpainter.sides
    if not isinstance(sides, range):
        return "other sizes"
    multiples = f" in steps of {sides.step}" if sides.step > 1 else ""
    return f"{sides.start} to {sides[-1]}{multiples}"
