"""Reads the boxes of AVIF files (ISO/IEC 14496-12 and 23008-12)."""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO

from screening.image_files.opened import damaged

_MAX_BOXES = 10_000


def boxes(data: bytes, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield the kind of each box and the start and end of its body. The last end may lie beyond `end`.

    Raises:
        ImageUnreadable: there are more boxes than any picture needs.
    """
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
    raise damaged("AVIF", "it has more boxes than any picture needs")


def find(data: bytes, start: int, end: int, wanted: bytes) -> tuple[int, int] | None:
    """Return the start and end of the body of the first box of a kind."""
    return next(((first, last) for kind, first, last in boxes(data, start, end) if kind == wanted), None)


def locations(body: bytes) -> Iterator[tuple[int, bool, list[tuple[int, int]]]]:
    """Yield each item's id, whether its data are in the file itself, and the start and length of its extents (`iloc`).

    Raises:
        ImageUnreadable: an item has more extents than the box has bytes for.
    """
    version, reader = int.from_bytes(body[:1], "big"), BytesIO(body[4:])

    def number(size: int) -> int:
        return int.from_bytes(reader.read(size), "big")

    def left() -> int:
        return len(body) - 4 - reader.tell()

    sizes = number(2)
    offset_bytes, length_bytes, base_bytes = sizes >> 12, sizes >> 8 & 15, sizes >> 4 & 15
    index_bytes = sizes & 15 if version else 0
    each = index_bytes + offset_bytes + length_bytes
    for _ in range(number(4 if version == 2 else 2)):
        if left() <= 0:
            raise damaged("AVIF", "it has fewer items than it says")
        item, in_file = number(4 if version == 2 else 2), not version or number(2) & 15 == 0
        number(2)  # index of the file, which is this one
        base, count = number(base_bytes), number(2)
        # With sizes of 0, a few bytes would stand for 65,535 extents, for each of which libavif allocates memory.
        if count and (each == 0 or count * each > left()):
            raise damaged("AVIF", "an item has more extents than the file describes")
        extents = []
        for _ in range(count):
            number(index_bytes)
            start = base + number(offset_bytes)
            extents.append((start, number(length_bytes)))
        yield item, in_file, extents


def associations(body: bytes) -> Iterator[tuple[int, list[int]]]:
    """Yield each item's id and the numbers of its properties, which start at 1 (`ipma`)."""
    id_bytes, index_bytes = (4 if body[0] > 0 else 2), (2 if body[3] & 1 else 1)
    mask, at = (1 << (8 * index_bytes - 1)) - 1, 8
    for _ in range(int.from_bytes(body[4:8], "big")):
        if at + id_bytes >= len(body):
            return
        item, count = int.from_bytes(body[at : at + id_bytes], "big"), body[at + id_bytes]
        at += id_bytes + 1
        pieces = (body[at + i * index_bytes : at + (i + 1) * index_bytes] for i in range(count))
        yield item, [int.from_bytes(piece, "big") & mask for piece in pieces]
        at += count * index_bytes
