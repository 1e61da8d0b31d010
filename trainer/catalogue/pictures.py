"""A picture of a record, from its cell to what the model sees. The service applies the same limits."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from screening.checkpoint.manifest import ImageContract
from screening.errors import ImageError
from screening.images import ImageLimits, Picture, accept, check_total
from screening.inference.pictures import Prepared, prepare
from trainer.catalogue.rejects import Reason, Rejected
from trainer.catalogue.sources import PICTURES
from trainer.data_directory import picture_path

LIMITS = ImageLimits()
URL_SCHEMES = ("https", "http", "s3", "gs", "az", "abfs", "hf")


def load_pictures(cells: Sequence[object], base: Path, image: ImageContract) -> list[Prepared]:
    """Read and decode the five pictures of a record.

    Args:
        cells: values of the columns `PICTURES`.
        base: directory at which relative paths start.
        image: how the checkpoint's pictures are prepared.

    Raises:
        Rejected: a picture is missing or not accepted.
    """
    accepted = [_accepted(cell, base, name) for cell, name in zip(cells, PICTURES, strict=True)]
    try:
        check_total(accepted, LIMITS)
    except ImageError as error:
        raise Rejected(error.code, str(error)) from error
    return [_prepared(picture, image, name) for picture, name in zip(accepted, PICTURES, strict=True)]


def _accepted(cell: object, base: Path, name: str) -> Picture:
    data = _bytes(cell, base, name)
    try:
        return accept(data, LIMITS)
    except ImageError as error:
        raise Rejected(error.code, str(error), name) from error


def _prepared(picture: Picture, image: ImageContract, name: str) -> Prepared:
    try:
        return prepare(picture, image)
    except ImageError as error:
        raise Rejected(error.code, str(error), name) from error


def _bytes(cell: object, base: Path, name: str) -> bytes:
    if isinstance(cell, dict):  # `datasets.Image` stores both, and one of them is null
        cell = cell.get("bytes") or cell.get("path")
    if cell is None or cell in (b"", ""):
        raise Rejected(Reason.MISSING_PICTURE, "the picture is null or empty", name)
    if isinstance(cell, bytes):
        return cell
    if not isinstance(cell, str):
        kind = type(cell).__name__
        raise Rejected(Reason.WRONG_TYPE, f"the picture is {kind}; it must be bytes or the path of a file", name)
    try:
        return _read_url(cell) if "://" in cell else _read_file(picture_path(base, cell))
    except Exception as error:  # fsspec's kinds of storage raise the errors of many libraries
        reason = getattr(error, "strerror", None) or error
        raise Rejected(Reason.PICTURE_NOT_FOUND, f"{cell[:500]} cannot be read: {reason}", name) from error


def _read_file(path: Path) -> bytes:
    if path.exists() and not path.is_file():
        raise OSError(f"{path} is not a regular file")  # a pipe may never end
    return _read_limited(path.open("rb"))


def _read_url(url: str) -> bytes:
    """Read a URL. fsspec's other kinds open local files, shells and archives, or chain several of them with `::`."""
    import fsspec

    if "::" in url or url.partition("://")[0] not in URL_SCHEMES:
        raise ValueError(f"its URL must begin with one of {', '.join(URL_SCHEMES)}, followed by ://")
    return _read_limited(fsspec.open(url, "rb").open())


def _read_limited(file: Any) -> bytes:
    """Read one byte more than is accepted at most, so that a huge file does not fill the memory."""
    data = bytearray()
    with file:
        # A stream may return less than it is asked for.
        while len(data) <= LIMITS.max_bytes and (more := file.read(LIMITS.max_bytes + 1 - len(data))):
            data += more
    return bytes(data)
