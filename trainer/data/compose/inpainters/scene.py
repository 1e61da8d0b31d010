"""The inpainter `scene`: a stand-in without a model, so that the whole pipeline runs anywhere.

It takes the reference as the background, varies its crop, side and light by the seed, darkens it where the product
stands and where the light throws the product's shadow, and puts the product on it. It changes no pixel of the product.
So its pictures have none of the errors that a generative model makes: they show that a pipeline works, and teach a
screening model nothing about such errors.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from trainer.data.compose.canvas import Canvas
from trainer.data.compose.licences import OWN, Licence
from trainer.data.compose.model_options import ModelOptions
from trainer.data.render.light import body_of, cast, draw_light
from trainer.data.render.views import another_view, footprint

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
        background = another_view(canvas.reference, rng) * _light_left(canvas, rng)[..., None]
        shown = Image.fromarray(np.clip(background, 0, 255).round().astype(np.uint8)).convert("RGBA")
        return Image.alpha_composite(shown, canvas.layer).convert("RGB")


def _light_left(canvas: Canvas, rng: np.random.Generator) -> Floats:
    """The share of the light that reaches each pixel of the background."""
    alpha = np.asarray(canvas.layer.getchannel("A"))
    rows, columns = (np.flatnonzero((alpha > 100).any(axis)) for axis in (1, 0))
    top, bottom, left, right = int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1
    light, side = draw_light(rng), canvas.side
    body = body_of(Image.fromarray(alpha[top:bottom, left:right]), (left + right) / 2 / side, bottom / side, side)
    thrown = Image.fromarray(cast(max(8, side // _COARSE), body, light)).resize((side, side), Image.Resampling.BICUBIC)
    touch, around = footprint(alpha >= 100)
    left_over = (1 - _CAST * light.strength * np.asarray(thrown)) * (1 - _TOUCH * touch) * (1 - _AROUND * around)
    return np.asarray(left_over, np.float32)
