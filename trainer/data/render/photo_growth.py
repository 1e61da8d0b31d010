"""Edits of a cut-out that let a piece grow out of the product. photo_edits.py says what an edit is."""

from __future__ import annotations

import cv2
import numpy as np
from PIL import Image

from trainer.data.render.photo_facts import Detail
from trainer.data.render.photo_pixels import coordinates, filled, rgb_and_alpha, sign, solid_pixels, unit, widened


def grown(sprite: Image.Image, severity: int, rng: np.random.Generator, _: Detail | None) -> Image.Image:
    """A finger of the product's own surface grows out of its side."""
    length = unit(sprite)
    reach = {1: 0.13, 2: 0.24, 3: 0.42}[severity] * length
    half = {1: 0.055, 2: 0.07, 3: 0.095}[severity] * length
    return _extended(sprite, rng, float(rng.uniform(0.3, 0.6)) * sprite.height, reach, half, 2, rng.uniform(-0.35, 0.6))


def continued(sprite: Image.Image, severity: int, rng: np.random.Generator, _: Detail | None) -> Image.Image:
    """The product goes on beyond its side."""
    reach = {1: 0.13, 2: 0.26, 3: 0.45}[severity] * unit(sprite)
    return _extended(sprite, rng, 0.5 * sprite.height, reach, 0.3 * sprite.height, 6, 0.0)


def _extended(
    sprite: Image.Image, rng: np.random.Generator, centre: float, reach: float, half: float, power: float, slope: float
) -> Image.Image:
    """Let the product go on beyond one side, with its own pixels mirrored at its edge.

    Args:
        centre: middle of the new piece, in rows.
        reach: its length in pixels.
        half: half of its height in pixels.
        power: 2 for a round end, more for a square one.
        slope: rows by which the piece rises per pixel.
    """
    sprite = widened(sprite, reach + 2)
    if left := bool(rng.random() < 0.5):
        sprite = sprite.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    rgb, alpha = rgb_and_alpha(sprite)
    x, y = coordinates(sprite)
    solid = solid_pixels(alpha)
    rows = np.clip(np.arange(sprite.height), *np.flatnonzero(solid.any(1))[[0, -1]])
    edge = (sprite.width - 1 - solid[rows, ::-1].argmax(1)).astype(np.float32)
    edge = np.asarray(cv2.blur(edge[:, None], (1, max(3, int(half) // 2 * 2 + 1))), np.float32)
    beyond = x - edge
    aside = (y - (centre - slope * np.maximum(beyond, 0))) / half
    far = reach * np.clip(1 - np.abs(aside) ** power, 0, 1) ** (1 / power)
    mask = np.clip(far - beyond + 0.5, 0, 1) * np.clip((1 - np.abs(aside)) * half, 0, 1) * (beyond > -3)
    source = np.clip(edge - 3 - np.abs(beyond) * 0.8, 0, None)
    new = cv2.remap(filled(rgb, alpha), source, np.clip(y + slope * beyond, 0, None), cv2.INTER_LINEAR)
    shaded = np.asarray(new, np.float32) * (1 - 0.25 * np.clip(aside, 0, 1) ** 2)[..., None]
    piece = Image.fromarray(np.dstack([shaded.clip(0, 255), mask * 255]).astype(np.uint8))
    joined = Image.alpha_composite(piece, sprite)
    return joined.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if left else joined


def attached(sprite: Image.Image, severity: int, rng: np.random.Generator, _: Detail | None) -> Image.Image:
    """A small copy of the product sticks out of its side."""
    share = {1: 0.3, 2: 0.42, 3: 0.6}[severity]
    turn, level, side = float(rng.uniform(25, 60)), float(rng.uniform(0.25, 0.5)), sign(rng)
    copy = sprite.resize((max(4, round(sprite.width * share)), max(4, round(sprite.height * share))))
    copy = copy.rotate(-side * turn, Image.Resampling.BICUBIC, expand=True)
    sprite = widened(sprite, copy.width * 0.7)
    solid = np.flatnonzero(solid_pixels(np.asarray(sprite.getchannel("A")))[round(level * sprite.height)])
    edge = float(solid[-1 if side > 0 else 0]) if len(solid) else sprite.width / 2
    layer = Image.new("RGBA", sprite.size)
    x, y = edge + side * 0.2 * copy.width, level * sprite.height
    layer.paste(copy, (round(x - copy.width / 2), round(y - copy.height / 2)))
    return Image.alpha_composite(layer, sprite)
