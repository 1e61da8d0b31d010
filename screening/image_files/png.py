"""Opens PNG files (third edition) and handles their transparency and colours.

Pillow gets only the chunks that contain the pixels. It would refuse intact pictures because of their texts and
profiles, and it misinterprets transparency (tRNS) at 2, 4 and 16 bits.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial, reduce
from io import BytesIO

from PIL import Image, ImageChops
from PIL.PngImagePlugin import PngImageFile

from screening.errors import ImageUnreadable
from screening.image_files import colour_profiles
from screening.image_files.colour import MAX_PROFILE_BYTES
from screening.image_files.opened import MISSING, CheckSize, Opened, damaged

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_GREY, _RGB, _PALETTE = 0, 2, 3
_CHANNELS = {_GREY: 1, _RGB: 3, _PALETTE: 1, 4: 2, 6: 4}
_PIXEL_CHUNKS = (b"IHDR", b"PLTE", b"IDAT", b"IEND")
_USED = frozenset({b"acTL", b"cHRM", b"cICP", b"eXIf", b"gAMA", b"iCCP", b"sRGB", b"tRNS"})
_MAX_CHUNKS = 100_000
_STEP = 1 << 20
"""Number of bytes that are inflated at a time."""

_PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
"""First column, first row and steps of each pass of Adam7 interlacing."""


@dataclass(slots=True)
class Chunks:
    """The chunks that are used. Their checksums have been verified."""

    has_header: bool = False
    width: int = 0
    height: int = 0
    depth: int = 0
    colour: int = 0
    interlaced: bool = False
    pixels: list[memoryview] = field(default_factory=list)
    """Complete chunks for Pillow, in the order of the file."""
    data: list[memoryview] = field(default_factory=list)
    """Bodies of the IDAT chunks."""
    others: dict[bytes, bytes] = field(default_factory=dict)

    def read_header(self, body: bytes) -> None:
        """
        Raises:
            ImageUnreadable: there was a header before. Pillow would use the size of that one.
        """
        if self.has_header:
            raise damaged("PNG", "it has two headers")
        self.has_header = True
        self.width, self.height, self.depth, self.colour, _, _, interlace = struct.unpack_from(">IIBBBBB", body)
        self.interlaced = interlace == 1

    @property
    def inflated_bytes(self) -> int:
        """Size of the decompressed pixel data: a filter byte and the pixels of each row, in each pass."""
        bits = self.depth * _CHANNELS[self.colour]
        total = 0
        for left, top, across, down in _PASSES if self.interlaced else ((0, 0, 1, 1),):
            columns, rows = -(-(self.width - left) // across), -(-(self.height - top) // down)
            if columns > 0 and rows > 0:
                total += rows * (1 + -(-columns * bits // 8))
        return total


def open_file(data: bytes, check_size: CheckSize) -> Opened:
    """Read the chunks of a PNG file."""
    chunks = read_chunks(data)
    check_size(chunks.width, chunks.height)
    image = PngImageFile(BytesIO(b"".join((SIGNATURE, *chunks.pixels))))
    exif = chunks.others.get(b"eXIf")
    return Opened(
        image,
        partial(_load, image, chunks),
        profile=_profile(chunks.others),
        exif=b"Exif\0\0" + exif if exif is not None else None,
        animated=int.from_bytes(chunks.others.get(b"acTL", b"")[:4], "big") > 1,
    )


def read_chunks(data: bytes) -> Chunks:
    """
    Raises:
        ImageUnreadable: the header is missing or there are two, or a chunk with pixels is damaged. Other damaged
            chunks are ignored, as in browsers.
    """
    chunks, view = Chunks(), memoryview(data)
    for kind, start, end in _walk(data):
        if end > len(data):
            raise damaged("PNG", "the file is incomplete")
        whole = zlib.crc32(view[start + 4 : end - 4]) == int.from_bytes(view[end - 4 : end], "big")
        if kind in _PIXEL_CHUNKS:
            if not whole and kind != b"IEND":
                raise damaged("PNG", f"its {kind.decode()} chunk has a wrong checksum")
            chunks.pixels.append(view[start:end])
        if kind == b"IHDR":
            chunks.read_header(data[start + 8 : end - 4])
        elif kind == b"IDAT":
            chunks.data.append(view[start + 8 : end - 4])
        elif kind in _USED and whole:
            chunks.others.setdefault(kind, data[start + 8 : end - 4])
            if kind == b"tRNS" and chunks.colour == _PALETTE:  # Pillow reads the alpha values of a palette correctly
                chunks.pixels.append(view[start:end])
    if not chunks.depth:
        raise damaged("PNG", "the file ends in its header")
    return chunks


def _walk(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield the name, start and end of each chunk."""
    at = len(SIGNATURE)
    for _ in range(_MAX_CHUNKS):
        if at + 12 > len(data):
            return
        length, kind = struct.unpack_from(">I4s", data, at)
        yield kind, at, at + 12 + length
        at += 12 + length
        if kind == b"IEND":
            return
    raise ImageUnreadable("the PNG picture has more chunks than any picture needs")


