"""Reference pictures of real scenes: other views of one, and the shade of a product that stands in it."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

Floats = NDArray[np.float32]


def another_view(reference: Image.Image, rng: np.random.Generator) -> Floats:
    """Another view of a square reference: mirrored or not, a little closer, in another light. RGB values, 0-255."""
    side = reference.width
    seen = side / float(rng.uniform(1.02, 1.22))
    x, y = float(rng.uniform(0, side - seen)), float(rng.uniform(0.5, 1)) * (side - seen)
    view = reference.resize((side, side), Image.Resampling.BICUBIC, (x, y, x + seen, y + seen))
    if rng.random() < 0.5:
        view = view.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    warmth = float(rng.uniform(-0.05, 0.05))
    tint = np.array([1 + warmth, 1, 1 - warmth], np.float32) * np.float32(rng.uniform(0.9, 1.06))
    return np.asarray(np.asarray(view, np.float32) * tint, np.float32)


def footprint(solid: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """Where a product touches the ground, as a narrow dark line and a wide soft shade; both from 0 to 1.

    A column touches the ground if its lowest pixel is close to the lowest of all, so the gap between two wheels stays
    light.

    Args:
        solid: the pixels of the product in a square frame.
    """
    side = solid.shape[0]
    rows = np.flatnonzero(solid.any(1))
    if not len(rows):  # the product is thinner than a cell
        return np.zeros((side, side), np.float32), np.zeros((side, side), np.float32)
    top, bottom = int(rows[0]), int(rows[-1]) + 1
    lowest = side - solid[::-1].argmax(0)
    touching = solid.any(0) & (bottom - lowest < 0.05 * (bottom - top))
    row = np.arange(side)[:, None]
    line = touching & (row >= lowest - 0.012 * side) & (row < lowest + 0.006 * side)
    shade = touching & (row >= lowest - 0.05 * side) & (row < lowest + 0.012 * side)
    return _blurred(line, 0.005 * side), _blurred(shade, 0.022 * side)


def _blurred(mask: NDArray[np.bool_], softness: float) -> Floats:
    soft = cv2.GaussianBlur(mask.astype(np.float32), (0, 0), max(softness, 0.5))
    return np.asarray(soft, np.float32)
