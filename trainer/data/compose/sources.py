"""The files to compose: product photos and reference pictures, each known by the hash of its bytes."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from screening.errors import ImageError
from screening.images import MIN_SIDE, ImageLimits, accept, decode
from trainer.data.compose.failures import ComposeError, Failed, Reason
from trainer.data.compose.seeds import seed_of
from trainer.data.compose.white import on_white
from trainer.data_directory import SAMPLES_NAME
from trainer.runs.run_directory import ORIGIN_NAME

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".avif"})
LIMITS = ImageLimits(max_bytes=64 * 2**20, max_pixels=100_000_000)
"""Above the service's limits, because a camera's photos are larger than the pictures that a caller sends."""
WORKING_SIDE = 2048
"""Longer side in pixels of a photo in memory."""


@dataclass(frozen=True)
class Source:
    """One file: a product photo or a reference picture."""

    path: Path
    name: str
    """Name of the product, or of the reference."""
    digest: str
    """Hex SHA-256 of the file."""

    @property
    def file(self) -> str:
        """Name of the file, for records."""
        return _printable(self.path.name)

    @property
    def id(self) -> str:
        """Name of the sample that is made from this photo: letters, digits and hyphens, different for each file."""
        plain = re.sub(r"[^a-z0-9]+", "-", self.name.lower()).strip("-")[:40]
        return "-".join(filter(None, [plain, self.digest[:10]]))


def products_in(directory: Path) -> list[Source]:
    """The product photos in a directory, in the order of their sample ids.

    A file `mug.png` shows the product `mug`, and each file in a folder `mug` shows it too. A file that cannot be opened
    is listed as well, and fails later under its own name. Folders with the output of a command are passed over, so
    `--out` may be one of them.

    Raises:
        ComposeError: the directory is missing or contains no pictures.
    """
    found = {source.id: source for source in _sources(directory, folders=True)}
    if not found:
        raise ComposeError(f"--products: {directory} contains no picture ({', '.join(sorted(SUFFIXES))})")
    return [found[name] for name in sorted(found)]


def references_in(directory: Path) -> list[Source]:
    """The reference pictures in a directory. Every one of them must be readable.

    Raises:
        ComposeError: the directory is missing or contains no pictures, or one cannot be read.
    """
    found = {source.digest: source for source in _sources(directory, folders=False)}
    if not found:
        raise ComposeError(f"--references: {directory} contains no picture ({', '.join(sorted(SUFFIXES))})")
    for source in found.values():
        try:
            read_photo(source)
        except Failed as error:
            raise ComposeError(f"--references: {source.path}: {error.message}") from error
    return [found[digest] for digest in sorted(found)]


def choose_reference(seed: int, product: Source, references: Sequence[Source]) -> Source:
    """Choose the reference of a product at random; the other products and the order of the files do not matter."""
    return max(references, key=lambda one: seed_of(seed, "reference", product.digest, one.digest))


def read_photo(source: Source) -> Image.Image:
    """Read a photo as upright sRGB: RGBA if a pixel is transparent, else RGB; at most `WORKING_SIDE` pixels a side.

    Raises:
        Failed: the file is not a picture, is damaged, or exceeds a limit.
    """
    try:
        photo = decode(accept(source.path.read_bytes(), LIMITS), shrink_to=WORKING_SIDE // 2, keep_alpha=True)
    except (ImageError, OSError) as error:
        raise Failed(Reason.UNREADABLE, str(error)) from error
    photo.thumbnail((WORKING_SIDE, WORKING_SIDE), Image.Resampling.LANCZOS)
    opaque = photo.mode != "RGBA" or photo.getchannel("A").getextrema()[0] == 255
    return photo.convert("RGB") if opaque else photo


def as_original(photo: Image.Image, side: int) -> Image.Image:
    """The photo as the original of a question: RGB, with white where it is transparent.

    Its longer side has at most `side` pixels, or so many that the shorter one keeps `MIN_SIDE`, which every later stage
    and the service need.
    """
    original = on_white(photo)
    side = max(side, math.ceil(MIN_SIDE * max(photo.size) / min(photo.size)))
    original.thumbnail((side, side), Image.Resampling.LANCZOS)
    return original


def _sources(directory: Path, *, folders: bool) -> Iterator[Source]:
    if not directory.is_dir():
        raise ComposeError(f"{directory} is not a directory")
    for path in sorted(directory.iterdir()):
        if folders and path.is_dir() and not _is_output(path):
            for inner in sorted(path.iterdir()):
                if _is_picture(inner):
                    yield Source(inner, _printable(path.name), _digest(inner))
        elif _is_picture(path):
            yield Source(path, _printable(path.stem), _digest(path))


def _printable(name: str) -> str:
    """A file name, with escapes for bytes that are not UTF-8."""
    return name.encode(errors="backslashreplace").decode()


def _is_output(folder: Path) -> bool:
    """Whether a folder holds what a command has written. Its contact sheet shows no product."""
    return any((folder / name).exists() for name in (ORIGIN_NAME, SAMPLES_NAME))


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and not path.is_dir()


def _digest(path: Path) -> str:
    """Hash of the file; of its name if it cannot be opened, so that it still has an id to fail under."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return hashlib.sha256(f"unreadable {_printable(path.name)}".encode()).hexdigest()
