"""The segmenter `auto`: the file's own transparency if it has one, otherwise the plain backdrop."""

from __future__ import annotations

from PIL import Image

from trainer.data.compose.licences import OWN, Licence
from trainer.data.compose.segmenters.alpha import Alpha
from trainer.data.compose.segmenters.backdrop import Backdrop


class AlphaOrBackdrop:
    """Chooses `alpha` or `backdrop` for each file."""

    licence: Licence = OWN

    def __init__(self) -> None:
        self._alpha, self._backdrop = Alpha(), Backdrop()
        self.identity = f"auto: {self._alpha.identity} or {self._backdrop.identity}"

    def cut(self, photo: Image.Image) -> Image.Image:
        """Cut the product out.

        Raises:
            Failed: see `Backdrop.cut`.
        """
        return (self._alpha if photo.mode == "RGBA" else self._backdrop).cut(photo)
