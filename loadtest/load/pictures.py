"""Make new JPEGs of realistic sizes that no cache has seen, by copying bytes.

The example products are enlarged to sizes that cameras and shops use and get noise like that of a sensor, so that they
have as many bytes as photos. Encoding five pictures per request would use more CPU time than the service. So each
picture is encoded once, with independent rows of blocks (restart markers, ITU T.81, E.1.4), together with slightly
tinted variants of its top rows. A new picture is a new combination of these rows, with other bytes and other pixels,
even after it is scaled down.
"""

from __future__ import annotations

import io
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from loadtest.console import REPOSITORY

EXAMPLES = REPOSITORY / "clients" / "python" / "examples" / "products"
NAMES = ("original", "a", "b", "c", "d")

SIZES = ((800, 800), (1024, 1024), (1200, 900), (900, 1200), (1280, 1280), (1600, 1200))
"""Width and height of the pictures in pixels."""

_QUALITY = 88
_ROW = 16
"""Height in pixels of a row of blocks; with halved colour resolution, a block is 16 x 16."""
_VARIED_ROWS = 3
_TINTS = tuple((red, blue) for red in range(0, 16, 4) for blue in range(0, 16, 4))
"""Amount that is added to the red and blue of a dark row, or subtracted in a bright row."""
_GRAIN = 4.0
"""Standard deviation of the noise, in levels of 0-255."""


@dataclass(frozen=True, slots=True)
class Question:
    """Five JPEGs of one question, and whether the original was sent before."""

    original: bytes
    generated: tuple[bytes, bytes, bytes, bytes]
    repeated: bool


class Photo:
    """One picture in many variants."""

    def __init__(self, pixels: np.ndarray) -> None:
        """
        Args:
            pixels: (height, width, 3), uint8; at least three rows of blocks high.

        Raises:
            ValueError: the picture is not high enough.
        """
        if pixels.shape[0] < _VARIED_ROWS * _ROW:
            raise ValueError(f"a picture must be at least {_VARIED_ROWS * _ROW} pixels high, not {pixels.shape[0]}")
        self._head, rows = _encoded(pixels)
        self._rest = rows[_VARIED_ROWS:]
        self._tinted = [
            [_encoded(_tinted(pixels[row * _ROW : (row + 1) * _ROW], tint))[1][0] for tint in _TINTS]
            for row in range(_VARIED_ROWS)
        ]

    @property
    def variants(self) -> int:
        """Number of variants."""
        return int(len(_TINTS) ** _VARIED_ROWS)

    def variant(self, number: int) -> bytes:
        """The JPEG with a given number, modulo `variants`."""
        rows = []
        for choices in self._tinted:
            number, place = divmod(number, len(choices))
            rows.append(choices[place])
        return self._head + _joined([*rows, *self._rest])


class Pictures:
    """An endless series of questions that depends only on the seed. Products repeat, with new pictures."""

    def __init__(
        self,
        *,
        seed: int = 0,
        repeated_originals: float = 0.0,
        products: int = 6,
        sizes: Sequence[tuple[int, int]] = SIZES,
    ) -> None:
        """
        Args:
            repeated_originals: share of questions whose original was sent before; generated pictures are always new.
            products: number of example products to use; product n has the n-th size.
        """
        rng = np.random.default_rng(seed)
        folders = sorted(path for path in EXAMPLES.iterdir() if path.is_dir())
        self._photos = [
            [Photo(_photographed(folder / f"{name}.jpg", sizes[n % len(sizes)], rng)) for name in NAMES]
            for n, folder in enumerate(folders[:products])
        ]
        self._repeated = repeated_originals
        self._chance = random.Random(seed)  # noqa: S311 - the choice of pictures needs no cryptographic randomness

    def questions(self) -> Iterator[Question]:
        """Iterate over the questions without end."""
        originals = [0] * len(self._photos)
        turn = 0
        while True:
            for product, (original, *generated) in enumerate(self._photos):
                repeated = turn > 0 and self._chance.random() < self._repeated
                originals[product] += turn > 0 and not repeated
                first, second, third, fourth = (photo.variant(turn) for photo in generated)
                yield Question(original.variant(originals[product]), (first, second, third, fourth), repeated)
            turn += 1


def _photographed(path: Path, size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    with Image.open(path) as picture:
        pixels = np.asarray(picture.convert("RGB").resize(size, Image.Resampling.BICUBIC)).astype(np.int16)
    tile = np.round(rng.normal(0, _GRAIN, (256, 256, 1))).astype(np.int16)
    grain = np.tile(tile, (-(-size[1] // 256), -(-size[0] // 256), 1))[: size[1], : size[0]]
    return _clipped(pixels + grain)


def _tinted(pixels: np.ndarray, tint: tuple[int, int]) -> np.ndarray:
    shift = np.array([tint[0], 0, tint[1]], np.int16)
    away = np.where(pixels.mean(axis=(0, 1)) < 128, shift, -shift)  # a white background cannot get brighter
    return _clipped(pixels.astype(np.int16) + away)


def _clipped(levels: np.ndarray) -> np.ndarray:
    clipped: np.ndarray = np.clip(levels, 0, 255).astype(np.uint8)
    return clipped


def _encoded(pixels: np.ndarray) -> tuple[bytes, list[bytes]]:
    """Split a JPEG into the part before the compressed data, and the compressed data of each row of blocks.

    The tables are libjpeg's own for this quality and the same in every file, so rows can be moved between files.
    """
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=_QUALITY, subsampling="4:2:0", restart_marker_rows=1)
    data = buffer.getvalue()
    place = 2
    while data[place + 1] != 0xDA:  # segments up to the start of scan, each with its length after the marker
        place += 2 + int.from_bytes(data[place + 2 : place + 4])
    place += 2 + int.from_bytes(data[place + 2 : place + 4])
    # In compressed data 0xFF is followed by 0, so other bytes mean markers.
    return data[:place], re.split(rb"\xff[\xd0-\xd7]", data[place:-2])


def _joined(rows: Sequence[bytes]) -> bytes:
    """Join compressed rows with the restart markers 0 to 7 between them, and append the end marker."""
    parts = [rows[0]]
    for number, row in enumerate(rows[1:]):
        parts += [bytes((0xFF, 0xD0 + number % 8)), row]
    return b"".join([*parts, b"\xff\xd9"])
