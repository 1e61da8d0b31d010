"""Reads back the image that the client sends."""

from __future__ import annotations

from io import BytesIO

from PIL import Image

from screening_client.pictures import picture_bytes


def sent(image: Image.Image) -> Image.Image:
    """The image as the service opens it."""
    received = Image.open(BytesIO(picture_bytes(image, "original")))
    received.load()
    return received
