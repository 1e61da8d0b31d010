"""What can be seen in a cut-out: where its fine detail is, whether a copy of it or its mirror image would show, and the
colour of its side."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from trainer.data.render.photo_pixels import solid_pixels

Floats = NDArray[np.float32]

_SIDE = 256
"""Longer side in pixels at which a cut-out is examined."""
_WIDE, _HIGH = 0.42, 0.26
"""Size of a detail, as shares of the product."""
_SHARP = 7.0
"""Minimum mean step between neighbouring pixels of a detail, of 255."""
_INSIDE = 0.9
"""Minimum share of a detail, or of a copy of it, that is product."""
_DIFFERENT = 18.0
"""Minimum mean difference of a copy from what it covers, and of a detail from its mirror image, of 255."""


@dataclass(frozen=True)
class Detail:
    """A rectangle of the product. Its middle and size are shares of the product's width and height."""

    x: float
    y: float
    width: float = _WIDE
    height: float = _HIGH

    def box(self, picture: Image.Image, factor: float = 1.0) -> tuple[int, int, int, int]:
        """Left, top, right and bottom in pixels, inside the picture.

        Args:
            factor: enlarges the rectangle about its middle.
        """
        across, down = self.width * factor / 2, self.height * factor / 2
        return (
            max(0, round((self.x - across) * picture.width)),
            max(0, round((self.y - down) * picture.height)),
            min(picture.width, max(2, round((self.x + across) * picture.width))),
            min(picture.height, max(2, round((self.y + down) * picture.height))),
        )


def find_detail(picture: Image.Image) -> Detail | None:
    """The rectangle with the most fine detail, which is where lettering and marks are; None if there is little."""
    pixels, solid = _examined(picture)
    grey = pixels.mean(2)
    steps = np.abs(np.diff(grey, axis=1, append=grey[:, -1:])) + np.abs(np.diff(grey, axis=0, append=grey[-1:]))
    inner = cv2.erode(solid, np.ones((9, 9), np.uint8))  # the outline is not a detail
    size = (max(3, round(_WIDE * grey.shape[1])), max(3, round(_HIGH * grey.shape[0])))
    density = cv2.blur((steps * inner).astype(np.float32), size, borderType=cv2.BORDER_CONSTANT)
    covered = cv2.blur(solid.astype(np.float32), size, borderType=cv2.BORDER_CONSTANT)
    density[covered < _INSIDE] = 0
    row, column = np.unravel_index(int(density.argmax()), density.shape)
    if density[row, column] < _SHARP:
        return None
    return Detail((int(column) + 0.5) / grey.shape[1], (int(row) + 0.5) / grey.shape[0])


def find_copy(picture: Image.Image, detail: Detail) -> tuple[float, float] | None:
    """The shift, in shares of width and height, to where a copy of the detail is seen best; None if nowhere."""
    pixels, solid = _examined(picture)
    small = Image.fromarray(solid)
    left, top, right, bottom = detail.box(small, 0.8)
    best, found = _DIFFERENT, None
    for across, down in ((0.0, -0.8), (0.0, 0.8), (-0.75, 0.0), (0.75, 0.0), (-0.6, -0.7), (0.6, -0.7), (-0.6, 0.7)):
        dx, dy = round(across * (right - left)), round(down * (bottom - top))
        if top + dy < 0 or left + dx < 0 or bottom + dy > solid.shape[0] or right + dx > solid.shape[1]:
            continue
        there = np.s_[top + dy : bottom + dy, left + dx : right + dx]
        seen = float(np.abs(pixels[there] - pixels[top:bottom, left:right]).mean())
        if solid[there].mean() >= _INSIDE and seen > best:
            best, found = seen, (dx / solid.shape[1], dy / solid.shape[0])
    return found


def mirror_shows(picture: Image.Image, detail: Detail) -> bool:
    """Whether the detail differs from its mirror image. Stripes across the product and symmetric labels do not."""
    pixels, solid = _examined(picture)
    left, top, right, bottom = detail.box(Image.fromarray(solid), 0.75)  # the least that an edit mirrors
    piece, product = pixels[top:bottom, left:right], solid[top:bottom, left:right] > 0
    apart = np.abs(piece - piece[:, ::-1])[product & product[:, ::-1]]
    return len(apart) > 0 and float(apart.mean()) >= _DIFFERENT


def edge_colour(picture: Image.Image) -> tuple[int, int, int]:
    """Mean colour of a strip along the sides of the product at half its height."""
    pixels, solid = _examined(picture)
    rows = slice(round(0.4 * len(solid)), round(0.6 * len(solid)) + 1)
    near = cv2.erode(solid, np.ones((5, 5), np.uint8)) - cv2.erode(solid, np.ones((21, 21), np.uint8))
    strip = pixels[rows][near[rows] > 0]
    colour = strip.mean(0) if len(strip) else pixels[solid > 0].mean(0)
    red, green, blue = (int(value) for value in colour)
    return red, green, blue


def _examined(picture: Image.Image) -> tuple[Floats, NDArray[np.uint8]]:
    """RGB values, and where the product is (1), at a small size."""
    small = picture.copy()
    small.thumbnail((_SIDE, _SIDE), Image.Resampling.BOX)
    pixels = np.asarray(small)
    return pixels[..., :3].astype(np.float32), solid_pixels(pixels[..., 3]).astype(np.uint8)
