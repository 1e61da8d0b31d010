"""Operations on the pixels of a cut-out, which the edits of photos share."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

Floats = NDArray[np.float32]


def sign(rng: np.random.Generator) -> int:
    return 1 if rng.random() < 0.5 else -1


def unit(sprite: Image.Image) -> float:
    """The length in pixels to which changes are relative: the shorter side, or half of the longer one if it is more."""
    return max(min(sprite.size), max(sprite.size) / 2)


def rgb_and_alpha(sprite: Image.Image) -> tuple[Floats, NDArray[np.uint8]]:
    pixels = np.asarray(sprite)
    return pixels[..., :3].astype(np.float32), pixels[..., 3]


def joined(rgb: Floats, alpha: NDArray[np.uint8]) -> Image.Image:
    return Image.fromarray(np.dstack([np.clip(rgb, 0, 255).round().astype(np.uint8), alpha]))


def solid_pixels(alpha: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Where the product is. A product of glass may be nowhere fully opaque."""
    return np.asarray(alpha >= max(1.0, 0.6 * float(alpha.max())))


def filled(rgb: Floats, alpha: NDArray[np.uint8]) -> Floats:
    """Colours in which transparent pixels have those of the product nearby, so that they may be moved into it."""
    weight = solid_pixels(alpha).astype(np.float32)
    spread = max(2.0, 0.03 * max(rgb.shape[:2]))
    near = cv2.GaussianBlur(rgb * weight[..., None], (0, 0), spread)
    share = cv2.GaussianBlur(weight, (0, 0), spread)[..., None]
    return np.where(weight[..., None] > 0, rgb, near / np.maximum(share, 1e-3)).astype(np.float32)


def coordinates(sprite: Image.Image) -> tuple[Floats, Floats]:
    y, x = np.mgrid[0 : sprite.height, 0 : sprite.width].astype(np.float32)
    return x, y


def widened(sprite: Image.Image, by: float) -> Image.Image:
    """Add transparent columns on both sides."""
    wide = Image.new("RGBA", (sprite.width + 2 * round(by), sprite.height))
    wide.paste(sprite, (round(by), 0))
    return wide


def remapped(sprite: Image.Image, x: NDArray[np.floating], y: NDArray[np.floating]) -> Image.Image:
    """Each pixel from another place. Colours are weighted by their opacity, so that no fringe appears."""
    rgb, alpha = rgb_and_alpha(sprite)
    weighted = np.dstack([rgb * (alpha[..., None] / 255), alpha]).astype(np.float32)
    moved = np.asarray(cv2.remap(weighted, x.astype(np.float32), y.astype(np.float32), cv2.INTER_LINEAR), np.float32)
    opacity = moved[..., 3]
    return joined(moved[..., :3] / np.maximum(opacity[..., None] / 255, 1e-3), opacity.round().astype(np.uint8))


def soft_edges(size: tuple[int, int]) -> Image.Image:
    """A mask that is opaque in the middle and fades out at its edges."""
    across, down = (np.minimum(np.arange(n) + 0.5, n - np.arange(n) - 0.5) / max(1.0, 0.12 * n) for n in size)
    return Image.fromarray((np.outer(down.clip(0, 1), across.clip(0, 1)) * 255).astype(np.uint8))


def mixed(sprite: Image.Image, layer: Image.Image, mask: Image.Image) -> Image.Image:
    """Put a layer over the product where the mask is opaque; the outline of the product stays."""
    mixed = Image.composite(layer, sprite, Image.fromarray(np.minimum(np.asarray(mask), np.asarray(layer)[..., 3])))
    mixed.putalpha(sprite.getchannel("A"))
    return mixed
