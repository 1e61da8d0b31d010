"""The segmenter `backdrop`: a product in front of plain paper, as in a product photo on white.

The backdrop's colour is fitted to the border of the photo as a smooth function of the position, because studio light is
never even. What is connected to the border and has this colour, or is a soft shadow on it, is background. Everything
else is the product, so a white label inside stays. A product in the colour of its backdrop needs the segmenter onnx.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from trainer.data.compose.failures import Failed, Reason
from trainer.data.compose.licences import OWN, Licence
from trainer.data.compose.segmenters.matte import with_clean_edges

Floats = NDArray[np.float32]

_BAND = 0.02
"""Width of the border that shows the backdrop, as a share of the shorter side."""
_PLAIN = 0.7
"""Minimum share of the border that must have the fitted colour. A product may cover the rest."""
_NOISE = 5.0
"""Maximum typical deviation of the border from the fitted colour, in CIE L*a*b* units."""
_DARKEST = 50.0
"""Maximum depth of a soft shadow, in L* units."""
_FADING = 1.6
"""Maximum slope of a soft shadow, in L* units per pixel of a photo of 1024 pixels. An outline is steeper."""


class Backdrop:
    """Removes a plain backdrop and the soft shadows on it."""

    identity = "backdrop 1"
    licence: Licence = OWN

    def cut(self, photo: Image.Image) -> Image.Image:
        """Cut the product out.

        Raises:
            Failed: the background is not plain, or nothing stands in front of it.
        """
        rgb = photo.convert("RGB")
        lab = cv2.cvtColor(np.asarray(rgb, np.float32) / 255, cv2.COLOR_RGB2LAB).astype(np.float32)
        paper, noise = _backdrop(lab)
        product = ~_background(lab, paper, noise)
        product = _without_specks(product)
        if not product.any():
            raise Failed(Reason.EMPTY, "nothing stands out from the plain background")
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
    noise = float(np.median(off[kept])) if share >= _PLAIN else float("inf")
    if noise > _NOISE:
        raise Failed(
            Reason.BUSY_BACKGROUND,
            f"only {share:.0%} of the border of the photo has one smooth colour. Use a photo in front of plain paper, a "
            "file with a transparent background, or the segmenter onnx",
        )
    return (terms @ fit).astype(np.float32), noise


def _background(lab: Floats, paper: Floats, noise: float) -> NDArray[np.bool_]:
    """The pixels that belong to the backdrop: of its colour or in a soft shadow, and connected to the border."""
    lightness, tint = lab[..., 0] - paper[..., 0], np.hypot(*np.moveaxis(lab[..., 1:] - paper[..., 1:], -1, 0))
    near = 4 + 3 * noise
    same = (np.abs(lightness) < near) & (tint < near)
    smooth: Any = cv2.GaussianBlur(lab[..., 0], (0, 0), 1.5)
    slope = np.hypot(cv2.Sobel(smooth, cv2.CV_32F, 1, 0), cv2.Sobel(smooth, cv2.CV_32F, 0, 1)) / 8
    fading = slope * max(lab.shape[:2]) / 1024 < _FADING
    shadow = (lightness < 0) & (lightness > -_DARKEST) & (tint < near) & fading
    _, labels = cv2.connectedComponents((same | shadow).astype(np.uint8), connectivity=4)
    labels = np.asarray(labels)
    rim = np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])
    return np.isin(labels, np.setdiff1d(rim, [0]))


def _without_specks(product: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Remove dust: thin lines, and pieces below a hundredth of the largest one."""
    opened = cv2.morphologyEx(product.astype(np.uint8), cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
    count, labels, statistics, _ = cv2.connectedComponentsWithStats(opened, connectivity=8)
    if count < 2:
        return np.zeros_like(product)
    areas = np.asarray(statistics)[:, cv2.CC_STAT_AREA]
    areas[0] = 0
    return np.isin(np.asarray(labels), np.flatnonzero(areas >= max(1, areas.max() / 100)))
