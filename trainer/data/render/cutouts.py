"""Use a shop's own cut-outs (RGBA pictures) instead of drawn products.

Only their pixels are known, so appearance defects are image operations: another hue, a part of the label erased or
mirrored, the top recoloured.
"""

from __future__ import annotations

import colorsys
import hashlib
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from screening.errors import ImageError, ScreeningError
from screening.images import decode, inspect

SUFFIXES = (".png", ".webp")
_LARGEST = 1024
"""Longer side in pixels of the cut-outs in memory."""


class CutOutError(ScreeningError):
    """A directory of cut-outs or one of its files cannot be used; the message says what to do."""


@dataclass(frozen=True)
class CutOutLook:
    """Edits of a cut-out: (name, severity, random number 0-1)."""

    edits: tuple[tuple[str, int, float], ...] = ()

    def edited(self, name: str, severity: int, chance: float) -> CutOutLook:
        return CutOutLook((*self.edits, (name, severity, chance)))


@dataclass
class CutOut:
    """A product given as an RGBA picture, cropped to its opaque pixels."""

    id: str
    attributes: dict[str, str]
    picture: Image.Image = field(repr=False)
    look: CutOutLook = CutOutLook()
    gloss: float = 0.0
    _sprites: OrderedDict[tuple[CutOutLook, int], Image.Image] = field(default_factory=OrderedDict, repr=False)

    def describe(self) -> str:
        return "a product"

    @property
    def surface(self) -> str:
        return "photo"

    def flat(self, look: CutOutLook, height: int) -> Image.Image:
        """The sprite with its edits, `height` pixels high."""
        key = (look, height)
        if key not in self._sprites:
            width = max(1, round(self.picture.width * height / self.picture.height))
            sprite = self.picture.resize((width, height), Image.Resampling.BICUBIC)
            for name, severity, chance in look.edits:
                sprite = _EDITS[name](sprite, severity, chance)
            self._sprites[key] = sprite
            while len(self._sprites) > 4:
                self._sprites.popitem(last=False)
        return self._sprites[key]


def load_cutouts(directory: Path) -> list[CutOut]:
    """Read every PNG and WebP in a directory, sorted by name.

    Raises:
        CutOutError: the directory is missing or holds no picture, or a picture is unreadable or has no transparent
            background.
    """
    if not directory.is_dir():
        raise CutOutError(f"{directory} is not a directory; name a directory of cut-outs (RGBA PNG files)")
    paths = sorted(p for p in directory.iterdir() if p.is_file() and p.suffix.lower() in SUFFIXES)
    if not paths:
        raise CutOutError(f"{directory} holds no PNG or WebP file; put the cut-outs there (RGBA PNG files)")
    return [_load(path) for path in paths]


def _load(path: Path) -> CutOut:
    data = path.read_bytes()
    try:
        rgba = decode(inspect(data), keep_alpha=True)
    except ImageError as error:
        raise CutOutError(f"{path.name} cannot be read: {error}. Export it again.") from error
    if rgba.mode != "RGBA":
        raise CutOutError(f"{path.name} has no alpha channel; save the cut-out with a transparent background")
    alpha = rgba.getchannel("A")
    box = alpha.point(lambda value: 255 if value > 16 else 0).getbbox()
    if box is None or min(box[2] - box[0], box[3] - box[1]) < 16:
        raise CutOutError(f"{path.name} is almost entirely transparent; it must show a product of at least 16 pixels")
    if int(np.asarray(alpha).min()) > 250:
        raise CutOutError(
            f"{path.name} has no transparent pixels; cut the product out and make its background transparent"
        )
    rgba = rgba.crop(box)
    rgba.thumbnail((_LARGEST, _LARGEST), Image.Resampling.BICUBIC)
    # A product wider than three quarters of its height would leave no room for a setting, so it is drawn smaller.
    return CutOut(f"c{hashlib.sha256(data).hexdigest()[:12]}", {"source": path.name}, rgba)


def _split(sprite: Image.Image) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    pixels = np.asarray(sprite)
    return pixels[..., :3].astype(np.float32), pixels[..., 3:]


def _joined(rgb: NDArray[np.float32], alpha: NDArray[np.uint8]) -> Image.Image:
    return Image.fromarray(np.concatenate([np.clip(rgb, 0, 255).astype(np.uint8), alpha], 2))


def _hue(sprite: Image.Image, severity: int, chance: float) -> Image.Image:
    """Rotate the hues. Grey pixels get a tint, because they would not change otherwise."""
    turn = {1: 20, 2: 45, 3: 110}[severity] * (1 if chance < 0.5 else -1)
    hsv = np.asarray(sprite.convert("RGB").convert("HSV")).copy()
    hsv[..., 0] = (hsv[..., 0].astype(np.int16) + round(turn * 255 / 360)) % 256
    rgb = np.asarray(Image.fromarray(hsv, "HSV").convert("RGB"), np.float32)
    tint = np.array(colorsys.hsv_to_rgb(chance, 0.5, 1.0), np.float32)
    return _joined(rgb * (1 + {1: 0.3, 2: 0.5, 3: 0.7}[severity] * (tint - 1)), _split(sprite)[1])


def _region(sprite: Image.Image, severity: int, chance: float) -> tuple[int, int, int, int]:
    """A region in the middle, where labels are."""
    share = {1: 0.26, 2: 0.4, 3: 0.6}[severity]
    width, height = round(sprite.width * min(0.8, share * 1.5)), round(sprite.height * share * 0.7)
    x, y = (sprite.width - width) // 2, round(sprite.height * (0.3 + 0.2 * chance))
    return x, y, x + width, min(sprite.height, y + height)


def _erase(sprite: Image.Image, severity: int, chance: float) -> Image.Image:
    box = _region(sprite, severity, chance)
    part = sprite.crop(box)
    plain = part.filter(ImageFilter.GaussianBlur(max(part.size) / 8))
    plain.putalpha(part.getchannel("A"))
    result = sprite.copy()
    result.paste(plain, box[:2])
    return result


def _mirror(sprite: Image.Image, severity: int, chance: float) -> Image.Image:
    box = _region(sprite, severity, chance)
    result = sprite.copy()
    flipped = sprite.crop(box).transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    result.paste(flipped, box[:2], flipped.getchannel("A"))
    result.putalpha(sprite.getchannel("A"))
    return result


def _top(sprite: Image.Image, severity: int, chance: float) -> Image.Image:
    rgb, alpha = _split(sprite)
    fifth = max(1, round(sprite.height * 0.2))
    target = np.array(colorsys.hsv_to_rgb(chance, 0.8, 0.85), np.float32) * 255
    grey = rgb[:fifth].mean(2, keepdims=True) / 255
    share = {1: 0.35, 2: 0.6, 3: 0.9}[severity]
    rgb[:fifth] = rgb[:fifth] * (1 - share) + target * (0.35 + 0.65 * grey) * share
    return _joined(rgb, alpha)


_EDITS = {"hue": _hue, "erase": _erase, "mirror": _mirror, "top": _top}
