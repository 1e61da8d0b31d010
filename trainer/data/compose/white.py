"""What is seen of a transparent photo. The colours under its transparent pixels are hidden, and may show anything."""

from __future__ import annotations

from PIL import Image


def on_white(photo: Image.Image) -> Image.Image:
    """The photo as RGB, with white where it is transparent."""
    white = Image.new("RGBA", photo.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, photo.convert("RGBA")).convert("RGB")
