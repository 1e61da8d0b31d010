"""Edits of a cut-out that make defects of its appearance, and pieces that grow out of it.

Every edit takes the RGBA sprite, a severity, a random stream, and where the product has fine detail. The same stream
makes the same choices for every severity, so only the size of the change differs. The base of the product stays in the
last row. A sprite becomes wider on both sides by the same amount, so that the product stays in its middle.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from trainer.data.render.photo_facts import Detail, find_copy

Floats = NDArray[np.float32]
Edit = Callable[[Image.Image, int, np.random.Generator, Detail | None], Image.Image]

_MIDDLE = Detail(0.5, 0.55)


# --- colour -------------------------------------------------------------------------------------------------------


def _all_colours(sprite: Image.Image, severity: int, rng: np.random.Generator, _: Detail | None) -> Image.Image:
    rgb, alpha = _split(sprite)
    return _joined(_recoloured(rgb, rng, {1: 16, 2: 32, 3: 56}[severity], np.ones(rgb.shape[:2], np.float32)), alpha)


def _part_colour(sprite: Image.Image, severity: int, rng: np.random.Generator, _: Detail | None) -> Image.Image:
    """Another colour for everything that has the colour of a random point, or for a band if that is too much."""
    rgb, alpha = _split(sprite)
    lab = cv2.cvtColor(cv2.GaussianBlur(rgb / 255, (0, 0), 2), cv2.COLOR_RGB2LAB)
    solid = alpha > 200
    rows, columns = np.nonzero(solid)
    part = _band(rgb.shape[:2], rng)
    for pick in rng.integers(len(rows), size=16):
        off = np.linalg.norm((lab - lab[rows[pick], columns[pick]]) * (0.5, 1, 1), axis=2)
        alike = (off < 20) & solid
        if 0.12 < alike.sum() / solid.sum() < 0.6:
            part = cv2.GaussianBlur(alike.astype(np.float32), (0, 0), max(1.0, 0.004 * len(rgb)))
            break
    return _joined(_recoloured(rgb, rng, {1: 24, 2: 42, 3: 66}[severity], np.asarray(part, np.float32)), alpha)


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
    unit = _unit(sprite)
    push = {1: 0.07, 2: 0.13, 3: 0.22}[severity] * unit * _sign(rng)
    centre, reach = float(rng.uniform(0.3, 0.6)), 0.13
    sprite = _widened(sprite, abs(push))
    x, y = _coordinates(sprite)
    return _remapped(sprite, x - push * np.exp(-(((y / sprite.height - centre) / reach) ** 2)), y)


def _part_stretched(sprite: Image.Image, severity: int, rng: np.random.Generator, _: Detail | None) -> Image.Image:
    """The upper part becomes wider or narrower than the lower one."""
    factor = {1: 1.2, 2: 1.4, 3: 1.75}[severity]
    if rng.random() < 0.5:
        factor = 1 / factor
    sprite = _widened(sprite, max(0.0, factor - 1) * sprite.width / 2)
    x, y = _coordinates(sprite)
    ramp = np.clip((0.62 - y / sprite.height) / 0.3, 0, 1)
    scale = 1 + (factor - 1) * ramp * ramp * (3 - 2 * ramp)
    middle = (sprite.width - 1) / 2
    return _remapped(sprite, middle + (x - middle) / scale, y)


def _part_missing(sprite: Image.Image, severity: int, rng: np.random.Generator, _: Detail | None) -> Image.Image:
    """Cut off the top or a side along a slightly wavy line."""
    pixels = np.array(sprite)
    turn = np.radians((90, 20, 160)[int(rng.integers(3))] + float(rng.uniform(-18, 18)))
    x, y = _coordinates(sprite)
    outward = np.cos(turn) * x - np.sin(turn) * y
    along = np.sin(turn) * x + np.cos(turn) * y
    outward = outward + 0.012 * _unit(sprite) * np.sin(along / _unit(sprite) * 14 + float(rng.uniform(0, 6)))
    solid = pixels[..., 3] > 127
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
    mask.paste(_soft_edges(piece.size), at)
    return _mixed(sprite, layer, mask)


# --- lettering and detail -----------------------------------------------------------------------------------------


def _blurred(sprite: Image.Image, severity: int, _: np.random.Generator, detail: Detail | None) -> Image.Image:
    factor = {1: 1.0, 2: 1.25, 3: 1.6}[severity]
    softness = {1: 0.014, 2: 0.024, 3: 0.045}[severity] * _unit(sprite)
    return _changed_inside(sprite, detail, factor, lambda piece: cv2.GaussianBlur(piece, (0, 0), softness))


def _garbled(sprite: Image.Image, severity: int, rng: np.random.Generator, detail: Detail | None) -> Image.Image:
    """Displace the pixels of the detail by smooth noise, so that letters and lines lose their form."""
    strength = {1: 0.016, 2: 0.028, 3: 0.05}[severity] * _unit(sprite)
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
    rgb, alpha = _split(sprite)
    inside = np.s_[box[1] : box[3], box[0] : box[2]]
    piece = _filled(rgb, alpha)[inside]
    share = np.asarray(_soft_edges((piece.shape[1], piece.shape[0])), np.float32)[..., None] / 255
    rgb[inside] = piece * (1 - share) + np.asarray(change(np.ascontiguousarray(piece)), np.float32) * share
    return _joined(rgb, alpha)


# --- pieces that grow out of the product --------------------------------------------------------------------------


def _grown(sprite: Image.Image, severity: int, rng: np.random.Generator, _: Detail | None) -> Image.Image:
    """A finger of the product's own surface grows out of its side."""
    unit = _unit(sprite)
    reach = {1: 0.13, 2: 0.24, 3: 0.42}[severity] * unit
    half = {1: 0.055, 2: 0.07, 3: 0.095}[severity] * unit
    return _extended(sprite, rng, float(rng.uniform(0.3, 0.6)) * sprite.height, reach, half, 2, rng.uniform(-0.35, 0.6))


