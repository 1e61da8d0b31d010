"""Converts every kind of picture that callers may pass to bytes.

The bytes are read once, before the first attempt, so that every retry sends the same ones. This module decodes nothing:
the service recognises the format and enforces the limits.
"""

from __future__ import annotations

import os
import re
import sys
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, MappingView, Sequence, Set
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeAlias, cast

from screening_client.errors import InputError
from screening_client.read_lock import read_lock

if TYPE_CHECKING:
    from PIL.Image import Image

PictureInput: TypeAlias = "str | os.PathLike[str] | bytes | bytearray | memoryview | IO[bytes] | Image"
"""A path, the bytes of an image file, a binary file object, or a PIL image."""

PICTURES = 4

URL = re.compile(r"\s*(data:|https?:/|[a-z][a-z0-9+.-]+://)", re.IGNORECASE)
"""The beginning of a URL. `https:/` is included, because `pathlib.Path` shortens a URL to that."""

_ITERATED: tuple[Iterable[object], ...] = (set(), {}, {}.values(), {}.items(), OrderedDict(), OrderedDict().values())
_UNORDERED: tuple[type, ...] = (Set, Mapping, MappingView, *(type(iter(each)) for each in _ITERATED))
"""Collections without a defined order, and the iterators over them."""


def picture_bytes(picture: PictureInput, name: str) -> bytes:
    """Return the bytes of one image file.

    A seekable file object is always read from its beginning, because its position is usually the end after writing or
    reading it. A PIL image is encoded as PNG or JPEG (see `encoding`).

    Args:
        name: name of the picture in error messages, such as `original` or `generated[2]`.

    Raises:
        InputError: the picture has another type, cannot be read or is empty.
    """
    if isinstance(picture, bytes | bytearray | memoryview):
        return _not_empty(bytes(picture), name)
    if isinstance(picture, str | os.PathLike):
        return _not_empty(_read_path(picture, name), f"{name} ({os.fsdecode(picture)})")
    if callable(getattr(picture, "read", None)):
        return _not_empty(_read_file(picture, name), f"{name} ({getattr(picture, 'name', 'file object')})")
    # A caller with a PIL image has imported PIL already, so this module need not import it.
    pil = sys.modules.get("PIL.Image")
    if pil is not None and isinstance(picture, pil.Image):
        return _encode(picture, name)
    forms = "a path, the bytes of an image file, a binary file object or a PIL image"
    swapped = (
        "; are original and generated swapped?" if name == "original" and isinstance(picture, list | tuple) else ""
    )
    raise InputError(f"{name} is {_a(picture)}; a picture is {forms}{swapped}")


def four_pictures(generated: object) -> tuple[PictureInput, ...]:
    """Return the generated pictures in the order A, B, C, D.

    An iterator or a one-dimensional array is accepted as well. A set or a mapping is refused, because its order would
    decide which picture each letter of the answer means.

    Raises:
        InputError: the argument is not an ordered collection of exactly four pictures.
    """
    form = f"pass a list of {PICTURES} pictures, in the order A, B, C, D"
    if isinstance(generated, _UNORDERED):
        raise InputError(f"generated is {_a(generated)}, which has no order of pictures; {form}")
    is_one = isinstance(generated, str | bytes | bytearray | memoryview | os.PathLike) or hasattr(generated, "read")
    is_ordered = isinstance(generated, Sequence | Iterator) or getattr(generated, "ndim", None) == 1
    if is_one or not is_ordered:
        raise InputError(f"generated is {_a(generated)}; {form}")
    pictures = tuple(cast("Iterable[PictureInput]", generated))
    if len(pictures) != PICTURES:
        raise InputError(f"generated has {len(pictures)} pictures; it must have exactly {PICTURES}, A to D")
    return pictures


def _read_path(path: str | os.PathLike[str], name: str) -> bytes:
    text = os.fsdecode(path)
    if URL.match(text):
        raise InputError(f"{name} is a URL ({text[:60]}); download it and pass its bytes")
    try:
        return Path(text).read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a null character in the path
        reason = error.strerror if isinstance(error, OSError) else error
        printable = text[:200].encode(errors="backslashreplace").decode()
        raise InputError(f"{name}: {printable} cannot be read: {reason}") from error


def _read_file(file: Any, name: str) -> bytes:
    try:
        # Pipes and sockets are read from their current position. Minimal file objects may lack `seekable`.
        if hasattr(file, "seekable") and file.seekable():
            with read_lock():
                file.seek(0)
                data = file.read()
        else:
            data = file.read()
    except (OSError, ValueError) as error:  # ValueError: closed, or text that is not UTF-8
        raise InputError(f"{name}: the file object cannot be read: {error}") from error
    if not isinstance(data, bytes):
        raise InputError(f"{name} is a file object that returns data {_a(data)}; open it in binary mode ('rb')")
    return data


def _encode(image: Image, name: str) -> bytes:
    from screening_client.encoding import encode

    try:
        return encode(image)
    except Exception as error:  # PIL opens files lazily, so a damaged file can raise any error here
        raise InputError(f"{name}: the PIL image of mode {image.mode} cannot be encoded: {error}") from error


def _not_empty(data: bytes, name: str) -> bytes:
    if not data:
        raise InputError(f"{name} is empty")
    return data


def _a(thing: object) -> str:
    return f"of type {type(thing).__name__}"
