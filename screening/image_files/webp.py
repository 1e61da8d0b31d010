"""Opens WebP files with Pillow and libwebp, and detects filler at their end."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from io import BytesIO

from PIL import Image
from PIL.WebPImagePlugin import WebPImageFile

from screening.image_files.opened import FILLER, CheckSize, Opened, damaged
from screening.image_files.tail import SPARE_BYTES, ends_in_filler

_CODED = (b"VP8 ", b"VP8L", b"ALPH")


def open_file(data: bytes, check_size: CheckSize) -> Opened:
    """Read the header of a WebP file."""
    size = int.from_bytes(data[4:8], "little")
    if 8 + size > len(data):
        raise damaged("WebP", f"the file has only {len(data)} of {8 + size} bytes")
    if data[12:16] == b"VP8X":  # libwebp would allocate memory for all pixels before it reports the size
        check_size(1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little"))
    image = WebPImageFile(BytesIO(data))
    check_size(*image.size)
    return Opened(
        image,
        partial(_load, image, data),
        profile=image.info.get("icc_profile"),
        exif=image.info.get("exif"),
        animated=image.is_animated,
    )


def _load(image: Image.Image, data: bytes) -> Image.Image:
    """Decode all pixels. libwebp itself detects coded data that end too early.

    Raises:
        ImageUnreadable: the last bytes repeat and are not needed. Flat areas repeat too, but their bytes are needed.
    """
    image.load()
    for kind, start, end in _chunks(data):
        if kind in _CODED and ends_in_filler(data, start, end) and _is_whole(_shortened(data, start, end)):
            raise damaged("WebP", FILLER)
    return image


def _shortened(data: bytes, start: int, end: int) -> bytes:
    """Return the file without the last `SPARE_BYTES` of one chunk's body."""
    length = end - start - SPARE_BYTES
    body = data[12 : start - 4] + length.to_bytes(4, "little") + data[start : start + length] + bytes(length % 2)
    rest = data[end + (end - start) % 2 :]
    return b"RIFF" + (4 + len(body) + len(rest)).to_bytes(4, "little") + b"WEBP" + body + rest


def _is_whole(data: bytes) -> bool:
    try:
        WebPImageFile(BytesIO(data)).load()
    except (OSError, SyntaxError):
        return False
    return True


def _chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield the name of each chunk and the start and end of its body."""
    at = 12
    while at + 8 <= len(data):
        start, length = at + 8, int.from_bytes(data[at + 4 : at + 8], "little")
        yield data[at : at + 4], start, min(start + length, len(data))
        at = start + length + length % 2
