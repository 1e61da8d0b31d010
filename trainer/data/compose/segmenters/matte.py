"""Turn a mask into a cut-out whose soft edge has the product's colours and none of the old background's."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

_EDGE = 1.2
"""Softness of the edge in pixels of the photo, which is usually scaled down afterwards."""
_BUMPS = 1.6
"""Size in pixels of what is smoothed away from an outline."""
_REACH = 4.0
"""Distance in pixels over which colours from inside the product replace those of the edge."""


def with_clean_edges(rgb: Image.Image, product: NDArray[np.bool_]) -> Image.Image:
    """Cut along a mask, one pixel inside its outline, because the outline mixes the product with its background.

    The outline is smoothed first: the blocks of a JPEG leave bumps of a pixel on it.
    """
    hard = (cv2.GaussianBlur(product.astype(np.float32), (0, 0), _BUMPS) > 0.5).astype(np.uint8)
    inner = cv2.erode(hard, np.ones((3, 3), np.uint8))
    alpha = np.minimum(cv2.GaussianBlur(inner.astype(np.float32), (0, 0), _EDGE), 1)
    alpha = np.where(alpha > 0.02, alpha, 0)
    return _joined(np.asarray(rgb, np.float32), alpha.astype(np.float32))


def with_soft_mask(rgb: Image.Image, alpha: NDArray[np.float32]) -> Image.Image:
    """Cut with a model's mask of values from 0 to 1."""
    return _joined(np.asarray(rgb, np.float32), np.where(alpha > 0.02, alpha, 0).astype(np.float32))


def _joined(pixels: NDArray[np.float32], alpha: NDArray[np.float32]) -> Image.Image:
    """RGBA in which the pixels at the edge have the mean colour of the solid pixels around them."""
    solid = cv2.erode((alpha > 0.98).astype(np.uint8), np.ones((3, 3), np.uint8)).astype(np.float32)
    weight = cv2.GaussianBlur(solid, (0, 0), _REACH)
    inside = cv2.GaussianBlur(pixels * solid[..., None], (0, 0), _REACH) / np.maximum(weight, 1e-4)[..., None]
    share = np.where(weight > 1e-3, 1 - solid, 0)[..., None]
    colours = np.clip(pixels * (1 - share) + inside * share, 0, 255)
    return Image.fromarray(np.dstack([colours, alpha * 255]).round().astype(np.uint8), "RGBA")
