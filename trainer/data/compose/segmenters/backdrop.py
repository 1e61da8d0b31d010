"""The segmenter `backdrop`: a product in front of plain paper, as in a product photo on white.

The backdrop's colour is fitted to the border of the photo as a smooth function of the position, because studio light is
never even. What is connected to the border and has this colour, or is a soft shadow on it, is background. Everything
else is the product, so a white label inside stays. A product in the colour of its backdrop needs the segmenter onnx.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from trainer.data.compose.failures import Failed, Reason
from trainer.data.compose.licences import OWN, Licence
from trainer.data.compose.segmenters.matte import with_clean_edges
from trainer.data.compose.white import on_white

Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]

_BAND = 0.02
"""Width of the border that shows the backdrop, as a share of the shorter side."""
_PLAIN = 0.7
"""Minimum share of the border that must have the fitted colour. A product may cover the rest."""
_NOISE = 5.0
"""Maximum typical deviation of the border from the fitted colour, in CIE L*a*b* units."""
_DARKEST = 50.0
"""Maximum depth of a soft shadow, in L* units."""
_OUTLINE = 0.35
"""Sharpness of an outline; see `_sharpness`. A step of three L* units has 0.4, a shadow of any depth 0 or less."""
_FINE, _COARSE = 1.0, 3.0
"""Blurs in pixels at which slopes are compared."""
_MARGIN = 4
"""Width in pixels of the strip along an outline that is sharp as well."""
_TRACES = 0.004
"""Maximum area of outlines in the removed background, as a share of the product."""


class Backdrop:
    """Removes a plain backdrop and the soft shadows on it."""

    identity = "backdrop 1"
    licence: Licence = OWN

    def cut(self, photo: Image.Image) -> Image.Image:
        """Cut the product out.

        Raises:
            Failed: the background is not plain, nothing stands in front of it, or a part of the product has its colour.
        """
        rgb = on_white(photo)
        lab = cv2.cvtColor(np.asarray(rgb, np.float32) / 255, cv2.COLOR_RGB2LAB).astype(np.float32)
        paper, noise = _backdrop(lab)
        sharp = _sharpness(lab[..., 0])
        product = _without_specks(~_background(lab - paper, 4 + 3 * noise, sharp))
        if not product.any():
            raise Failed(Reason.EMPTY, "nothing stands out from the plain background")
        _refuse_traces(product, sharp)
        return with_clean_edges(rgb, product)


def _backdrop(lab: Floats) -> tuple[Floats, float]:
    """The backdrop's colour at every pixel, and how much its pixels deviate from it.

    Raises:
        Failed: the border has no plain colour.
    """
    height, width = lab.shape[:2]
    y, x = np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij")
    terms = np.stack([np.ones_like(x), x, y, x * y, x * x, y * y], -1).astype(np.float32)
    border = np.zeros((height, width), bool)
    band = max(3, round(_BAND * min(height, width)))
    border[:band] = border[-band:] = border[:, :band] = border[:, -band:] = True
    samples, places = lab[border], terms[border]
    kept = np.abs(samples - np.median(samples, 0)).max(1) < 25
    for _ in range(4):
        if kept.mean() < _PLAIN:
            break
        fit = np.linalg.lstsq(places[kept], samples[kept], rcond=None)[0]
        off = np.linalg.norm(samples - places @ fit, axis=1)
        kept = off < max(4.0, 3 * float(np.median(off[kept])))
    share = float(kept.mean())
    noise = float(np.median(off[kept])) if share >= _PLAIN else 0.0
    if share < _PLAIN or noise > _NOISE:
        found = "the border has a pattern" if noise else f"only {share:.0%} of the border has one smooth colour"
        raise Failed(
            Reason.BUSY_BACKGROUND,
            f"the background is not plain: {found}. Use a photo in front of plain paper, a file with a transparent "
            "background, or the segmenter onnx",
        )
    return (terms @ fit).astype(np.float32), noise


def _sharpness(lightness: Floats) -> Floats:
    """How sharp the steps of a picture are, in L* units per pixel.

    Blurring a sharp step makes it much flatter, and blurring the soft edge of a shadow changes little. So the slope
    after a weak blur minus the slope after a strong one tells an outline from a shadow, however dark the shadow is.
    """
    fine, coarse = (_slope(cv2.GaussianBlur(lightness, (0, 0), blur)) for blur in (_FINE, _COARSE))
    return np.asarray(fine - 1.3 * coarse, np.float32)


def _slope(lightness: cv2.typing.MatLike) -> Floats:
    across, down = cv2.Sobel(lightness, cv2.CV_32F, 1, 0), cv2.Sobel(lightness, cv2.CV_32F, 0, 1)
    return np.asarray(np.hypot(across, down) / 8, np.float32)


def _background(off: Floats, near: float, sharp: Floats) -> Mask:
    """The pixels that belong to the backdrop: of its colour or in a soft shadow, and connected to the border.

    An outline stops the search, also that of a product in nearly the same colour. The strip along the outline is sharp
    too, so the background grows back over it at the end.

    Args:
        off: difference of each pixel from the backdrop, in L*a*b*.
        near: largest difference of the same colour.
    """
    paper = (np.hypot(off[..., 1], off[..., 2]) < near) & (off[..., 0] < near) & (off[..., 0] > -_DARKEST)
    _, labels = cv2.connectedComponents((paper & (sharp < _OUTLINE)).astype(np.uint8), connectivity=4)
    pieces = np.asarray(labels)
    rim = np.concatenate([pieces[0], pieces[-1], pieces[:, 0], pieces[:, -1]])
    found = np.isin(pieces, np.setdiff1d(rim, [0])).astype(np.uint8)
    strip = (paper & (np.abs(off[..., 0]) < near)).astype(np.uint8)
    for _ in range(_MARGIN):
        found |= np.asarray(cv2.dilate(found, np.ones((3, 3), np.uint8)), np.uint8) & strip
    return found.astype(bool)


def _refuse_traces(product: Mask, sharp: Floats) -> None:
    """
    Raises:
        Failed: there are outlines in what was removed, so a part of the product is probably missing.
    """
    beside = cv2.dilate(product.astype(np.uint8), np.ones((3, 3), np.uint8), iterations=2 * _MARGIN).astype(bool)
    traces = np.count_nonzero((sharp > 1.5 * _OUTLINE) & ~beside)
    if traces > _TRACES * np.count_nonzero(product):
        raise Failed(
            Reason.PART_MISSING,
            "there are outlines in what looks like background, so a part of the product would be missing, or the "
            "background is not plain. Use a file with a transparent background, or the segmenter onnx",
        )


def _without_specks(product: Mask) -> Mask:
    """Remove dust: thin lines, and pieces below a hundredth of the largest one."""
    opened = cv2.morphologyEx(product.astype(np.uint8), cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
    count, labels, statistics, _ = cv2.connectedComponentsWithStats(opened, connectivity=8)
    if count < 2:
        return np.zeros_like(product)
    areas = np.asarray(statistics)[:, cv2.CC_STAT_AREA]
    areas[0] = 0
    return np.isin(np.asarray(labels), np.flatnonzero(areas >= max(1, areas.max() / 100)))
