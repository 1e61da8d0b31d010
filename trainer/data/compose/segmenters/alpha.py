"""The segmenter `alpha`: the file is a cut-out already, with a transparent background."""

from __future__ import annotations

from PIL import Image

from trainer.data.compose.failures import Failed, Reason
from trainer.data.compose.licences import OWN, Licence


class Alpha:
    """Uses the transparency of the file."""

    identity = "alpha"
    licence: Licence = OWN

    def cut(self, photo: Image.Image) -> Image.Image:
        """Return the photo as it is.

        Raises:
            Failed: the file has no transparency.
        """
        if photo.mode != "RGBA":
            raise Failed(
                Reason.NO_ALPHA,
                "the file has no transparent background. Save the cut-out as PNG or WebP with transparency, or use "
                "the segmenter backdrop or onnx",
            )
        return photo
