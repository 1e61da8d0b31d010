"""Estimates the memory that libavif allocates for the boxes of an AVIF file, before libavif reads them.

libavif allocates a kilobyte for a box of eight bytes, and copies a property for each item that has it. So a small file
can take many GiB while its size in pixels is still unknown. The sizes here are those of libavif 1.4, rounded up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from screening.image_files.avif_boxes import associations, boxes, find, locations
from screening.image_files.opened import damaged

_SPARE_BYTES = 32 * 2**20
"""Memory that a file may take in addition to its own size. It is enough for a picture of 3,000 tiles."""
_PART_BYTES = 1500
"""Bytes for an item, a track or a description of samples."""
_PROPERTY_BYTES = 144
_EXTENT_BYTES = 128
_SAMPLE_BYTES = 112

_OPENED: dict[bytes, dict[bytes, int | None]] = {
    b"": {b"meta": 4, b"moov": 0},
    b"moov": {b"trak": 0},
    b"trak": {b"meta": 4, b"mdia": 0},
    b"mdia": {b"minf": 0},
    b"minf": {b"stbl": 0},
    b"stbl": {b"stsd": 8},
    b"stsd": {b"av01": 78},
    b"meta": {b"iinf": 6, b"iloc": None, b"iprp": 0, b"iref": 4, b"grpl": 0},
    b"iprp": {b"ipco": 0},
}
"""Box → the boxes in it that libavif reads, and the position of their own boxes; None if they have none."""


def check_memory(data: bytes) -> None:
    """Refuse a file whose boxes would take much more memory than the file itself.

    Raises:
        ImageUnreadable: the boxes would take `_SPARE_BYTES` more than the file, or an item has more extents than its
            box has bytes for.
    """
    left = _SPARE_BYTES + len(data)
    for cost in _costs(data, b"", 0, len(data)):
        left -= cost
        if left < 0:
            raise damaged("AVIF", "its boxes describe much more than the file contains")


def _costs(data: bytes, parent: bytes, start: int, end: int) -> Iterator[int]:
    """Yield the bytes that libavif may allocate for each box in a box, at any depth."""
    opened, has_meta = _OPENED.get(parent, {}), False
    for kind, first, last in boxes(data, start, end):
        if last > end:  # libavif does not read the content of an incomplete box
            return
        yield _PART_BYTES
        if kind not in opened:
            continue
        if kind == b"meta" and has_meta:  # libavif lets a second one in a track use the properties of the first
            raise damaged("AVIF", "it has two boxes of the kind 'meta' in one place")
        has_meta = has_meta or kind == b"meta"
        if kind in _OWN_COSTS:
            yield from _OWN_COSTS[kind](data, first, last)
        inner = opened[kind]
        if inner is not None:
            longer = 2 if kind == b"iinf" and data[first : first + 1] > b"\0" else 0
            yield from _costs(data, kind, first + inner + longer, last)


def _of_locations(data: bytes, first: int, last: int) -> Iterator[int]:
    """Costs of the items in an `iloc` box. libavif copies an item's data if they are in several places."""
    for _, _, extents in locations(data[first:last]):
        yield _PART_BYTES + len(extents) * _EXTENT_BYTES
        if len(extents) > 1:
            yield min(sum(length for _, length in extents), len(data))


def _of_associations(data: bytes, first: int, last: int) -> Iterator[int]:
    """Costs of the items' properties in an `iprp` box. libavif copies those that it does not know, but no profiles."""
    shelf = find(data, first, last, b"ipco")
    if shelf is None:
        return
    sizes = [0 if kind == b"colr" else end - start for kind, start, end in boxes(data, *shelf)]
    for kind, start, end in boxes(data, first, last):
        if kind == b"ipma" and end <= last:
            for _, numbers in associations(data[start:end]):
                copied = sum(sizes[number - 1] for number in numbers if 1 <= number <= len(sizes))
                yield _PART_BYTES + len(numbers) * _PROPERTY_BYTES + copied


def _of_references(data: bytes, first: int, last: int) -> Iterator[int]:
    """Costs of the items that an `iref` box makes: the tiles of derived pictures."""
    id_bytes = 4 if data[first : first + 1] > b"\0" else 2
    for kind, start, end in boxes(data, first + 4, last):
        if kind == b"dimg":
            yield (min(end, last) - start) // id_bytes * _PART_BYTES


def _of_samples(data: bytes, first: int, last: int) -> Iterator[int]:
    """Costs of the pictures of a track (`stbl`), of which a few bytes can state millions."""
    chunks, entries, samples = 0, 0, 0
    for kind, start, end in boxes(data, first, last):
        count = int.from_bytes(data[start + 4 : start + 8], "big")
        if kind in (b"stco", b"co64"):
            chunks += count
        elif kind == b"stsc":
            entries += count
            places = range(start + 12, min(end, last) - 3, 12)
            samples = max(samples, max((int.from_bytes(data[at : at + 4], "big") for at in places), default=0))
    yield chunks * max(samples, entries) * _SAMPLE_BYTES  # libavif searches the entries for each chunk


_OWN_COSTS: dict[bytes, Callable[[bytes, int, int], Iterator[int]]] = {
    b"iloc": _of_locations,
    b"iprp": _of_associations,
    b"iref": _of_references,
    b"stbl": _of_samples,
}
