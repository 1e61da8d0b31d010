"""What an inpainter is, and the table of those that this repository ships.

docs/how-to/add-a-segmenter-or-inpainter.md says how to add one.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping
from typing import Protocol

from PIL import Image

from screening.runtime.extensions import find
from trainer.data.compose.canvas import Canvas
from trainer.data.compose.inpainters.flux_fill import FluxFill
from trainer.data.compose.inpainters.klein import Klein
from trainer.data.compose.inpainters.scene import Scene
from trainer.data.compose.licences import Licence
from trainer.data.compose.model_options import ModelOptions


class Inpainter(Protocol):
    """Paints a scene around a product. Making one is cheap: weights are loaded by the first `paint`."""

    @property
    def name(self) -> str:
        """Name for the data and for people."""

    @property
    def licence(self) -> Licence:
        """Licence of the model. It is asked for before any weight is read."""

    @property
    def stand_in(self) -> bool:
        """Whether this takes the place of a generative model. Every file says so."""

    @property
    def sides(self) -> Container[int]:
        """The sides of a square picture, in pixels, that it can paint."""

    @property
    def identity(self) -> str:
        """What decides the result: the name, its settings, and for a model the hashes of its files."""

    def paint(self, canvas: Canvas, seed: int) -> Image.Image:
        """Return an RGB picture of the canvas' size: the product in the manner of the reference.

        The same canvas and seed give the same picture, whatever was painted before.

        Raises:
            Failed: this picture cannot be painted.
            MemoryError: it does not fit into memory.
        """


INPAINTERS: Mapping[str, Callable[[ModelOptions], Inpainter]] = {
    "scene": Scene,
    "flux-fill": FluxFill,
    "klein": Klein,
}
"""Name → function that makes an inpainter."""


def make_inpainter(name: str, options: ModelOptions) -> Inpainter:
    """Make the inpainter of that name, or the one that `package.module:name` names.

    Raises:
        ExtensionError: there is no such inpainter.
        ComposeError: an option is missing or cannot be used.
    """
    return find(name, INPAINTERS, "inpainter")(options)
