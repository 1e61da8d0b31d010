"""The inpainter `scene`: a stand-in without a model, so that the whole pipeline runs anywhere.

It takes the reference as the background, varies its crop, side and light by the seed, darkens it where the product
stands and where the light throws the product's shadow, and puts the product on it. It changes no pixel of the product.
So its pictures have none of the errors that a generative model makes: they show that a pipeline works, and teach a
screening model nothing about such errors.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from trainer.data.compose.canvas import Canvas
from trainer.data.compose.licences import OWN, Licence
from trainer.data.compose.model_options import ModelOptions
from trainer.data.render.light import body_of, cast, draw_light

Floats = NDArray[np.float32]

_COARSE = 3
"""Pixels per cell of the shadow that the light throws; it is soft, and most of the time goes into it."""
_CAST, _TOUCH, _AROUND = 0.42, 0.72, 0.38
"""Share of the light that the thrown shadow, the line of contact and the shade around the foot take away."""


class Scene:
    """A plain repaint of the background from the reference, with shadows."""

    name = "scene"
    licence: Licence = OWN
    stand_in = True
    sides = range(64, 2049)
    identity = "scene 1"

    def __init__(self, _options: ModelOptions) -> None:
        """`scene` has no options."""

    def paint(self, canvas: Canvas, seed: int) -> Image.Image:
        """Paint one picture."""
        rng = np.random.default_rng(seed)
        background = _varied(canvas.reference, rng) * _light_left(canvas, rng)[..., None]
        shown = Image.fromarray(np.clip(background, 0, 255).round().astype(np.uint8)).convert("RGBA")
        return Image.alpha_composite(shown, canvas.layer).convert("RGB")


def _varied(reference: Image.Image, rng: np.random.Generator) -> Floats:
    """Another view of the reference: mirrored or not, a little closer, in another light."""
    side = reference.width
    seen = side / float(rng.uniform(1.02, 1.22))
    x, y = float(rng.uniform(0, side - seen)), float(rng.uniform(0.5, 1)) * (side - seen)
    view = reference.resize((side, side), Image.Resampling.BICUBIC, (x, y, x + seen, y + seen))
    if rng.random() < 0.5:
        view = view.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    warmth = float(rng.uniform(-0.05, 0.05))
    tint = np.array([1 + warmth, 1, 1 - warmth], np.float32) * np.float32(rng.uniform(0.9, 1.06))
    return np.asarray(np.asarray(view, np.float32) * tint, np.float32)


def _light_left(canvas: Canvas, rng: np.random.Generator) -> Floats:
    """The share of the light that reaches each pixel of the background."""
    alpha = np.asarray(canvas.layer.getchannel("A"))
    rows, columns = (np.flatnonzero((alpha > 100).any(axis)) for axis in (1, 0))
    top, bottom, left, right = int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1
    light, side = draw_light(rng), canvas.side
    body = body_of(Image.fromarray(alpha[top:bottom, left:right]), (left + right) / 2 / side, bottom / side, side)
    thrown = Image.fromarray(cast(max(8, side // _COARSE), body, light)).resize((side, side), Image.Resampling.BICUBIC)
    touch, around = _contact(alpha >= 100, top, bottom)
    left_over = (1 - _CAST * light.strength * np.asarray(thrown)) * (1 - _TOUCH * touch) * (1 - _AROUND * around)
    return np.asarray(left_over, np.float32)


def _contact(solid: NDArray[np.bool_], top: int, bottom: int) -> tuple[Floats, Floats]:
    """Where the product touches the ground, as a narrow dark line and a wide soft shade; both from 0 to 1.

    A column touches the ground if its lowest pixel is close to the lowest of all, so the gap between two wheels stays
    light.
    """
    side = solid.shape[0]
    lowest = side - solid[::-1].argmax(0)
    touching = solid.any(0) & (bottom - lowest < 0.05 * (bottom - top))
    rows = np.arange(side)[:, None]
    line = touching & (rows >= lowest - 0.012 * side) & (rows < lowest + 0.006 * side)
    shade = touching & (rows >= lowest - 0.05 * side) & (rows < lowest + 0.012 * side)
    return _blurred(line, 0.005 * side), _blurred(shade, 0.022 * side)


def _blurred(mask: NDArray[np.bool_], softness: float) -> Floats:
    soft = cv2.GaussianBlur(mask.astype(np.float32), (0, 0), max(softness, 0.5))
    return np.asarray(soft, np.float32)
