"""Converts the colours of a picture to sRGB, as browsers do. The model works with sRGB only."""

from __future__ import annotations

import itertools
from functools import lru_cache
from io import BytesIO
from typing import Any

from PIL import Image, ImageChops, ImageCms

MAX_PROFILE_BYTES = 4 * 2**20
"""Maximum size of a profile; larger ones are ignored. The largest in use, for printing presses, have up to 3 MiB."""

_SAME = 2
"""Maximum difference per channel, in levels of 255, up to which a profile counts as sRGB."""
_KEPT = 16
"""Number of cached transforms. Most pictures have one of a few profiles."""
_PICTURE_CLASSES = ("mntr", "scnr", "prtr", "spac")
_MODES = {"RGB ": "RGB", "GRAY": "L", "CMYK": "CMYK"}
"""Pillow's mode for each colour space of a profile."""


def is_srgb(mode: str, profile: bytes | None) -> bool:
    """Whether pixels of a mode are already sRGB, or their profile is ignored."""
    if profile is None or len(profile) > MAX_PROFILE_BYTES:
        return True
    if mode not in ("L", "LA"):
        return _transform(profile, mode) is None
    return _transform(profile, "L") is None and _transform(profile, "RGB") is None


def to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Convert a picture in L, LA, RGB, RGBA or CMYK from an ICC profile to sRGB, and keep its alpha channel.

    The picture is returned unchanged if the profile is sRGB itself, is damaged, or describes other channels than the
    picture has. A grey picture may have an RGB profile.
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
    """Return the transform to sRGB for pixels of a mode; None if it is not needed or cannot be built."""
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
    """Whether the profile is sRGB: no colour of a grid that includes all greys changes by more than `_SAME`."""
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
