"""Opens AVIF files, and reads from their boxes the colours that Pillow ignores."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from io import BytesIO

from PIL import Image
from PIL.AvifImagePlugin import AvifImageFile

from screening.image_files import colour_profiles
from screening.image_files.avif_boxes import associations, boxes, find, locations
from screening.image_files.avif_memory import check_memory
from screening.image_files.opened import FILLER, CheckSize, Opened, damaged
from screening.image_files.tail import ends_in_filler

_BRANDS = frozenset({b"avif", b"avis"})
_CONTAINERS = frozenset({b"mif1", b"msf1"})


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
    check_memory(data)
    try:
        image = AvifImageFile(BytesIO(data))
    except Exception as error:
        if all(end <= len(data) for _, _, end in boxes(data, 0, len(data))) and find(data, 0, len(data), b"meta"):
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
    meta = find(data, 0, len(data), b"meta")
    if meta is None:
        return
    table, infos = (find(data, meta[0] + 4, meta[1], kind) for kind in (b"iloc", b"iinf"))
    if table is None or infos is None:
        return
    coded = _coded_items(data, *infos)
    for item, in_file, extents in locations(data[table[0] : table[1]]):
        if in_file and item in coded:
            yield from ((start, start + length) for start, length in extents if start + length <= len(data))


def _coded_items(data: bytes, start: int, end: int) -> set[int]:
    """Return the ids of the items that contain AV1 data (`iinf`)."""
    items = set()
    for kind, first, last in boxes(data, start + (8 if data[start] else 6), end):
        id_bytes = 2 if data[first] == 2 else 4
        if kind == b"infe" and data[first] >= 2 and data[first + 6 + id_bytes : last][:4] == b"av01":
            items.add(int.from_bytes(data[first + 4 : first + 4 + id_bytes], "big"))
    return items


def _coded_profile(data: bytes) -> bytes | None:
    """Return a profile for the code points ("nclx") of the primary picture; None for sRGB and unknown code points."""
    for body in _properties(data):
        if body[:4] == b"nclx" and len(body) >= 11:
            primaries, transfer = int.from_bytes(body[4:6], "big"), int.from_bytes(body[6:8], "big")
            return colour_profiles.coded(primaries, transfer) if colour_profiles.is_known(primaries, transfer) else None
    return None


def _properties(data: bytes) -> Iterator[bytes]:
    """Yield the bodies of the `colr` boxes that belong to the primary picture."""
    meta = find(data, 0, len(data), b"meta")
    if meta is None:
        return
    start, end = meta[0] + 4, meta[1]
    primary, properties = find(data, start, end, b"pitm"), find(data, start, end, b"iprp")
    if primary is None or properties is None:
        return
    wide = data[primary[0]] > 0
    item = int.from_bytes(data[primary[0] + 4 : primary[0] + (8 if wide else 6)], "big")
    shelf, owners = find(data, *properties, b"ipco"), find(data, *properties, b"ipma")
    if shelf is None or owners is None:
        return
    kept = list(boxes(data, *shelf))
    owned = (numbers for owner, numbers in associations(data[owners[0] : owners[1]]) if owner == item)
    for number in next(owned, []):
        if 1 <= number <= len(kept) and kept[number - 1][0] == b"colr":
            yield data[kept[number - 1][1] : kept[number - 1][2]]
