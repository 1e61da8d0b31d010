"""Scales a picture for a checkpoint: to one square tile, or to a canvas that the processor cuts into several tiles.

Trainer and service both prepare pictures here: a model that gets pixels prepared differently than in its training
answers worse, without any error.

InternVL's processor chooses the grid of tiles whose aspect ratio is nearest to the picture's, stretches the picture to
it, and adds the whole picture once more as a last tile. Stretching would hide deformations of the product, so the
picture is padded here to the canvas of that grid. The processor then finds the same grid, and stretches nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from PIL import Image

from screening.boxes import Frame, Size
from screening.images import Picture, decode, fit, inspect

if TYPE_CHECKING:
    from screening.checkpoint.manifest import ImageContract


class Prepared(NamedTuple):
    """A picture as a checkpoint sees it."""

    image: Image.Image
    """RGB. Without tiles it is a square of `ImageContract.size` pixels."""
    frame: Frame
    """How the upright picture lies on it."""


def prepare(picture: Picture, image: ImageContract) -> Prepared:
    """Decode a picture and scale it for a checkpoint.

    Raises:
        ImageError: see `screening.images.decode`.
    """
    # EXIF data may exchange the sides, which is known only after decoding.
    sides = {*canvas(picture.width, picture.height, image), *canvas(picture.height, picture.width, image)}
    decoded = decode(picture, shrink_to=max(sides))
    frame = frame_of(decoded.size, image)
    return Prepared(fit(decoded, frame.canvas), frame)


def load_prepared(data: bytes, image: ImageContract) -> Image.Image:
    """Prepare a picture from the bytes of its file, with the standard limits.

    Raises:
        ImageError: see `screening.images.inspect` and `prepare`.
    """
    return prepare(inspect(data), image).image


def frame_of(picture: Size, image: ImageContract) -> Frame:
    """Return how an upright picture of this width and height lies on its canvas."""
    return Frame(picture, canvas(*picture, image))


def canvas(width: int, height: int, image: ImageContract) -> tuple[int, int]:
    """Return width and height of the canvas for a picture with these sides. The grid is that of the processor."""
    if image.max_patches == 1:
        return image.size, image.size
    # Only here, because this imports torch, which a service without a real engine does not need.
    from transformers.models.got_ocr2.image_processing_got_ocr2 import get_optimal_tiled_canvas

    columns, rows = get_optimal_tiled_canvas((height, width), (image.size, image.size), 1, image.max_patches)
    return columns * image.size, rows * image.size


def largest_canvas(image: ImageContract) -> tuple[int, int]:
    """Return width and height of a canvas with as many tiles as the checkpoint allows."""
    return image.max_patches * image.size, image.size
