"""Encode pictures of a data directory for an endpoint, as JPEG in a data URL."""

from __future__ import annotations

import base64
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

from screening.errors import ImageError
from screening.images import decode, inspect
from trainer.data_directory import DataError, read_bytes

JPEG_QUALITY = 90


def picture_part(url: str) -> dict[str, Any]:
    """A picture as a part of a user message."""
    return {"type": "image_url", "image_url": {"url": url}}


def data_url(directory: Path, file: str, size: int) -> str:
    """Encode a picture upright and in its own proportions, with its longer side at most `size` pixels.

    The picture is not padded to a square as for a checkpoint, because endpoints charge by the pixel and their models
    judge proportions better without a border. Small pictures are not enlarged. The picture is re-encoded, so no
    metadata is sent.

    Raises:
        DataError: the file cannot be read, is damaged, or is over a limit of `screening.images`.
    """
    try:
        image = decode(inspect(read_bytes(directory, file)), shrink_to=size)
    except ImageError as error:
        raise DataError(f"{file}: {error}") from error
    image.thumbnail((size, size), Image.Resampling.BICUBIC, reducing_gap=3.0)
    buffer = BytesIO()
    image.save(buffer, "JPEG", quality=JPEG_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
