"""What is measured on each generated picture, before it is written. docs/compose.md explains the figures."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel, ConfigDict

from trainer.data.compose.canvas import Canvas
from trainer.data.compose.failures import Failed, Reason

_NEAR, _FAR = 3, 10
"""Widths in pixels of the rings on both sides of the outline, and distance of the outer end of the surroundings."""
_UPPER = 0.6
"""Share of the product's height where halos are measured."""
_ONE_COLOUR = 1.0
_WHITE = 250
_SAME = 0.2
"""Maximum mean difference of two pictures that count as the same, of 255."""


class Measures(BaseModel):
    """The figures of one picture. Differences are of 255 grey levels."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    repainted: float
    """Share of the pixels that the mask lets the inpainter paint."""
    change_inside: float
    """Mean difference from the original inside the product, where the cut-out is opaque."""
    largest_change_inside: int
    """Largest difference from the original there."""
    halo: float
    """How much brighter a narrow ring around the upper part of the product is than both the product and its
    surroundings; negative if it is darker than both. A soft edge lies between the two and gives 0."""


def measure(picture: Image.Image, canvas: Canvas) -> Measures:
    """Measure a picture.

    Args:
        picture: RGB, of the canvas' size.
    """
    kept = canvas.kept
    inside = np.asarray(canvas.layer.getchannel("A")) == 255
    change = np.abs(np.asarray(picture, np.int16) - np.asarray(canvas.placeholder, np.int16))[inside]
    return Measures(
        repainted=round(1 - float(kept.mean()), 4),
        change_inside=round(float(change.mean()), 3) if change.size else 0.0,
        largest_change_inside=int(change.max()) if change.size else 0,
        halo=round(_halo(np.asarray(picture.convert("L"), np.float32), kept), 2),
    )


def refuse_failed(picture: Image.Image, canvas: Canvas) -> None:
    """Refuse what is no picture of a product in a scene.

    Raises:
        Failed: the size is wrong, or the background has one colour.
    """
    if picture.size != (canvas.side, canvas.side) or picture.mode != "RGB":
        raise Failed(
            Reason.WRONG_SIZE,
            f"the inpainter returned {picture.mode} {picture.width} x {picture.height}, "
            f"not RGB {canvas.side} x {canvas.side}",
        )
    background = np.asarray(picture)[~canvas.kept]
    if background.size and (background.std(0).max() < _ONE_COLOUR or background.min() >= _WHITE):
        raise Failed(Reason.BLANK, "the inpainter painted nothing: the background has one colour")


def least_difference(pictures: Sequence[Image.Image]) -> float:
    """Mean difference, of 255, of the two pictures that are most alike."""
    arrays = [np.asarray(picture, np.int16) for picture in pictures]
    return round(min(float(np.abs(one - other).mean()) for one, other in combinations(arrays, 2)), 3)


def refuse_repeated(difference: float) -> None:
    """
    Raises:
        Failed: two of the four pictures are the same.
    """
    if difference < _SAME:
        raise Failed(Reason.REPEATED, "two of the four pictures are the same; the inpainter ignores its seed")


def _halo(grey: NDArray[np.float32], kept: NDArray[np.bool_]) -> float:
    """Rows near the ground are left out, because the contact shadow is there."""
    rows = np.flatnonzero(kept.any(1))
    upper = np.arange(len(kept))[:, None] < rows[0] + _UPPER * len(rows)
    outside, inside = (np.asarray(cv2.distanceTransform(one.astype(np.uint8), cv2.DIST_L2, 5)) for one in (~kept, kept))
    rings = (
        upper & (outside > 0) & (outside <= _NEAR),
        upper & (outside > _NEAR) & (outside <= _FAR),
        upper & (inside > 0) & (inside <= _NEAR),
    )
    if not all(ring.any() for ring in rings):
        return 0.0
    edge, *sides = (float(grey[ring].mean()) for ring in rings)
    return edge - min(max(edge, min(sides)), max(sides))
