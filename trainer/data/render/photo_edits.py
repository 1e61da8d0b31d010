"""Edits of a cut-out that make defects of its appearance, and pieces that grow out of it.

Every edit takes the RGBA sprite, a severity, a random stream, and where the product has fine detail. The same stream
makes the same choices for every severity, so only the size of the change differs. The base of the product stays in the
last row. A sprite becomes wider on both sides by the same amount, so that the product stays in its middle.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import cv2
import numpy as np
from PIL import Image

from trainer.data.render.photo_facts import Detail, find_copy
from trainer.data.render.photo_growth import attached, continued, grown
from trainer.data.render.photo_pixels import (
    Floats,
    coordinates,
    filled,
    joined,
    mixed,
    remapped,
    rgb_and_alpha,
    sign,
    soft_edges,
    solid_pixels,
    unit,
    widened,
)

Edit = Callable[[Image.Image, int, np.random.Generator, Detail | None], Image.Image]

_MIDDLE = Detail(0.5, 0.55)
"""Where a product without fine detail is edited."""


# --- colour -------------------------------------------------------------------------------------------------------


def _all_colours(sprite: Image.Image, severity: int, rng: np.random.Generator, _: Detail | None) -> Image.Image:
    rgb, alpha = rgb_and_alpha(sprite)
    return joined(_recoloured(rgb, rng, {1: 16, 2: 32, 3: 56}[severity], np.ones(rgb.shape[:2], np.float32)), alpha)


def _part_colour(sprite: Image.Image, severity: int, rng: np.random.Generator, _: Detail | None) -> Image.Image:
    """Another colour for everything that has the colour of a random point, or for a band if that is too much."""
    rgb, alpha = rgb_and_alpha(sprite)
    lab = cv2.cvtColor(cv2.GaussianBlur(rgb / 255, (0, 0), 2), cv2.COLOR_RGB2LAB)
    solid = solid_pixels(alpha)
    rows, columns = np.nonzero(solid)
    part = _band(rgb.shape[:2], rng)
    for pick in rng.integers(len(rows), size=16):
        off = np.linalg.norm((lab - lab[rows[pick], columns[pick]]) * (0.5, 1, 1), axis=2)
        alike = (off < 20) & solid
        if 0.12 < alike.sum() / solid.sum() < 0.6:
            part = cv2.GaussianBlur(alike.astype(np.float32), (0, 0), max(1.0, 0.004 * len(rgb)))
            break
    return joined(_recoloured(rgb, rng, {1: 24, 2: 42, 3: 66}[severity], np.asarray(part, np.float32)), alpha)


def _band(shape: tuple[int, ...], rng: np.random.Generator) -> Floats:
    centre = float(rng.uniform(0.25, 0.75))
    rows = np.linspace(0, 1, shape[0], dtype=np.float32)[:, None]
    return np.broadcast_to(np.clip((0.13 - np.abs(rows - centre)) / 0.012, 0, 1), shape).astype(np.float32)


def _recoloured(rgb: Floats, rng: np.random.Generator, distance: float, part: Floats) -> Floats:
    """Move the colours of a part by a distance in CIE L*a*b*, in a random direction."""
    lab = cv2.cvtColor(rgb / 255, cv2.COLOR_RGB2LAB).astype(np.float32)
    turn = float(rng.uniform(0, 2 * np.pi))
    shift = np.array([-0.15, np.cos(turn), np.sin(turn)], np.float32) * distance
    moved = cv2.cvtColor((lab + part[..., None] * shift).astype(np.float32), cv2.COLOR_LAB2RGB)
    return np.clip(np.asarray(moved, np.float32) * 255, 0, 255)


# --- shape --------------------------------------------------------------------------------------------------------


def _bent(sprite: Image.Image, severity: int, rng: np.random.Generator, _: Detail | None) -> Image.Image:
    """A part at half height is pushed to one side."""
    length = unit(sprite)
    push = {1: 0.07, 2: 0.13, 3: 0.22}[severity] * length * sign(rng)
    centre, reach = float(rng.uniform(0.3, 0.6)), 0.13
    sprite = widened(sprite, abs(push))
    x, y = coordinates(sprite)
    return remapped(sprite, x - push * np.exp(-(((y / sprite.height - centre) / reach) ** 2)), y)


def _part_stretched(sprite: Image.Image, severity: int, rng: np.random.Generator, _: Detail | None) -> Image.Image:
    """The upper part becomes wider or narrower than the lower one."""
    factor = {1: 1.2, 2: 1.4, 3: 1.75}[severity]
    if rng.random() < 0.5:
        factor = 1 / factor
    sprite = widened(sprite, max(0.0, factor - 1) * sprite.width / 2)
    x, y = coordinates(sprite)
    ramp = np.clip((0.62 - y / sprite.height) / 0.3, 0, 1)
    scale = 1 + (factor - 1) * ramp * ramp * (3 - 2 * ramp)
    middle = (sprite.width - 1) / 2
    return remapped(sprite, middle + (x - middle) / scale, y)


def _part_missing(sprite: Image.Image, severity: int, rng: np.random.Generator, _: Detail | None) -> Image.Image:
    """Cut off the top or a side along a slightly wavy line."""
    pixels = np.array(sprite)
    turn = np.radians((90, 20, 160)[int(rng.integers(3))] + float(rng.uniform(-18, 18)))
    x, y = coordinates(sprite)
    outward = np.cos(turn) * x - np.sin(turn) * y
    along = np.sin(turn) * x + np.cos(turn) * y
    outward = outward + 0.012 * unit(sprite) * np.sin(along / unit(sprite) * 14 + float(rng.uniform(0, 6)))
    solid = solid_pixels(pixels[..., 3])
    line = float(np.quantile(outward[solid], 1 - {1: 0.06, 2: 0.13, 3: 0.26}[severity]))
    pixels[..., 3] = (pixels[..., 3] * np.clip(line - outward + 0.5, 0, 1)).astype(np.uint8)
    return Image.fromarray(pixels)


def _part_doubled(sprite: Image.Image, severity: int, _: np.random.Generator, detail: Detail | None) -> Image.Image:
    """A detail occurs a second time beside itself."""
    detail = detail or _MIDDLE
    shift = find_copy(sprite, detail) or (0.0, -0.2)
    box = detail.box(sprite, {1: 0.5, 2: 0.7, 3: 0.95}[severity])
    piece = sprite.crop(box)
    at = (round(box[0] + shift[0] * sprite.width), round(box[1] + shift[1] * sprite.height))
    layer = Image.new("RGBA", sprite.size)
    layer.paste(piece, at)
    mask = Image.new("L", sprite.size)
    mask.paste(soft_edges(piece.size), at)
    return mixed(sprite, layer, mask)


# --- lettering and detail -----------------------------------------------------------------------------------------


def _blurred(sprite: Image.Image, severity: int, _: np.random.Generator, detail: Detail | None) -> Image.Image:
    factor = {1: 1.0, 2: 1.25, 3: 1.6}[severity]
    softness = {1: 0.014, 2: 0.024, 3: 0.045}[severity] * unit(sprite)
    return _changed_inside(sprite, detail, factor, lambda piece: cv2.GaussianBlur(piece, (0, 0), softness))


def _garbled(sprite: Image.Image, severity: int, rng: np.random.Generator, detail: Detail | None) -> Image.Image:
    """Displace the pixels of the detail by smooth noise, so that letters and lines lose their form."""
    strength = {1: 0.016, 2: 0.028, 3: 0.05}[severity] * unit(sprite)
    coarse = rng.standard_normal((2, 7, 9)).astype(np.float32)

    def distort(piece: Floats) -> Floats:
        height, width = piece.shape[:2]
        across, down = (cv2.resize(one, (width, height), interpolation=cv2.INTER_CUBIC) * strength for one in coarse)
        x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
        return np.asarray(
            cv2.remap(piece, x + across, y + down, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT), np.float32
        )

    return _changed_inside(sprite, detail, {1: 1.0, 2: 1.2, 3: 1.5}[severity], distort)


def _erased(sprite: Image.Image, severity: int, _: np.random.Generator, detail: Detail | None) -> Image.Image:
    """Fill the detail from its surroundings."""

    def fill(piece: Floats) -> Floats:
        small = cv2.resize(piece.clip(0, 255).astype(np.uint8), (96, 96), interpolation=cv2.INTER_AREA)
        hole = np.zeros((96, 96), np.uint8)
        hole[6:-6, 6:-6] = 255
        filled = cv2.inpaint(small, hole, 3, cv2.INPAINT_TELEA)
        smooth = cv2.GaussianBlur(filled, (0, 0), 4)
        return cv2.resize(smooth, piece.shape[1::-1], interpolation=cv2.INTER_CUBIC).astype(np.float32)

    return _changed_inside(sprite, detail, {1: 0.6, 2: 0.95, 3: 1.5}[severity], fill)


def _mirrored(sprite: Image.Image, severity: int, _: np.random.Generator, detail: Detail | None) -> Image.Image:
    factor = {1: 0.75, 2: 1.0, 3: 1.5}[severity]
    return _changed_inside(sprite, detail, factor, lambda piece: piece[:, ::-1])


def _changed_inside(
    sprite: Image.Image, detail: Detail | None, factor: float, change: Callable[[Floats], Floats | cv2.typing.MatLike]
) -> Image.Image:
    """Change the colours of a detail, with soft edges; the outline of the product stays."""
    box = (detail or _MIDDLE).box(sprite, factor)
    rgb, alpha = rgb_and_alpha(sprite)
    inside = np.s_[box[1] : box[3], box[0] : box[2]]
    piece = filled(rgb, alpha)[inside]
    share = np.asarray(soft_edges((piece.shape[1], piece.shape[0])), np.float32)[..., None] / 255
    rgb[inside] = piece * (1 - share) + np.asarray(change(np.ascontiguousarray(piece)), np.float32) * share
    return joined(rgb, alpha)


EDITS: Mapping[str, Edit] = {
    "all_colours": _all_colours,
    "part_colour": _part_colour,
    "bent": _bent,
    "part_stretched": _part_stretched,
    "part_missing": _part_missing,
    "part_doubled": _part_doubled,
    "details_blurred": _blurred,
    "details_garbled": _garbled,
    "details_erased": _erased,
    "details_mirrored": _mirrored,
    "grown": grown,
    "continued": continued,
    "attached": attached,
}
"""Name → edit."""
