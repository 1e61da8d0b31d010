"""The pictures that an inpainter starts from: placeholder, reference, initial and mask (paper, figure 2).

    initial   | reference | placeholder |      twice as wide as high
    mask      |   black   | white except over the product |

White parts of the mask are repainted. The paper found that the right half alone gives poor results.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from trainer.data.compose.cutout import SOLID
from trainer.data.compose.layout import Placement
from trainer.data.compose.white import on_white

_WHITE = (255, 255, 255)


@dataclass(frozen=True)
class Canvas:
    """One product placed for one reference. All pictures are squares of the same side."""

    layer: Image.Image
    """RGBA: the product at its place, with its soft edge, and nothing else."""
    reference: Image.Image
    """RGB: the reference picture, cropped to the square."""

    @property
    def side(self) -> int:
        return self.layer.width

    @property
    def kept(self) -> NDArray[np.bool_]:
        """The pixels of the product, which an inpainter must not change."""
        return np.asarray(self.layer.getchannel("A")) >= SOLID

    @property
    def placeholder(self) -> Image.Image:
        """RGB: the product on white. Its edge is hard, because a soft one would show white in the generated picture."""
        white = Image.new("RGB", self.layer.size, _WHITE)
        return Image.composite(self.layer.convert("RGB"), white, Image.fromarray(self.kept))

    @property
    def initial(self) -> Image.Image:
        """RGB, twice as wide as high: reference and placeholder side by side."""
        return _side_by_side(self.reference, self.placeholder)

    @property
    def hole(self) -> Image.Image:
        """The right half of the mask, mode L: white where a picture is painted, black over the product."""
        return Image.fromarray(np.where(self.kept, 0, 255).astype(np.uint8))

    @property
    def mask(self) -> Image.Image:
        """Mode L, of the size of `initial`: the left half is black, the right half is `hole`."""
        return _side_by_side(Image.new("L", self.layer.size, 0), self.hole)


def make_canvas(product: Image.Image, placement: Placement, reference: Image.Image, side: int) -> Canvas:
    """Place a cut-out on an empty canvas and crop the reference to the same square.

    Args:
        product: RGBA, cropped to the product.
        reference: RGB or RGBA of any size.
    """
    size = (placement.width, placement.height)
    layer = Image.new("RGBA", (side, side))
    layer.paste(product.resize(size, Image.Resampling.LANCZOS), (placement.left, placement.top))
    return Canvas(layer, ImageOps.fit(on_white(reference), (side, side), Image.Resampling.LANCZOS))


def _side_by_side(left: Image.Image, right: Image.Image) -> Image.Image:
    joined = Image.new(left.mode, (left.width + right.width, left.height))
    joined.paste(left, (0, 0))
    joined.paste(right, (left.width, 0))
    return joined
