"""Opens AVIF files, and reads from their boxes (ISO/IEC 14496-12 and 23008-12) the colours that Pillow ignores."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from io import BytesIO

from PIL import Image
from PIL.AvifImagePlugin import AvifImageFile

from screening.image_files import colour_profiles
from screening.image_files.opened import FILLER, CheckSize, Opened, damaged
from screening.image_files.tail import ends_in_filler

_BRANDS = frozenset({b"avif", b"avis"})
_CONTAINERS = frozenset({b"mif1", b"msf1"})
_MAX_BOXES = 10_000


def is_avif(data: bytes) -> bool:
    """Whether a file begins like an AVIF file, even if it is incomplete."""
    if data[4:8] != b"ftyp":
        return False
    end = int.from_bytes(data[:4], "big")
    head = data[8 : min(end, 4096)]
    brands = {head[at : at + 4] for at in (0, *range(8, len(head), 4))}
    # A file of another format in the same container, such as HEIC, has other brands if its list is complete.
    return bool(brands & _BRANDS) or (end > len(data) and (head[:4] in _CONTAINERS or len(head) < 4))


def open_file(data: bytes, check_size: CheckSize) -> Opened:
    """Read the boxes of an AVIF file."""
    try:
        image = AvifImageFile(BytesIO(data))
    except Exception as error:
        if all(end <= len(data) for _, _, end in _boxes(data, 0, len(data))) and _find(data, 0, len(data), b"meta"):
            raise
        raise damaged("AVIF", "the file is incomplete") from error
    check_size(*image.size)
    return Opened(
        image,
        partial(_load, image, data),
        profile=image.info.get("icc_profile") or _coded_profile(data),
        # libavif writes the rotation from the file's own boxes (irot, imir) here, which browsers use as well.
        exif=image.info.get("exif"),
        animated=image.is_animated,
    )


def _load(image: Image.Image, data: bytes) -> Image.Image:
    """Decode all pixels. The decoder detects missing data, but not filler in their place.

    Raises:
        ImageUnreadable: the coded data end in a repetition, which does not occur even in flat pictures.
    """
    if any(ends_in_filler(data, start, end) for start, end in _coded(data)):
        raise damaged("AVIF", FILLER)
    image.load()
    return image


def _coded(data: bytes) -> Iterator[tuple[int, int]]:
    """Yield the start and end of the coded data of each picture in the file, without texts and padding."""
    meta = _find(data, 0, len(data), b"meta")
    if meta is None:
        return
    locations, infos = (_find(data, meta[0] + 4, meta[1], kind) for kind in (b"iloc", b"iinf"))
    if locations is None or infos is None:
        return
    coded = _coded_items(data, *infos)
    for item, start, end in _extents(data[locations[0] : locations[1]]):
        if item in coded and end <= len(data):
            yield start, end


def _coded_items(data: bytes, start: int, end: int) -> set[int]:
    """Return the ids of the items that contain AV1 data (`iinf`)."""
    items = set()
    for kind, first, last in _boxes(data, start + (8 if data[start] else 6), end):
        id_bytes = 2 if data[first] == 2 else 4
        if kind == b"infe" and data[first] >= 2 and data[first + 6 + id_bytes : last][:4] == b"av01":
            items.add(int.from_bytes(data[first + 4 : first + 4 + id_bytes], "big"))
    return items


def _extents(body: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield the item id, start and end of each extent in the file (`iloc`)."""
    version, reader = body[0], BytesIO(body[4:])

    def number(size: int) -> int:
        return int.from_bytes(reader.read(size), "big")

    sizes = number(2)
    offset_bytes, length_bytes, base_bytes = sizes >> 12, sizes >> 8 & 15, sizes >> 4 & 15
    index_bytes = sizes & 15 if version else 0
    for _ in range(min(number(4 if version == 2 else 2), _MAX_BOXES)):
        item, in_file = number(4 if version == 2 else 2), not version or number(2) & 15 == 0
        number(2)  # index of the file, which is this one
        base = number(base_bytes)
        for _ in range(min(number(2), _MAX_BOXES)):
            number(index_bytes)
            start = base + number(offset_bytes)
            length = number(length_bytes)
            if in_file:
                yield item, start, start + length


def _coded_profile(data: bytes) -> bytes | None:
    """Return a profile for the code points ("nclx") of the primary picture; None for sRGB and unknown code points."""
    for body in _properties(data):
        if body[:4] == b"nclx" and len(body) >= 11:
            primaries, transfer = int.from_bytes(body[4:6], "big"), int.from_bytes(body[6:8], "big")
            return colour_profiles.coded(primaries, transfer) if colour_profiles.is_known(primaries, transfer) else None
    return None


def _properties(data: bytes) -> Iterator[bytes]:
    """Yield the bodies of the `colr` boxes that belong to the primary picture."""
    meta = _find(data, 0, len(data), b"meta")
    if meta is None:
        return
    start, end = meta[0] + 4, meta[1]
    primary, properties = _find(data, start, end, b"pitm"), _find(data, start, end, b"iprp")
    if primary is None or properties is None:
        return
    wide = data[primary[0]] > 0
    item = int.from_bytes(data[primary[0] + 4 : primary[0] + (8 if wide else 6)], "big")
    shelf, owners = _find(data, *properties, b"ipco"), _find(data, *properties, b"ipma")
    if shelf is None or owners is None:
        return
    boxes = list(_boxes(data, *shelf))
    for index in _owned(data[owners[0] : owners[1]], item):
        if 1 <= index <= len(boxes) and boxes[index - 1][0] == b"colr":
            yield data[boxes[index - 1][1] : boxes[index - 1][2]]


def _owned(body: bytes, item: int) -> list[int]:
    """Return the numbers of an item's properties, which start at 1 (`ipma`)."""
    id_bytes, index_bytes = (4 if body[0] > 0 else 2), (2 if body[3] & 1 else 1)
    mask, at = (1 << (8 * index_bytes - 1)) - 1, 8
    for _ in range(int.from_bytes(body[4:8], "big")):
        if at + id_bytes >= len(body):
            break
        owner, count = int.from_bytes(body[at : at + id_bytes], "big"), body[at + id_bytes]
        at += id_bytes + 1
        if owner == item:
            pieces = (body[at + i * index_bytes : at + (i + 1) * index_bytes] for i in range(count))
            return [int.from_bytes(piece, "big") & mask for piece in pieces]
        at += count * index_bytes
    return []


def _find(data: bytes, start: int, end: int, wanted: bytes) -> tuple[int, int] | None:
    """Return the start and end of the body of the first box of a kind."""
    return next(((first, last) for kind, first, last in _boxes(data, start, end) if kind == wanted), None)


def _boxes(data: bytes, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield the kind of each box and the start and end of its body. The last end may lie beyond `end`."""
    at = start
    for _ in range(_MAX_BOXES):
        if at + 8 > end:
            return
        size, kind, body = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8], at + 8
        if size == 1:
            size, body = int.from_bytes(data[at + 8 : at + 16], "big"), at + 16
        elif size == 0:
            size = end - at
        if size < body - at:
            return
        yield kind, body, at + size
        at += size
