"""Light: the shading of a sprite and the shadow that it casts.

There is one distant light, to the left or right, in front of the product and above it. The ground plane has x to the
right and depth away from the camera; the picture shows depth shortened by `FORESHORTENING`. Shadows are computed: a
body of revolution with half width w(z) at height z covers the ground points whose distance from the shadow's axis is
below w(distance along the axis / length per height). The edge becomes softer with that distance. This also works for
shadows toward the camera, where a sheared silhouette would collapse into a line.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from math import cos, radians, sin, sqrt

import numpy as np
from numpy.typing import NDArray
from PIL import Image

FORESHORTENING = 0.36
"""Factor by which lengths that point away from the camera are shortened."""

BASE_DEPTH = 0.13
"""Distance from the front of a base back to the point where its axis meets the ground, per half width of the base."""

DEPTH_SHARE = BASE_DEPTH / FORESHORTENING
"""Depth of a base on the ground per width."""

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Light:
    """The direction and strength of the light."""

    side: int
    """Side of the light: -1 left, 1 right, 0 front (the original photo)."""
    angle: float = 35.0
    """Direction of shadows on the ground: degrees from the picture's horizontal, away from the camera."""
    length: float = 0.7
    """Length of a shadow on the ground per height of the object (the cotangent of the elevation)."""
    strength: float = 1.0
    """Contrast of shading and shadow."""
    hardness: float = 1.0
    """Steepness of the shadow's edge, relative to that of a soft light."""

    @property
    def name(self) -> str | None:
        return {-1: "left", 1: "right"}.get(self.side)

    def mirrored(self) -> Light:
        return replace(self, side=-self.side)


def draw_light(rng: np.random.Generator) -> Light:
    """Draw a random light. Its angles and lengths leave room for wrong ones that are visibly different."""
    return Light(
        side=-1 if rng.random() < 0.5 else 1,
        angle=float(rng.uniform(28, 42)),
        length=float(rng.uniform(0.7, 0.95)),
        strength=float(rng.uniform(0.9, 1.1)),
    )


@lru_cache(maxsize=256)
def _ramp(surface: str, side: int, front_share: float) -> tuple[Floats, Floats]:
    """Shade factor and highlight (0-1) over the lateral position u = -1..1, in 256 steps."""
    u = np.linspace(-1, 1, 256, dtype=np.float32)
    if surface == "box":
        front = np.where(side == 0, 1.0, 0.97 + 0.1 * side * u)
        flank = {-1: 0.52, 0: 0.8, 1: 1.12}[side]
        return np.where(u < front_share, front, flank).astype(np.float32), np.zeros(256, np.float32)
    if surface == "photo":  # a photo already has shading, so a gradient is enough
        return (1.0 + 0.26 * side * u).astype(np.float32), np.zeros(256, np.float32)
    facing = np.sqrt(np.clip(1 - u * u, 0, 1))
    lateral, frontal = (0.78 * side, 0.62) if side else (0.0, 0.9)
    falling = np.clip(u * lateral + facing * frontal, 0, None)
    if surface == "soft":
        bulge = 0.8 + 0.3 * side * u - 0.1 * np.abs(u) ** 6 + 0.06 * np.cos(u * 9)
        glint = 0.35 * np.exp(-(((u - 0.62 * (side or -1)) / 0.06) ** 2))
        return (bulge + 0.12).astype(np.float32), glint.astype(np.float32)
    shade = 0.46 + 0.62 * falling
    if side == 0:
        shade = 0.62 + 0.42 * falling
    glint = np.exp(-(((u - 0.52 * (side or -1)) / 0.085) ** 2)) * (1.0 if side else 0.5)
    glint = glint + 0.22 * np.exp(-(((u + 0.9 * (side or -1)) / 0.05) ** 2))
    return shade.astype(np.float32), glint.astype(np.float32)


def shade(
    sprite: Image.Image, surface: str, side: int, strength: float = 1.0, gloss: float = 0.6, front_share: float = 0.72
) -> Image.Image:
    """Light an RGBA sprite from one side, as if its rows were cross sections of a round body, a box or a pillow."""
    pixels = np.asarray(sprite)
    left, right = spans(pixels[..., 3])
    x = np.arange(pixels.shape[1], dtype=np.float32)[None, :]
    half = np.maximum((right - left) / 2, 0.5)[:, None]
    if surface in ("box", "photo"):  # the planes of a box do not follow single rows
        half, left, right = (
            np.full_like(half, half.max()),
            np.full_like(left, left.min()),
            np.full_like(right, right.max()),
        )
    u = (x + 0.5 - ((left + right) / 2)[:, None]) / half
    index = np.clip((u + 1) * 127.5, 0, 255).astype(np.uint8)
    factor, glint = _ramp(surface, side, front_share)
    factor = 1 + (factor - factor.mean()) * strength + (factor.mean() - 1) * 0.85
    lit = pixels[..., :3] * factor[index][..., None] + (glint * (gloss * 105 * strength))[index][..., None]
    if surface != "box":  # the base turns away from the light
        rows = np.linspace(0, 1, pixels.shape[0], dtype=np.float32)
        lit *= (1 - 0.22 * np.clip((rows - 0.955) / 0.045, 0, 1))[:, None, None]
    result = np.empty_like(pixels)
    np.clip(lit, 0, 255, out=lit)
    result[..., :3] = lit
    result[..., 3] = pixels[..., 3]
    return Image.fromarray(result)


