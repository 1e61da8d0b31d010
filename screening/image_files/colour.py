"""From a picture's own colours to sRGB, as browsers show it: the model is trained and asked in sRGB."""

from __future__ import annotations

import itertools
from functools import lru_cache
from io import BytesIO
from typing import Any

from PIL import Image, ImageChops, ImageCms

MAX_PROFILE_BYTES = 4 * 2**20
"""Larger profiles count as none. Those of printing presses, the largest in use, have up to 3 MiB."""

_SAME = 2
"""Largest difference of a channel, in levels of 255, within which a profile is taken for sRGB's own."""
_KEPT = 16
"""Transforms kept. Most pictures carry one of a handful of profiles."""
_PICTURE_CLASSES = ("mntr", "scnr", "prtr", "spac")
_MODES = {"RGB ": "RGB", "GRAY": "L", "CMYK": "CMYK"}
"""Colour space of a profile → mode of Pillow."""


def is_srgb(mode: str, profile: bytes | None) -> bool:
    """Whether pixels of a mode are in sRGB already, or their profile counts as none."""
    if profile is None or len(profile) > MAX_PROFILE_BYTES:
        return True
    if mode not in ("L", "LA"):
        return _transform(profile, mode) is None
    return _transform(profile, "L") is None and _transform(profile, "RGB") is None


def to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Convert L, LA, RGB, RGBA or CMYK from an ICC profile to sRGB; alpha stays.

    The picture is returned as it is where the profile is sRGB itself, is damaged, or describes other channels than the
    picture has: such a profile counts as none. A grey picture may have an RGB profile.
    """
    if profile is None or is_srgb(image.mode, profile):
        return image
    if image.mode not in ("L", "LA"):
        return _applied(_transform(profile, image.mode), image)
    colour = image.convert("RGBA" if image.mode == "LA" else "RGB")
    if (transform := _transform(profile, "L")) is None:
        return _applied(_transform(profile, colour.mode), colour)
    shown = _applied(transform, image.getchannel("L"))
    if image.mode == "LA":
        shown.putalpha(image.getchannel("A"))
    return shown


def _applied(transform: ImageCms.ImageCmsTransform | None, image: Image.Image) -> Image.Image:
    return image if transform is None else transform.apply(image)


@lru_cache(maxsize=_KEPT)
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """The transform to sRGB for pixels of a mode; None where none is needed, or none can be made."""
    try:
        source = ImageCms.ImageCmsProfile(BytesIO(profile))
        described: Any = source.profile
        if described.device_class not in _PICTURE_CLASSES or _MODES.get(described.xcolor_space) != mode.removesuffix(
            "A"
        ):
            return None
        transform = ImageCms.buildTransform(
            source,
            ImageCms.createProfile("sRGB"),
            mode,
            "RGBA" if mode == "RGBA" else "RGB",
            ImageCms.Intent.PERCEPTUAL,
            ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
        return None if _changes_nothing(transform, mode) else transform
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None


def _changes_nothing(transform: ImageCms.ImageCmsTransform, mode: str) -> bool:
    """Whether no colour of a grid, all greys among them, changes by more than `_SAME`: the profile is sRGB itself."""
    if mode == "CMYK":
        return False
    levels = range(0, 256, 15)
    greys = [(level,) * 3 for level in range(256)]
    colours = [*itertools.product(levels, levels, levels), *greys]
    grid = Image.new("RGB", (len(colours), 1))
    grid.putdata(colours)
    shown = transform.apply(grid.convert(mode)).convert("RGB")
    if mode == "L":
        grid = grid.convert("L").convert("RGB")
    planes = ImageChops.difference(grid, shown).split()
    return not any(any(plane.histogram()[_SAME + 1 :]) for plane in planes)