def _continued(sprite: Image.Image, severity: int, rng: np.random.Generator, _: Detail | None) -> Image.Image:
    """The product goes on beyond its side."""
    reach = {1: 0.13, 2: 0.26, 3: 0.45}[severity] * _unit(sprite)
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
    sprite = _widened(sprite, reach + 2)
    if left := bool(rng.random() < 0.5):
        sprite = sprite.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    rgb, alpha = _split(sprite)
    x, y = _coordinates(sprite)
    solid = alpha > 127
    rows = np.clip(np.arange(sprite.height), *np.flatnonzero(solid.any(1))[[0, -1]])
    edge = (sprite.width - 1 - solid[rows, ::-1].argmax(1)).astype(np.float32)
    edge = np.asarray(cv2.blur(edge[:, None], (1, max(3, int(half) // 2 * 2 + 1))), np.float32)
    beyond = x - edge
    aside = (y - (centre - slope * np.maximum(beyond, 0))) / half
    far = reach * np.clip(1 - np.abs(aside) ** power, 0, 1) ** (1 / power)
    mask = np.clip(far - beyond + 0.5, 0, 1) * np.clip((1 - np.abs(aside)) * half, 0, 1) * (beyond > -3)
    source = np.clip(edge - 3 - np.abs(beyond) * 0.8, 0, None)
    new = cv2.remap(_filled(rgb, alpha), source, np.clip(y + slope * beyond, 0, None), cv2.INTER_LINEAR)
    shaded = np.asarray(new, np.float32) * (1 - 0.25 * np.clip(aside, 0, 1) ** 2)[..., None]
    piece = Image.fromarray(np.dstack([shaded.clip(0, 255), mask * 255]).astype(np.uint8))
    joined = Image.alpha_composite(piece, sprite)
    return joined.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if left else joined


def _attached(sprite: Image.Image, severity: int, rng: np.random.Generator, _: Detail | None) -> Image.Image:
    """A small copy of the product sticks out of its side."""
    share = {1: 0.3, 2: 0.42, 3: 0.6}[severity]
    turn, level, side = float(rng.uniform(25, 60)), float(rng.uniform(0.25, 0.5)), _sign(rng)
    copy = sprite.resize((max(4, round(sprite.width * share)), max(4, round(sprite.height * share))))
    copy = copy.rotate(-side * turn, Image.Resampling.BICUBIC, expand=True)
    sprite = _widened(sprite, copy.width * 0.7)
    solid = np.flatnonzero(np.asarray(sprite.getchannel("A"))[round(level * sprite.height)] > 127)
    edge = float(solid[-1 if side > 0 else 0]) if len(solid) else sprite.width / 2
    layer = Image.new("RGBA", sprite.size)
    layer.paste(copy, (round(edge + side * 0.2 * copy.width - copy.width / 2), round(level * sprite.height - copy.height / 2)))
    return Image.alpha_composite(layer, sprite)


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
    "grown": _grown,
    "continued": _continued,
    "attached": _attached,
}
"""Name → edit."""


# --- pixels -------------------------------------------------------------------------------------------------------


def _sign(rng: np.random.Generator) -> int:
    return 1 if rng.random() < 0.5 else -1


def _unit(sprite: Image.Image) -> float:
    """The length to which changes are relative, in pixels: the shorter side, or half of the longer one if that is more."""
    return max(min(sprite.size), max(sprite.size) / 2)


def _split(sprite: Image.Image) -> tuple[Floats, NDArray[np.uint8]]:
    pixels = np.asarray(sprite)
    return pixels[..., :3].astype(np.float32), pixels[..., 3]


def _joined(rgb: Floats, alpha: NDArray[np.uint8]) -> Image.Image:
    return Image.fromarray(np.dstack([np.clip(rgb, 0, 255).round().astype(np.uint8), alpha]))


def _filled(rgb: Floats, alpha: NDArray[np.uint8]) -> Floats:
    """Colours in which transparent pixels have those of the product nearby, so that they may be moved into it."""
    weight = (alpha > 200).astype(np.float32)
    spread = max(2.0, 0.03 * max(rgb.shape[:2]))
    near = cv2.GaussianBlur(rgb * weight[..., None], (0, 0), spread)
    share = cv2.GaussianBlur(weight, (0, 0), spread)[..., None]
    return np.where(weight[..., None] > 0, rgb, near / np.maximum(share, 1e-3)).astype(np.float32)


def _coordinates(sprite: Image.Image) -> tuple[Floats, Floats]:
    y, x = np.mgrid[0 : sprite.height, 0 : sprite.width].astype(np.float32)
    return x, y


def _widened(sprite: Image.Image, by: float) -> Image.Image:
    """Add transparent columns on both sides."""
    wide = Image.new("RGBA", (sprite.width + 2 * round(by), sprite.height))
    wide.paste(sprite, (round(by), 0))
    return wide


def _remapped(sprite: Image.Image, x: Floats, y: Floats) -> Image.Image:
    """Each pixel from another place. Colours are weighted by their opacity, so that no fringe appears."""
    rgb, alpha = _split(sprite)
    weighted = np.dstack([rgb * (alpha[..., None] / 255), alpha]).astype(np.float32)
    moved = np.asarray(cv2.remap(weighted, x.astype(np.float32), y.astype(np.float32), cv2.INTER_LINEAR), np.float32)
    opacity = moved[..., 3]
    return _joined(moved[..., :3] / np.maximum(opacity[..., None] / 255, 1e-3), opacity.round().astype(np.uint8))


def _soft_edges(size: tuple[int, int]) -> Image.Image:
    """A mask that is opaque in the middle and fades out at its edges."""
    width, height = size
    across, down = (
        np.clip(np.minimum(np.arange(n) + 0.5, n - np.arange(n) - 0.5) / max(1.0, 0.12 * n), 0, 1) for n in (width, height)
    )
    return Image.fromarray((np.outer(down, across) * 255).astype(np.uint8))


def _mixed(sprite: Image.Image, layer: Image.Image, mask: Image.Image) -> Image.Image:
    """Put a layer over the product where the mask is opaque; the outline of the product stays."""
    mixed = Image.composite(layer, sprite, Image.fromarray(np.minimum(np.asarray(mask), np.asarray(layer)[..., 3])))
    mixed.putalpha(sprite.getchannel("A"))
    return mixed
