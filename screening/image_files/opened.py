"""A picture file whose header was read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from PIL import Image

from screening.errors import ImageUnreadable

MISSING = "part of its pixel data is missing"
FILLER = "filler stands in place of its last part"

CheckSize = Callable[[int, int], None]
"""Called with width and height as soon as the header tells them, before anything of that size is allocated."""


@dataclass(frozen=True, slots=True)
class Opened:
    """A picture file whose header was read and whose pixels are not decoded."""

    image: Image.Image
    """Pillow's image; `load` fills it."""
    load: Callable[[], Image.Image]
    """Decodes all pixels, transparency as an alpha channel. Raises `ImageUnreadable` where data are missing."""
    profile: bytes | None = None
    """ICC profile of the pixels' colours; None: sRGB."""
    exif: bytes | None = None
    animated: bool = False
    scans: int = 1
    """How often decoding passes over all pixels: the scans of a JPEG."""


def damaged(kind: str, why: str) -> ImageUnreadable:
    """The error for a file of which not all is there."""
    return ImageUnreadable(f"the {kind} picture is truncated or damaged ({why})")
