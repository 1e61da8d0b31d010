"""Whatever a caller calls a picture → the bytes that are sent.

Bytes are read once, before the first attempt, so that every retry sends the same ones. Nothing is decoded here: the
service tells formats by content and has the limits.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from io import BytesIO
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeAlias

from screening_client.errors import InputError

if TYPE_CHECKING:
    from PIL.Image import Image

PictureInput: TypeAlias = "str | os.PathLike[str] | bytes | bytearray | memoryview | IO[bytes] | Image"
"""A path, the bytes of an image file, a binary file object, or a PIL image."""

PICTURES = 4

_PNG_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "I", "I;16")


def picture_bytes(picture: PictureInput, name: str) -> bytes:
    """The bytes of one image file.

    A seekable file object is read from its beginning, wherever it stands, because most stand at their end after having
    been written or looked at. A PIL image becomes a PNG, turned upright.

    Args:
        name: what the caller calls this argument, for the error: `original`, `generated[2]`.

    Raises:
        InputError: another type, a file that cannot be read, nothing in it.
    """
    if isinstance(picture, bytes | bytearray | memoryview):
        return _not_empty(bytes(picture), name)
    if isinstance(picture, str | os.PathLike):
        return _not_empty(_read_path(picture, name), f"{name} ({os.fspath(picture)})")
    if callable(getattr(picture, "read", None)):
        return _not_empty(_read_file(picture, name), f"{name} ({getattr(picture, 'name', 'file object')})")
    # Whoever holds a PIL image has imported PIL; this module need not.
    pil = sys.modules.get("PIL.Image")
    if pil is not None and isinstance(picture, pil.Image):
        return _encode(picture, name)
    raise InputError(
        f"{name} is {_a(picture)}; a picture is a path, the bytes of an image file, a binary file object or a PIL image"
    )


def four_pictures(generated: Iterable[PictureInput]) -> tuple[PictureInput, ...]:
    """The generated pictures in the order A, B, C, D.

    Raises:
        InputError: not a collection of exactly four.
    """
    is_one = isinstance(generated, str | bytes | bytearray | memoryview | os.PathLike) or hasattr(generated, "read")
    if is_one or not isinstance(generated, Iterable):
        raise InputError(f"generated is {_a(generated)}; it must be a list of {PICTURES} pictures, A to D")
    pictures = tuple(generated)
    if len(pictures) != PICTURES:
        raise InputError(f"generated has {len(pictures)} pictures; it must have exactly {PICTURES}, A to D")
    return pictures


def _read_path(path: str | os.PathLike[str], name: str) -> bytes:
    text = os.fspath(path)
    if text.startswith(("http://", "https://", "data:")):
        raise InputError(f"{name} is a URL ({text[:60]}); download it and pass its bytes")
    try:
        return Path(text).read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a null character in the path
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(f"{name}: {text[:200]} cannot be read: {reason}") from error


def _read_file(file: Any, name: str) -> bytes:
    try:
        # Pipes and sockets are read from where they stand; minimal file objects may lack `seekable` altogether.
        if hasattr(file, "seekable") and file.seekable():
            file.seek(0)
        data = file.read()
    except (OSError, ValueError) as error:  # ValueError: closed, or text that is not UTF-8
        raise InputError(f"{name}: the file object cannot be read: {error}") from error
    if not isinstance(data, bytes):
        raise InputError(f"{name} is a file object that gives {_a(data)}; open it in binary mode ('rb')")
    return data


def _encode(image: Any, name: str) -> bytes:
    from PIL import ImageOps

    try:
        upright = ImageOps.exif_transpose(image)
        if upright.mode not in _PNG_MODES:
            upright = upright.convert("RGB")
        buffer = BytesIO()
        upright.save(buffer, format="PNG")
    except Exception as error:  # PIL opens files lazily: a damaged one raises anything, only now
        raise InputError(f"{name}: the PIL image cannot be encoded: {error}") from error
    return buffer.getvalue()


def _not_empty(data: bytes, name: str) -> bytes:
    if not data:
        raise InputError(f"{name} is empty")
    return data


def _a(thing: object) -> str:
    return f"of type {type(thing).__name__}"
