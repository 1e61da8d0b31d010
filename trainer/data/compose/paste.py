"""Put the original product back over a generated picture (`--paste on`)."""

from __future__ import annotations

from PIL import Image

from trainer.data.compose.canvas import Canvas


def paste(picture: Image.Image, canvas: Canvas) -> Image.Image:
    """The picture with the product's own pixels; only the soft edge is mixed with the picture."""
    return Image.alpha_composite(picture.convert("RGBA"), canvas.layer).convert("RGB")
