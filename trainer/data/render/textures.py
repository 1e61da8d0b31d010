"""Surfaces of walls and grounds, painted once per process from fixed seeds, then cut and tinted per picture."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIDE = 512
VARIANTS = 4
"""Number of different pieces of each material."""

Floats = NDArray[np.float32]
Colour = tuple[float, float, float]


def noise(rng: np.random.Generator, across: int, down: int, shape: tuple[int, int] = (SIDE, SIDE)) -> Floats:
    """Smooth noise with mean 0 and a range of about -1..1, with `across` x `down` blobs."""
    coarse = rng.standard_normal((max(2, down), max(2, across))).astype(np.float32)
    image = Image.fromarray(coarse).resize((shape[1], shape[0]), Image.Resampling.BICUBIC)
    return np.asarray(image, np.float32) * 0.6


def _tint(field: Floats, colour: Colour, contrast: float) -> Floats:
    """A colour whose brightness follows a field."""
    return np.asarray(np.array(colour, np.float32) * (1 + contrast * field[..., None]), np.float32)


def _wood(rng: np.random.Generator, variant: int) -> Floats:
    colour = [(186, 138, 92), (206, 164, 118), (158, 108, 70), (214, 184, 146)][variant]
    grain = 0.5 * noise(rng, 3, 90) + 0.35 * noise(rng, 5, 200) + 0.4 * noise(rng, 2, 12)
    field = _tint(grain, colour, 0.13)
    for i in range(6):  # planks
        edge = i * SIDE // 6
        field[edge : edge + 3] *= 0.72
        field[edge : edge + SIDE // 6] *= 1 + 0.05 * rng.standard_normal()
    return field


def _marble(rng: np.random.Generator, variant: int) -> Floats:
    colour = [(236, 234, 232), (226, 228, 232), (238, 230, 220), (214, 220, 216)][variant]
    bend = noise(rng, 3, 3) + 0.3 * noise(rng, 9, 9)
    veins = np.exp(
        -np.abs(np.sin(np.linspace(0, 5, SIDE)[:, None] + np.linspace(0, 8, SIDE)[None, :] + 1.3 * bend)) * 9
    )
    return _tint(
        np.asarray(0.35 * noise(rng, 6, 6) - 1.7 * veins * (0.6 + 0.5 * noise(rng, 7, 7)), np.float32), colour, 0.09
    )


def _tiles(rng: np.random.Generator, variant: int) -> Floats:
    colour = [(206, 226, 232), (238, 238, 234), (190, 216, 206), (224, 210, 196)][variant]
    step = SIDE // 8
    field = _tint(0.3 * noise(rng, 8, 8), colour, 0.05)
    field *= 1 + 0.03 * np.kron(rng.standard_normal((8, 8)), np.ones((step, step)))[..., None].astype(np.float32)
    for i in range(8):
        at = i * step
        field[at : at + 5] = field[:, at : at + 5] = np.array([176, 176, 174], np.float32)
        field[at + 5 : at + 9] *= 1.05
    return field


def _cloth(rng: np.random.Generator, variant: int) -> Floats:
    colour = [(218, 206, 190), (176, 190, 206), (226, 196, 196), (190, 200, 178)][variant]
    weave = np.sin(np.arange(SIDE) * 1.6)[:, None] * np.sin(np.arange(SIDE) * 1.6)[None, :]
    folds = np.sin(noise(rng, 3, 4) * 3 + np.linspace(0, 9, SIDE)[:, None])
    return _tint(np.asarray(0.25 * weave + 0.9 * folds, np.float32), colour, 0.07)


def _grass(rng: np.random.Generator, variant: int) -> Floats:
    colour = [(112, 160, 72), (128, 168, 84), (96, 148, 76), (140, 170, 90)][variant]
    blades = 0.8 * noise(rng, 240, 60) + 0.6 * noise(rng, 120, 30) + 0.4 * noise(rng, 9, 9)
    field = _tint(blades, colour, 0.2)
    field[..., 0] += 10 * noise(rng, 60, 60)
    return field


def _sand(rng: np.random.Generator, variant: int) -> Floats:
    colour = [(226, 204, 164), (232, 214, 180), (216, 192, 150), (236, 222, 194)][variant]
    ripples = np.sin(np.linspace(0, 40, SIDE)[:, None] + 3 * noise(rng, 4, 4))
    grains = rng.standard_normal((SIDE, SIDE)).astype(np.float32)
    return _tint(np.asarray(0.5 * ripples + 0.45 * grains + 0.4 * noise(rng, 12, 12), np.float32), colour, 0.06)


def _concrete(rng: np.random.Generator, variant: int) -> Floats:
    colour = [(190, 190, 188), (204, 200, 194), (176, 180, 184), (198, 192, 182)][variant]
    field = 0.6 * noise(rng, 5, 5) + 0.4 * noise(rng, 24, 24) + 0.4 * rng.standard_normal((SIDE, SIDE))
    return _tint(field.astype(np.float32), colour, 0.055)


def _slate(rng: np.random.Generator, variant: int) -> Floats:
    colour = [(126, 132, 140), (136, 134, 130), (116, 126, 130), (142, 146, 152)][variant]
    field = 0.6 * noise(rng, 4, 16) + 0.5 * noise(rng, 20, 60) + 0.3 * rng.standard_normal((SIDE, SIDE))
    return _tint(field.astype(np.float32), colour, 0.1)


def _terrazzo(rng: np.random.Generator, variant: int) -> Floats:
    colour = [(232, 228, 222), (222, 226, 228), (236, 222, 214), (224, 228, 216)][variant]
    field = _tint(0.2 * noise(rng, 8, 8), colour, 0.04)
    chips = [(196, 132, 110), (120, 140, 140), (206, 176, 128), (160, 156, 150)]
    cells = noise(rng, 90, 90)
    which = noise(rng, 40, 40)
    for i, chip in enumerate(chips):
        field[(cells > 0.62) & (np.floor(which * 4) % 4 == i)] = chip
    return field


def _plaster(rng: np.random.Generator, variant: int) -> Floats:
    colour = [(222, 214, 202), (206, 214, 218), (224, 206, 196), (208, 214, 200)][variant]
    return _tint(0.5 * noise(rng, 6, 6) + 0.25 * noise(rng, 60, 60), colour, 0.03)


_PAINTERS: dict[str, Callable[[np.random.Generator, int], Floats]] = {
    "wood": _wood,
    "marble": _marble,
    "tiles": _tiles,
    "cloth": _cloth,
    "grass": _grass,
    "sand": _sand,
    "concrete": _concrete,
    "slate": _slate,
    "terrazzo": _terrazzo,
    "plaster": _plaster,
}


@cache
def wall(material: str, variant: int) -> Image.Image:
    """A material seen from the front, 512 x 512 pixels."""
    return _image(_surface(material, variant))


@cache
def ground(material: str, variant: int) -> Image.Image:
    """A flat material seen from slightly above: 768 pixels wide, 320 deep, with the far edge at the top."""
    surface = _surface(material, variant)
    rows, columns = 320, 768
    t = np.linspace(0, 1, rows)[:, None]
    depth = 1 / (0.32 + 0.68 * t)  # 3 at the far edge, 1 at the near one
    u = (np.linspace(-0.5, 0.5, columns)[None, :] * depth * 1.05 + 0.5) * SIDE
    v = np.broadcast_to(depth * 0.85 * SIDE, u.shape)
    return _image(surface[_folded(v), _folded(u)])


@cache
def grain() -> NDArray[np.int16]:
    """Sensor noise of a good camera, 768 x 768."""
    return np.rint(np.random.default_rng(99).normal(0, 1.3, (768, 768, 1))).astype(np.int16)


@cache
def _surface(material: str, variant: int) -> Floats:
    return _PAINTERS[material](np.random.default_rng((7, list(_PAINTERS).index(material), variant)), variant)


def _folded(index: NDArray[np.floating]) -> NDArray[np.intp]:
    """Reflect an index into 0..SIDE-1, so that a material continues without a seam."""
    i = np.floor(index).astype(np.intp) % (2 * SIDE)
    return np.where(i < SIDE, i, 2 * SIDE - 1 - i)


def _image(field: Floats) -> Image.Image:
    return Image.fromarray(np.clip(field, 0, 255).astype(np.uint8))
