"""The result of opening a picture file, which all formats share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from PIL import Image

from screening.errors import ImageUnreadable

MISSING = "part of its pixel data is missing"
FILLER = "its last part was replaced by filler"

CheckSize = Callable[[int, int], None]
"""Function that checks width and height. It is called before any memory for the pixels is allocated."""


@dataclass(frozen=True, slots=True)
class Opened:
    """A picture file whose header has been read and whose pixels are not decoded yet."""

    image: Image.Image
    """Pillow's image, which `load` fills."""
    load: Callable[[], Image.Image]
    """Decodes all pixels, with transparency as an alpha channel. Raises `ImageUnreadable` if data are missing."""
    profile: bytes | None = None
    """ICC profile of the pixels' colours; None for sRGB."""
    exif: bytes | None = None
    animated: bool = False
    scans: int = 1
    """Number of passes over all pixels that decoding takes; more than 1 only for JPEG."""


def damaged(kind: str, why: str) -> ImageUnreadable:
    """Return the error for an incomplete or damaged file."""
    return ImageUnreadable(f"the {kind} picture is truncated or damaged ({why})")
