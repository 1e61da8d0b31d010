"""Masks of label prints: the mark (a simple sign) and text in Pillow's own font. They are rendered once and scaled."""

from __future__ import annotations

from functools import lru_cache
from math import cos, pi, sin

from PIL import Image, ImageDraw, ImageFont

MARKS: tuple[str, ...] = ("circle", "star", "cross", "leaf", "drop", "heart", "triangle", "diamond", "moon")

_SIDE = 256


@lru_cache(maxsize=32)
def mark_mask(name: str) -> Image.Image:
    """The mark as an L mask of 256 x 256 pixels that fills the square."""
    mask = Image.new("L", (_SIDE, _SIDE), 0)
    draw = ImageDraw.Draw(mask)
    if name == "moon":
        draw.ellipse((4, 4, 252, 252), fill=255)
        draw.ellipse((92, -24, 300, 184), fill=0)
    elif name == "heart":
        draw.ellipse((4, 12, 136, 144), fill=255)
        draw.ellipse((120, 12, 252, 144), fill=255)
        draw.polygon([(16, 112), (240, 112), (128, 250)], fill=255)
    elif name == "circle":
        draw.ellipse((4, 4, 252, 252), fill=255)
    else:
        draw.polygon([(128 + 124 * x, 128 + 124 * y) for x, y in _outline(name)], fill=255)
    return mask


@lru_cache(maxsize=512)
def text_mask(text: str) -> Image.Image:
    """The text as an L mask in 128-pixel type, cropped to its ink."""
    font = ImageFont.load_default(128)
    left, top, right, bottom = font.getbbox(text, stroke_width=5)
    mask = Image.new("L", (int(right - left) + 2, int(bottom - top) + 2), 0)
    ImageDraw.Draw(mask).text((1 - left, 1 - top), text, font=font, fill=255, stroke_width=5)
    return mask.crop(mask.getbbox())


def _outline(name: str) -> list[tuple[float, float]]:
    """Corners of a shape in the unit square around 0."""
    if name == "star":
        return [
            ((1 if i % 2 == 0 else 0.42) * sin(i * pi / 5), -(1 if i % 2 == 0 else 0.42) * cos(i * pi / 5))
            for i in range(10)
        ]
    if name == "cross":
        a = 0.34
        return [
            (-a, -1),
            (a, -1),
            (a, -a),
            (1, -a),
            (1, a),
            (a, a),
            (a, 1),
            (-a, 1),
            (-a, a),
            (-1, a),
            (-1, -a),
            (-a, -a),
        ]
    if name == "drop":
        round_part = [(0.68 * cos(t), 0.32 + 0.68 * sin(t)) for t in (i * pi / 16 - 0.35 for i in range(24))]
        return [(0.0, -1.0), *round_part]
    if name == "leaf":
        one = [(-1 + 2 * t, 0.62 * sin(pi * t)) for t in (i / 12 for i in range(13))]
        both = one + [(x, -y) for x, y in reversed(one)]
        return [((x + y) * 0.72, (y - x) * 0.72) for x, y in both]
    if name == "triangle":
        return [(0, -0.95), (1, 0.85), (-1, 0.85)]
    if name == "diamond":
        return [(0, -1), (0.72, 0), (0, 1), (-0.72, 0)]
    raise ValueError(f"unknown mark {name!r}; choose from {', '.join(MARKS)}")