def spans(alpha: NDArray[np.uint8]) -> tuple[Floats, Floats]:
    """Left and right end of the opaque part of each row, in pixels; both are in the middle for empty rows."""
    solid = alpha > 110
    left = solid.argmax(1).astype(np.float32)
    right = (alpha.shape[1] - solid[:, ::-1].argmax(1)).astype(np.float32)
    empty = ~solid[np.arange(alpha.shape[0]), left.astype(np.intp)]
    left[empty] = right[empty] = alpha.shape[1] / 2
    return left, right


@dataclass(frozen=True)
class Body:
    """A body that casts a shadow: half widths and axis over the height. Lengths are shares of the frame."""

    x: float
    """Horizontal position of its ground point."""
    y: float
    """Vertical position of its ground point in the picture."""
    heights: Floats
    """Heights in rising order, from 0 at the ground."""
    widths: Floats
    centres: Floats
    """Offset of the axis from x at each height."""
    lift: float = 0.0
    """Height of its lowest point above the ground."""

    @property
    def height(self) -> float:
        return float(self.heights[-1])

    @property
    def foot(self) -> float:
        """Half width of the part that touches the ground, at least a thousandth of the frame."""
        return max(0.001, float(self.widths[: max(2, len(self.widths) // 12)].max()))


def body_of(alpha: Image.Image, x: float, y: float, unit: float, lift: float = 0.0) -> Body:
    """The body of a sprite whose bottom centre is at (x, y).

    Args:
        unit: side of the frame in pixels.
    """
    small = np.asarray(alpha.resize((max(8, alpha.width // 3), max(8, alpha.height // 3)), Image.Resampling.BOX))
    left, right = spans(small)
    scale_x, scale_y = alpha.width / small.shape[1] / unit, alpha.height / small.shape[0] / unit
    widths = ((right - left) / 2 * scale_x)[::-1].astype(np.float32)
    widths = np.convolve(np.pad(widths, 2, mode="edge"), np.full(5, 0.2), "valid").astype(np.float32)
    # The curved front of a round base covers only the middle of its last rows, so the width is taken from above them.
    low = max(2, round(0.06 * len(widths)))
    widths[:low] = widths[: low + 1].max()
    centres = (((left + right) / 2 - small.shape[1] / 2) * scale_x)[::-1].astype(np.float32)
    centres[:low] = centres[low]
    heights = (np.arange(len(widths), dtype=np.float32) * np.float32(scale_y)) + np.float32(lift)
    return Body(x, y, heights, widths, centres, lift)


@lru_cache(maxsize=8)
def grid(n: int) -> tuple[Floats, Floats]:
    """x (1 x n) and y (n x 1) of the centres of an n x n frame of side 1."""
    steps = ((np.arange(n, dtype=np.float32) + 0.5) / n).astype(np.float32)
    return steps[None, :], steps[:, None]


def cast(n: int, body: Body, light: Light) -> Floats:
    """Cast shadow on the ground as an n x n mask, 0-1."""
    xs, ys = grid(n)
    turn = radians(light.angle)
    dx, dy = -light.side * cos(turn), sin(turn)
    foot = body.foot
    # The sprite's last row is the front of its base, and the axis meets the ground farther back.
    across, deep = xs - body.x, (body.y - BASE_DEPTH * foot - ys) / FORESHORTENING
    along = across * dx + deep * dy
    aside = deep * dx - across * dy
    z = along / light.length
    top = np.float32(body.height)
    axis = np.interp(z, body.heights, body.centres).astype(np.float32)
    aside = aside + axis * dy
    # A base that is wider than deep looks narrower from the light; the effect is reduced because most bodies are round.
    slender = 0.3 + 0.7 * sqrt(dy * dy + (DEPTH_SHARE * dx) ** 2)
    width = np.interp(z, body.heights, body.widths).astype(np.float32) * slender
    reach = np.clip(z / top, 0, 1)
    soft = 0.02 + 0.05 * reach
    mask = np.clip((width - np.abs(aside)) / soft + 0.5, 0, 1)
    mask *= np.clip((top - z) / (0.02 + 0.06 * top) + 0.3, 0, 1)  # fades out at the far end
    if body.lift <= 0:
        mask *= np.clip(along / (0.4 * foot), 0, 1)
        base = np.hypot(across / foot, deep / (foot * DEPTH_SHARE))
        mask = np.maximum(mask, np.clip((1 - base) * 4, 0, 1))
    else:
        mask *= np.clip((z - body.lift) / 0.03 + 0.5, 0, 1)
    if light.hardness != 1:
        mask = np.clip((mask - 0.4) * light.hardness + 0.5, 0, 1)
        reach = np.zeros_like(reach)  # it stays dark to its end
    return np.asarray(mask * (1 - 0.35 * reach), np.float32)


def contact(n: int, x: float, y: float, half: float, lift: float = 0.0) -> Floats:
    """The dark, narrow line under an object, 0-1; it is wide and faint under a floating object."""
    xs, ys = grid(n)
    spread = 1.12 + 3.0 * lift
    centre = y - BASE_DEPTH * 0.9 * half
    across, deep = (xs - x) / (half * spread), (ys - centre) / (half * (0.17 + 1.2 * lift) + 0.004)
    return np.asarray(np.exp(-((across * across + deep * deep) ** 1.5)), np.float32)
