"""The files of one sample on disk, and how they are written.

pictures/ID/{original,a,b,c,d}.png        the question
steps/ID/{cutout,placeholder,initial,mask}.png
steps/ID/composed.json                    what is done so far, with the hash of every file
"""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from screening.runtime.atomic_write import write_atomically
from screening.runtime.digests import file_sha256

PICTURES, STEPS, STATE = "pictures", "steps", "composed.json"


def picture_file(sample: str, name: str) -> str:
    """Path of a picture of the question, relative to the data directory; `name` is `original` or an option."""
    return f"{PICTURES}/{sample}/{name.lower()}.png"


def step_file(sample: str, name: str) -> str:
    """Path of an intermediate picture, relative to the data directory."""
    return f"{STEPS}/{sample}/{name}.png"


def write_png(directory: Path, file: str, picture: Image.Image, comment: str) -> str:
    """Write a picture with a comment inside it, and return the hex SHA-256 of the file.

    Raises:
        OSError: the file cannot be written.
    """
    text = PngInfo()
    text.add_text("Comment", comment)
    buffer = BytesIO()
    picture.save(buffer, "PNG", pnginfo=text)
    path = directory / file
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, buffer.getvalue())
    return file_sha256(path)


def is_intact(directory: Path, file: str, digest: str | None) -> bool:
    """Whether a file is there and has the recorded hash."""
    try:
        return digest is not None and file_sha256(directory / file) == digest
    except OSError:
        return False
