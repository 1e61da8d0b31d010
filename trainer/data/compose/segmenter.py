"""What a segmenter is, and the table of those that this repository ships.

docs/how-to/add-a-segmenter-or-inpainter.md says how to add one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from PIL import Image

from screening.runtime.extensions import find
from trainer.data.compose.licences import Licence
from trainer.data.compose.segmenters.alpha import Alpha
from trainer.data.compose.segmenters.backdrop import Backdrop
from trainer.data.compose.segmenters.either import AlphaOrBackdrop
from trainer.data.compose.segmenters.onnx_model import OnnxModel


class Segmenter(Protocol):
    """Cuts a product out of a photo."""

    @property
    def licence(self) -> Licence:
        """Licence of the model, or of the code."""

    @property
    def identity(self) -> str:
        """What decides the result: the name, and for a model the hash of its file."""

    def cut(self, photo: Image.Image) -> Image.Image:
        """Return the photo as RGBA of the same size, transparent where the product is not.

        Args:
            photo: upright sRGB, RGB or RGBA; see `white.on_white` for the colours of transparent pixels.

        Raises:
            Failed: this segmenter cannot handle the photo; the message says why.
        """


SEGMENTERS: Mapping[str, Callable[[str], Segmenter]] = {
    "auto": lambda _: AlphaOrBackdrop(),
    "alpha": lambda _: Alpha(),
    "backdrop": lambda _: Backdrop(),
    "onnx": OnnxModel,
}
"""Name → function that makes a segmenter. It gets the text that follows `NAME:`."""


def make_segmenter(text: str) -> Segmenter:
    """Make the segmenter that `NAME`, `NAME:ARGUMENT` or `package.module:name` names.

    Raises:
        ExtensionError: there is no such segmenter.
        ComposeError: the argument cannot be used.
    """
    name, _, argument = text.partition(":")
    if name in SEGMENTERS:
        return SEGMENTERS[name](argument)
    return find(text, SEGMENTERS, "segmenter")("")
