"""Where the product stands on the canvas (paper, section 3.1: top-bottom or left-right, chosen at random)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

LAYOUTS = ("top-bottom", "left-right")
AUTO = "auto"
_WIDE = 1.25
"""Width per height from which half a canvas is too narrow, so that `auto` takes top-bottom."""
_ENLARGED = 1.5

_BOXES = {
    "bottom": (0.10, 0.30, 0.90, 0.89),
    "left": (0.06, 0.14, 0.54, 0.89),
    "right": (0.46, 0.14, 0.94, 0.89),
}
"""Region of the product: left, top, right and bottom as shares of the canvas. The rest is room for text and shadow."""


@dataclass(frozen=True)
class Placement:
    """The product's rectangle on the canvas, in pixels."""

    layout: str
    left: int
    top: int
    width: int
    height: int
    enlarged: bool
    """Whether the product is so much larger than in its photo that it is blurred."""


def choose_layout(product: tuple[int, int], wanted: str, seed: int) -> str:
    """The wanted layout, or for `auto` one at random; a wide product takes top-bottom."""
    if wanted != AUTO:
        return wanted
    if product[0] > _WIDE * product[1]:
        return "top-bottom"
    return LAYOUTS[seed % len(LAYOUTS)]


def place(product: tuple[int, int], layout: str, side: int, seed: int) -> Placement:
    """Fit a product into its region. It keeps its proportions and stands on the region's lower edge.

    Args:
        product: width and height of the cut-out in pixels.
        layout: one of `LAYOUTS`.
        side: side of the canvas in pixels.
        seed: decides left or right, and a small shift.
    """
    rng = np.random.default_rng(seed)
    region = "bottom" if layout == "top-bottom" else ("left", "right")[int(rng.integers(2))]
    x0, y0, x1, y1 = (share * side for share in _BOXES[region])
    scale = min((x1 - x0) / product[0], (y1 - y0) / product[1])
    width, height = max(1, int(product[0] * scale)), max(1, int(product[1] * scale))
    left = round(x0 + (x1 - x0 - width) * float(rng.uniform(0.35, 0.65)))
    bottom = round(y1 - float(rng.uniform(0, 0.03)) * side)
    return Placement(layout, left, bottom - height, width, height, scale > _ENLARGED)
