"""The product in the picture: position, size, light, and the effect of a defect on its body."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from trainer.data.render.cutouts import CutOut, CutOutLook
from trainer.data.render.light import Light, shade
from trainer.data.render.packaging import Look
from trainer.data.render.products import Product
from trainer.data.render.staging import Staging

AnyProduct = Product | CutOut

_WIDEST = 0.66
"""Maximum width of a product as a share of the frame."""


@dataclass(frozen=True)
class Place:
    """Position of the product, in shares of the frame."""

    x: float
    y: float
    height: float


def placed(staging: Staging, sprite: Image.Image, side: int, rng: np.random.Generator, size: int) -> Place:
    """Choose position and height, with room for the planned defects."""
    ratio = sprite.width / flat_height(size)
    # Growth of a product in a photo does not make it smaller.
    own = staging.product.ratio * staging.width if isinstance(staging.product, CutOut) else ratio
    high = float(rng.uniform(0.0, 1.0))
    y = float(rng.uniform(0.86, 0.93))
    if staging.staged:
        y, height = 0.78 + 0.03 * high, 0.56 + 0.08 * high
    else:
        height = 0.58 + 0.16 * high if side else 0.56 + 0.09 * high
    height = min(
        height, (y - 0.02) / (sprite.height / flat_height(size) + staging.gap)
    )  # an enlarged cap needs room above
    # Wide products keep their minimum height and stay in the frame; only a very wide cut-out is smaller.
    height = min(max(height, 0.55), max(_WIDEST / own, 0.55 if isinstance(staging.product, Product) else 0.0))
    half = ratio * height / 2
    x = 0.5 + float(rng.uniform(-0.05, 0.05)) if not side else 0.5 + side * float(rng.uniform(0.15, 0.22))
    if half < 0.47:
        x = min(max(x, half + 0.03), 1 - half - 0.03)
    return Place(x, y, height)


def figure_of(
    product: AnyProduct, sprite: Image.Image, place: Place, light: Light, size: int, staging: Staging | None = None
) -> Image.Image:
    """The lit product at its size in the picture; its bottom centre is the middle of the last row."""
    figure = shade(at_size(sprite, place, size), product.surface, light.side, light.strength, product.gloss)
    return figure if staging is None else posed(figure, staging)


def at_size(sprite: Image.Image, place: Place, size: int) -> Image.Image:
    """A flat sprite at its size in the picture."""
    tall = max(8, round(place.height * size * sprite.height / flat_height(size)))
    wide = max(4, round(sprite.width * tall / sprite.height))
    return sprite.resize((wide, tall), Image.Resampling.BOX if tall * 2 <= sprite.height else Image.Resampling.BILINEAR)


def posed(figure: Image.Image, staging: Staging) -> Image.Image:
    """A figure that is sunk into the ground or leans, as planned."""
    if staging.cut:
        figure = _sunken(figure, staging.cut)
    if staging.lean:
        figure = figure.rotate(-staging.lean, Image.Resampling.BICUBIC, expand=True)
        box = figure.getchannel("A").point(lambda v: 255 if v > 60 else 0).getbbox()
        if box is not None:
            figure = figure.crop((0, box[1], figure.width, box[3]))
    return figure


def _sunken(figure: Image.Image, cut: float) -> Image.Image:
    """Cut off the base, as if the ground covered it: lower in the middle and slightly uneven."""
    pixels = np.array(figure)
    height, width = pixels.shape[:2]
    u = np.linspace(-1, 1, width)
    edge = (
        height * (1 - cut) - 0.018 * height * (1 - np.sqrt(1 - np.clip(u * u, 0, 1))) + 0.004 * height * np.sin(u * 23)
    )
    rows = np.arange(height)[:, None]
    pixels[..., 3] = (pixels[..., 3] * np.clip(edge[None, :] - rows, 0, 1)).astype(np.uint8)
    return Image.fromarray(pixels[: max(4, round(height * (1 - cut)))])


def scaled(sprite: Image.Image, tall: float, size: int) -> Image.Image:
    height = max(4, round(tall * size))
    return sprite.resize((max(3, round(sprite.width * height / sprite.height)), height), Image.Resampling.BOX)


def put(image: Image.Image, figure: Image.Image, at: Place) -> None:
    """Paste a sprite with its bottom centre at a position."""
    size = image.width
    corner = (round(at.x * size - figure.width / 2), round(at.y * size) - figure.height)
    image.paste(figure, corner, figure)


def flat_height(size: int) -> int:
    """Height of flat sprites in pixels, large enough to be scaled down in every picture."""
    return round(size * 1.3)


def flat_sprite(product: AnyProduct, look: Look | CutOutLook, size: int) -> Image.Image:
    if isinstance(product, Product) and isinstance(look, Look):
        return product.flat(look, flat_height(size))
    if isinstance(product, CutOut) and isinstance(look, CutOutLook):
        return product.flat(look, flat_height(size))
    raise TypeError(f"a {type(product).__name__} cannot have the look {type(look).__name__}")
