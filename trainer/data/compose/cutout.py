"""Check a cut-out and crop it to the product."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from trainer.data.compose.failures import Failed, Note, Reason

SOLID = 128
"""Minimum alpha of a pixel that counts as the product."""
_SMALLEST = 16
"""Minimum side of a product in pixels."""
_FULL = 0.995
"""Share of solid pixels from which a photo counts as not cut out."""
_PIECE = 0.02
"""Minimum area of a second piece, as a share of the largest."""
_HOLE = 0.002
"""Minimum area of a hole, as a share of the product."""
_CUT_OFF = 0.02
"""Share of the photo's edge that the product may cover without a note."""


@dataclass(frozen=True)
class CutOut:
    """A product without its background, cropped to its pixels."""

    picture: Image.Image
    """RGBA."""
    notes: tuple[Note, ...] = ()


def checked(picture: Image.Image) -> CutOut:
    """Check what a segmenter returned, and crop it.

    Raises:
        Failed: there is no product in it, or nothing was cut away.
    """
    alpha = np.asarray(picture.getchannel("A"))
    solid = alpha >= SOLID
    if not solid.any():
        raise Failed(Reason.EMPTY, "the cut-out is transparent everywhere")
    if solid.mean() > _FULL:
        raise Failed(Reason.FULL_FRAME, "nothing was cut away; the product covers the whole photo")
    box = picture.getchannel("A").point(lambda value: 255 if value > 8 else 0).getbbox()
    assert box is not None  # some pixels are solid
    if min(box[2] - box[0], box[3] - box[1]) < _SMALLEST:
        raise Failed(
            Reason.TOO_SMALL,
            f"the product has {box[2] - box[0]} x {box[3] - box[1]} pixels; each side needs {_SMALLEST}",
        )
    return CutOut(picture.crop(box), tuple(_notes(solid)))


def _notes(solid: NDArray[np.bool_]) -> list[Note]:
    notes = []
    pieces = _areas(solid)
    if np.count_nonzero(pieces >= _PIECE * pieces.max()) > 1:
        notes.append(Note.SEVERAL_PIECES)
    outside = np.pad(~solid, 1, constant_values=True)  # the frame joins all background that is not a hole
    if np.count_nonzero(_areas(outside) >= _HOLE * solid.sum()) > 1:
        notes.append(Note.HOLES)
    rim = np.concatenate([solid[0], solid[-1], solid[:, 0], solid[:, -1]])
    if rim.mean() > _CUT_OFF:
        notes.append(Note.TOUCHES_EDGE)
    return notes


def _areas(mask: NDArray[np.bool_]) -> NDArray[np.int32]:
    """The areas of the connected pieces of a mask, in pixels."""
    statistics = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)[2]
    return np.asarray(statistics, np.int32)[1:, cv2.CC_STAT_AREA]
