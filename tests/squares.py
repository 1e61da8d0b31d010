"""Square pictures for checkpoints without tiles."""

from __future__ import annotations

from PIL import Image

from screening.images import ImageLimits, decode, fit_square, inspect


def load_square(data: bytes, size: int, *limits: ImageLimits) -> Image.Image:
    """Convert the bytes of a picture file to the square picture that the model sees."""
    return fit_square(decode(inspect(data, *limits), shrink_to=size), size)
