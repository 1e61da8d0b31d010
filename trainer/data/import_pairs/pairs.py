"""Convert rows to pairs of an original and a generated picture, with the verdict whether it may be shown."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from screening.task import Dimension, dimension_named
from trainer.data.import_pairs.rows import PairsError, Row

USABLE = ("1", "true", "yes", "y", "usable", "good", "ok", "accept", "accepted", "pass")
UNUSABLE = ("0", "false", "no", "n", "unusable", "bad", "reject", "rejected", "fail")
_SHOWN = 120
"""Maximum number of characters of a value in a message."""
_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".avif")


@dataclass(frozen=True, slots=True)
class Columns:
    """Names of the columns to read, and the words for each verdict (in lower case)."""

    original: str = "original"
    generated: str = "generated"
    usable: str = "usable"
    product: str | None = None
    dimensions: str | None = None
    comment: str | None = None
    yes: tuple[str, ...] = USABLE
    no: tuple[str, ...] = UNUSABLE


HFPC = Columns(original="origin", generated="generation", usable="label")
"""Columns of the rows that `rows` reads from the two layouts of HFPC-44k."""


@dataclass(frozen=True, slots=True)
class Pair:
    """One generated picture of one original, with its verdict. Paths are relative to the directory of pictures."""

    where: str
    original: str
    generated: str
    usable: bool | None
    """The verdict; None if the row gives none."""
    product: str
    """Name of the product; empty if no column gives it, and the original then identifies the product."""
    dimensions: frozenset[Dimension]
    comment: str
    urls: Mapping[str, str]
    """Picture → address, for pictures that the row gives by URL."""


def read_pair(row: Row, columns: Columns, images: Path) -> Pair:
    """Convert one row to a pair.

    Raises:
        PairsError: a column is missing or empty, a path is outside `images`, or a value is unknown.
    """
    urls: dict[str, str] = {}
    original, generated = (
        _picture(_text(row, column), row.where, images, urls) for column in (columns.original, columns.generated)
    )
    product = _text(row, columns.product) if columns.product else ""
    comment = _comment(row, columns.comment) if columns.comment else ""
    named = _dimensions(row, columns.dimensions) if columns.dimensions else frozenset[Dimension]()
    usable = _verdict(row, columns)
    if usable and named:
        raise PairsError(
            f"{row.where}: the picture is usable, but column {columns.dimensions!r} names an issue; correct one of them"
        )
    return Pair(row.where, original, generated, usable, product, named, comment, urls)


def picture_of_url(url: str) -> str:
    """The file name for the picture of an address, which depends only on the address."""
    suffix = PurePosixPath(re.split("[?#]", url, maxsplit=1)[0]).suffix.lower()
    return hashlib.sha256(url.encode()).hexdigest()[:40] + (suffix if suffix in _SUFFIXES else ".img")


def urls_of(pairs: Iterable[Pair]) -> dict[str, str]:
    """Picture → address, for all pictures that rows give by URL."""
    return {picture: url for pair in pairs for picture, url in pair.urls.items()}


def _value(row: Row, column: str) -> Any:
    if column not in row.values:
        there = ", ".join(map(str, row.values)) or "none"
        raise PairsError(
            f"{row.where}: missing column {column!r} (found: {there}); name another with the --…-column options"
        )
    return _decoded(row.values[column])


def _decoded(value: Any) -> Any:
    """Decode text, also in a list, from a Parquet file whose writer did not mark the column as text."""
    if isinstance(value, list):
        return [_decoded(one) for one in value]
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def _comment(row: Row, column: str) -> str:
    """The comment; empty if the row lacks the column, as a line of JSON may."""
    return _encodable(row, column, str(_value(row, column) or "")) if column in row.values else ""


def _text(row: Row, column: str) -> str:
    value = _value(row, column)
    if not isinstance(value, str | int) or isinstance(value, bool) or not str(value).strip():
        raise PairsError(f"{row.where}: the column {column!r} must hold text, not {_short(value)}")
    return _encodable(row, column, str(value).strip())


def _encodable(row: Row, column: str, text: str) -> str:
    """Refuse half of a surrogate pair: JSON can hold one, but file names and UTF-8 files cannot."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise PairsError(
            f"{row.where}: the column {column!r} holds {_short(text)}, which is not valid Unicode"
        ) from error
    return text


def _picture(text: str, where: str, images: Path, urls: dict[str, str]) -> str:
    """The path relative to `images`, in Unicode form NFC, because two rows may spell one file in two ways."""
    if text.lower().startswith(("http://", "https://")):
        name = picture_of_url(text)
        urls[name] = text
        return name
    path = PurePosixPath(text)
    for root in (images.absolute().as_posix(), images.resolve().as_posix()):
        if path.is_absolute() and path.is_relative_to(root):
            path = path.relative_to(root)
    if path.is_absolute() or ".." in path.parts or "\\" in text:
        raise PairsError(f"{where}: {_short(text)} must be a path inside --images {images}, with forward slashes")
    return unicodedata.normalize("NFC", path.as_posix())


def _verdict(row: Row, columns: Columns) -> bool | None:
    value = _value(row, columns.usable)
    if value is None or value != value or (isinstance(value, str) and not value.strip()):  # NaN is unequal to itself
        return None
    # Programs write whole numbers with decimals if another cell of the column is empty.
    word = re.sub(r"^(-?\d+)\.0+$", r"\1", str(value).strip().lower())
    if word in columns.yes or word in columns.no:
        return word in columns.yes
    raise PairsError(
        f"{row.where}: unknown verdict {_short(value)} in column {columns.usable!r}; add it to "
        f"--usable-values or --unusable-values (now {', '.join(columns.yes)} and {', '.join(columns.no)})"
    )


def _short(value: object) -> str:
    """Shorten a value for a message, because some tables hold whole pictures."""
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def _dimensions(row: Row, column: str) -> frozenset[Dimension]:
    value = _value(row, column)
    words: Sequence[Any] = value if isinstance(value, list) else str(value or "").replace(";", ",").split(",")
    found = {word: dimension_named(word) for one in words if (word := str(one).strip())}
    if unknown := sorted(word for word, dimension in found.items() if dimension is None):
        raise PairsError(f"{row.where}: unknown dimension {unknown[0]!r}; choose from {', '.join(Dimension)}")
    return frozenset(dimension for dimension in found.values() if dimension)
