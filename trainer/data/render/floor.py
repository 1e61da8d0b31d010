"""Shadows on the surfaces of a scene, as masks on a coarse grid."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from trainer.data.render.figure import Place
from trainer.data.render.light import Body, Light, body_of, cast, contact
from trainer.data.render.scenes import Stage
from trainer.data.render.staging import Staging
from trainer.data.render.views import footprint

Floats = NDArray[np.float32]

_SHADOW = 0.6
_CONTACT = 0.62
_DARKEST = 0.04
"""Share of the light that a shadow leaves at least."""


class Floor:
    """The shadows on one surface: n x n masks, 0-1, of the cast and the contact shadow."""

    def __init__(self, n: int) -> None:
        self.n = n
        self.shadow = np.zeros((n, n), np.float32)
        self.dark = np.zeros((n, n), np.float32)

    def cast(self, body: Body, light: Light, share: float = 1.0) -> None:
        self.shadow = np.maximum(self.shadow, cast(self.n, body, light) * share)

    def touch(self, x: float, y: float, half: float, share: float = 1.0, lift: float = 0.0) -> None:
        self.dark = np.maximum(self.dark, contact(self.n, x, y, half, lift) * share)

    def thing(self, sprite: Image.Image, at: Place, light: Light, size: int) -> None:
        self.cast(body_of(sprite.getchannel("A"), at.x, at.y, size), light)
        self.touch(at.x, at.y, sprite.width / size / 2)

    def product(self, staging: Staging, body: Body, solid: NDArray[np.bool_] | None = None) -> None:
        """Shadows of the product.

        Args:
            solid: n x n, the pixels of a product with an irregular base; None for a simple base.
        """
        aside = -staging.light.side * min(staging.detached * body.foot, 0.3)
        for source, share in staging.shadows:
            self.cast(replace(body, x=body.x + aside), source, share)
        if solid is None:
            self.touch(body.x + float(body.centres[:3].mean()), body.y, body.foot, staging.contact, body.lift)
        elif not staging.detached:
            line, shade = footprint(solid)
            self.dark = np.maximum(self.dark, np.maximum(line, 0.6 * shade) * staging.contact)

    def gain(self, strength: float) -> Floats:
        """The share of the light that remains."""
        lit = np.maximum(1 - _SHADOW * strength * self.shadow, _DARKEST)
        return np.asarray(lit * (1 - _CONTACT * self.dark), np.float32)


def below(floor: Floor, stage: Stage, staging: Staging, body: Body) -> None:
    """Shadows on the ground below a stage: its own, and the part of the product's shadow that falls beyond it."""
    own_shadow(floor, stage, staging.light)
    for source, share in staging.shadows:
        floor.cast(raised(body, stage), source, share)
    floor.touch(stage.x, stage.y + stage.height + stage.depth * 0.9, stage.half, 0.7)


def own_shadow(floor: Floor, stage: Stage, light: Light) -> None:
    """The shadow that a stage casts on the ground."""
    heights = np.linspace(0, stage.height, 8, dtype=np.float32)
    half, centre = np.full(8, stage.half, np.float32), np.zeros(8, np.float32)
    floor.cast(Body(stage.x, stage.y + stage.height, heights, half, centre), light)


def raised(body: Body, stage: Stage) -> Body:
    """A product on a stage, as it casts a shadow on the ground below."""
    base = stage.y + stage.height
    heights = body.heights + stage.height
    return Body(body.x, base + (body.y - stage.y), heights, body.widths, body.centres, stage.height)