def _load(image: Image.Image, chunks: Chunks) -> Image.Image:
    """Decode all pixels. Converts 16-bit grey to 8 bits, and a transparent colour to an alpha channel.

    Raises:
        ImageUnreadable: rows are missing.
    """
    image.load()
    _check_rows(image, chunks)
    key = chunks.others.get(b"tRNS", b"")
    has_key = chunks.colour in (_GREY, _RGB) and len(key) >= 2 * _CHANNELS[chunks.colour]
    opaque = _opaque(image, chunks, struct.unpack_from(f">{_CHANNELS[chunks.colour]}H", key)) if has_key else None
    if chunks.depth == 16 and chunks.colour == _GREY:
        # Pillow's own conversion clips at 255 and would turn 16-bit pictures white.
        image = image.convert("I").point(lambda value: value / 257).convert("L")
    elif image.mode == "1":
        image = image.convert("L")
    if opaque is not None:
        image.putalpha(opaque)
    return image


def _check_rows(image: Image.Image, chunks: Chunks) -> None:
    """Refuse a picture with fewer rows than its header says.

    Pillow leaves missing rows black if the compressed stream ends properly. Therefore rows are counted only if the last
    one is black, or if the picture is interlaced.
    """
    last_row = image.crop((0, chunks.height - 1, chunks.width, chunks.height))
    if not chunks.interlaced and image.mode != "I;16" and last_row.getbbox(alpha_only=False) is not None:
        return
    inflate, missing = zlib.decompressobj(), chunks.inflated_bytes
    for body in chunks.data:
        part: bytes | memoryview = body
        while part and missing > 0:
            missing -= len(inflate.decompress(part, _STEP))
            part = inflate.unconsumed_tail
    if missing > 0 and missing > len(inflate.flush()):
        raise damaged("PNG", MISSING)


def _opaque(image: Image.Image, chunks: Chunks, key: Sequence[int]) -> Image.Image:
    """Return the alpha channel of a grey or RGB picture: 0 where all bits of a pixel match the transparent colour."""
    values = [value & (1 << chunks.depth) - 1 for value in key]
    if chunks.colour == _GREY:
        if chunks.depth == 16:
            return image.convert("I").point([255 * (value != values[0]) for value in range(1 << 16)], "L")
        return _unlike(image.convert("L"), (values[0] * (255 // ((1 << chunks.depth) - 1)),))
    if chunks.depth == 8:
        return _unlike(image, values)
    high, low = [value >> 8 for value in values], [value & 255 for value in values]
    return ImageChops.lighter(_unlike(image, high), _unlike(_low_bytes(chunks), low))


def _unlike(image: Image.Image, colour: Sequence[int]) -> Image.Image:
    """Return a mask with 255 where a pixel differs from a colour in any channel, and 0 elsewhere."""
    planes = [
        plane.point([255 * (value != wanted) for value in range(256)])
        for plane, wanted in zip(image.split(), colour, strict=True)
    ]
    return reduce(ImageChops.lighter, planes)


def _low_bytes(chunks: Chunks) -> Image.Image:
    """Return the low bytes of 16-bit RGB. Pillow uses the high byte, which is the other one in little-endian order."""
    image = PngImageFile(BytesIO(b"".join((SIGNATURE, *chunks.pixels))))
    image.tile = [tile._replace(args="RGB;16L") for tile in image.tile]
    image.load()
    return image


def _profile(others: dict[bytes, bytes]) -> bytes | None:
    """Return the profile of the colours, by the order of precedence in PNG's third edition, section 4.3."""
    coded = others.get(b"cICP", b"")
    if len(coded) == 4 and coded[2:] == b"\0\1" and colour_profiles.is_known(coded[0], coded[1]):
        return colour_profiles.coded(coded[0], coded[1])
    if b"iCCP" in others:
        return _inflated_profile(others[b"iCCP"])
    if b"sRGB" in others:
        return None
    gamma, points = others.get(b"gAMA", b""), others.get(b"cHRM", b"")
    return colour_profiles.measured(
        int.from_bytes(gamma, "big") / 100_000 if len(gamma) == 4 else None,
        [value / 100_000 for value in struct.unpack(">8I", points)] if len(points) == 32 else None,
    )


def _inflated_profile(body: bytes) -> bytes | None:
    _, _, rest = body.partition(b"\0")
    try:
        profile = zlib.decompressobj().decompress(rest[1:], MAX_PROFILE_BYTES + 1)
    except zlib.error:
        return None
    return profile if len(profile) <= MAX_PROFILE_BYTES else None
