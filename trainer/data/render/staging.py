"""The plan of one picture before it is rendered, and what a defect is: a change of that plan."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from screening.task import Dimension
from trainer.data.render.cutouts import CutOut, CutOutLook
from trainer.data.render.light import Light
from trainer.data.render.packaging import Look
from trainer.data.render.products import Product


@dataclass(frozen=True)
class Defect:
    """One defect of one picture."""

    dimension: Dimension
    kind: str
    severity: int
    comment: str
    changed: str | None = None
    """The attribute that differs from the original, for example `width` or `cap_shape`; None for cut-outs."""


@dataclass
class Staging:
    """The plan of one picture. Lengths are shares of the product's height unless stated otherwise."""

    product: Product | CutOut
    look: Look | CutOutLook
    light: Light
    """The light of the scene."""
    shading: Light
    """The light on the product."""
    shadows: list[tuple[Light, float]]
    """Cast shadows of the product, each with its light and its strength."""
    contact: float = 1.0
    """Strength of the contact shadow."""
    width: float = 1.0
    """Factor on the product's width."""
    gap: float = 0.0
    cut: float = 0.0
    lean: float = 0.0
    """Angle of the product in degrees, positive to the right."""
    detached: float = 0.0
    """Distance of the shadow from the product to the side, in half widths of its base."""
    beyond: float = 0.0
    """Share of the product's width that is beyond the edge of the picture."""
    scale: float = 1.0
    """Factor on the product's size."""
    overhang: float = 0.0
    """Share of the base's width that is beyond the edge of the stage."""
    items: list[tuple[str, float, int]] = field(default_factory=list)
    """Invented items: kind, size 0-1, variant."""
    staged: bool = False
    """Whether the product stands on a podium or plinth."""
    show_reference: bool = False
    """Whether the defect can only be seen with a reference object."""


Apply = Callable[[Staging, int, np.random.Generator], str | None]
"""Changes a plan, given a severity; returns the name of the changed attribute."""


@dataclass(frozen=True)
class Kind:
    """One kind of defect."""

    dimension: Dimension
    comment: str
    apply: Apply
    severities: tuple[int, ...] = (1, 2, 3)
    fits: Callable[[Staging], bool] = lambda staging: True
