"""Opens JPEG files (ITU-T T.81) and decodes them with a check for missing data.

libjpeg fills areas without data with grey and only warns, and Pillow hides the warning. Therefore this module feeds the
decoder one scan at a time, and refuses a picture if the decoder needs more data than a scan contains.
"""

from __future__ import annotations

import itertools
import math
import re
from dataclasses import dataclass, field
from functools import partial
from io import BytesIO
from typing import Any

from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from screening.errors import ImageUnsupported
from screening.image_files.opened import FILLER, MISSING, CheckSize, Opened, damaged
from screening.image_files.tail import SPARE_BYTES, ends_in_filler

_SOS, _DRI, _EOI = 0xDA, 0xDD, 0xD9
_FRAMES = frozenset({0xC0, 0xC1, 0xC2, 0xC9, 0xCA})
"""Frame headers that libjpeg decodes: baseline, extended and progressive, with Huffman or arithmetic coding."""
_PROGRESSIVE, _ARITHMETIC = frozenset({0xC2, 0xCA}), frozenset({0xC9, 0xCA})
_BARE = frozenset({0x01, *range(0xD0, 0xD9)})
"""Markers without a length: TEM, RST0-7, SOI."""
_OTHER_FRAMES = frozenset({0xC3, *range(0xC5, 0xC8), 0xCB, *range(0xCD, 0xD0)})
"""Frame headers of lossless and hierarchical JPEG, which browsers do not show either."""
_COEFFICIENTS = 64
_NO_BIT = 14
"""Bit number of a coefficient that is not coded yet; real bits have smaller numbers."""
_RESTARTS = bytes(range(0xD0, 0xD8))
_RESTART = re.compile(rb"\xff([\xd0-\xd7])")
_MARKER = re.compile(rb"\xff[\x01-\xfe]")
"""A marker. Further bytes of 0xFF may precede it; a 0xFF that is data is followed by a zero."""
_MARKER_NO_RESTART = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")
_STUFFED_BYTE = re.compile(rb"\xff\0|.", re.DOTALL)
"""One byte of entropy-coded data, in which a zero follows each 0xFF."""

_HUFFMAN_READ_AHEAD = b"\xff\x00" * 8
"""64 one-bits that are fed after a scan, because libjpeg reads up to 57 bits ahead. No Huffman code is all ones, so at
most the last two blocks of 8 x 8 pixels can be decoded from them."""
_ARITHMETIC_READ_AHEAD = bytes(64)
"""Zeros that are fed after a scan, because an arithmetic encoder may omit zeros at its end (T.81, D.1.8)."""


@dataclass(frozen=True, slots=True)
class Component:
    """Horizontal and vertical sampling factors of a colour component."""

    across: int
    down: int


@dataclass(frozen=True, slots=True)
class Scan:
    """One pass over the picture: the position of its entropy-coded data, and the coefficients that they code."""

    start: int
    end: int
    components: tuple[int, ...]
    first: int
    last: int
    high_bit: int
    low_bit: int
    restart_interval: int


@dataclass(slots=True)
class Layout:
    """Contents of the markers of a JPEG file, up to the end of its first picture."""

    width: int = 0
    height: int = 0
    frame: int = 0
    components: dict[int, Component] = field(default_factory=dict)
    restart_interval: int = 0
    scans: list[Scan] = field(default_factory=list)
    end: int | None = None
    """Position of the end marker; None if the file has none."""

    def read_frame(self, marker: int, body: bytes) -> None:
        if marker in _OTHER_FRAMES or body[0] != 8:
            kind = f"has {body[0]} bits per colour" if marker in _FRAMES else "is lossless or hierarchical"
            raise ImageUnsupported(f"the JPEG picture {kind}; save it as a baseline or progressive JPEG with 8 bits")
        self.frame = marker
        self.height, self.width = int.from_bytes(body[1:3], "big"), int.from_bytes(body[3:5], "big")
        for at in range(6, 6 + 3 * body[5], 3):
            self.components[body[at]] = Component(max(1, body[at + 1] >> 4), max(1, body[at + 1] & 15))

    def read_scan(self, body: bytes, start: int, end: int) -> None:
        count = body[0]
        first, last, bits = body[1 + 2 * count : 4 + 2 * count]
        ids = tuple(body[1 : 1 + 2 * count : 2])
        if not set(ids) <= self.components.keys():
            raise damaged("JPEG", "a scan refers to a colour that is not in the header")
        self.scans.append(Scan(start, end, ids, first, last, bits >> 4, bits & 15, self.restart_interval))

    def units(self, scan: Scan) -> int:
        """Return the number of coded units (MCUs) of a scan, in which restart intervals are counted (T.81, A.2)."""
        widest = max(part.across for part in self.components.values())
        tallest = max(part.down for part in self.components.values())
        across, down = 1, 1
        if len(scan.components) == 1:
            part = self.components[scan.components[0]]
            across, down = part.across, part.down
            return math.ceil(math.ceil(self.width * across / widest) / 8) * math.ceil(
                math.ceil(self.height * down / tallest) / 8
            )
        return math.ceil(self.width / (8 * widest)) * math.ceil(self.height / (8 * tallest))

    def needed_scans(self) -> list[Scan] | None:
        """Return the scans up to the one that completes the picture. Later scans add nothing.

        A picture is complete if every colour is coded and, in a progressive picture, each coefficient to its last bit.
        Returns None if the scans never complete it, or if one refines bits that are not coded yet (T.81, G.1.1.1).
        """
        progressive = self.frame in _PROGRESSIVE
        bits = dict.fromkeys(itertools.product(self.components, range(_COEFFICIENTS)), _NO_BIT)
        for number, scan in enumerate(self.scans, 1):
            coded = range(scan.first, scan.last + 1) if progressive else range(_COEFFICIENTS)
            for each in itertools.product(scan.components, coded):
                if progressive and scan.high_bit and bits.get(each) != scan.high_bit:
                    return None
                bits[each] = scan.low_bit if progressive else 0
            if not any(bits.values()):
                return self.scans[:number]
        return None


def open_file(data: bytes, check_size: CheckSize) -> Opened:
    """Read the markers of a JPEG file."""
    layout = read_layout(data)
    if not layout.components:
        raise damaged("JPEG", "the file ends in its header")
    check_size(layout.width, layout.height)
    image = JpegImageFile(BytesIO(data))
    return Opened(
        image,
        partial(_load, image, data, layout),
        profile=image.info.get("icc_profile"),
        exif=image.info.get("exif"),
        scans=max(1, len(layout.scans)),
    )


def read_layout(data: bytes) -> Layout:
    """Read the markers of the first picture in a JPEG file.

    Raises:
        ImageUnreadable: a segment is incomplete, or a scan refers to a colour that is not in the header.
        ImageUnsupported: libjpeg and browsers do not decode this kind of JPEG.
    """
    layout, at = Layout(), 2
    while (at := _next_marker(data, at)) < len(data):
        marker, at = data[at + 1], at + 2
        if marker == _EOI:
            layout.end = at - 2
            break
        if marker in _BARE:
            continue
        length = int.from_bytes(data[at : at + 2], "big")
        body, at = data[at + 2 : at + length], at + length
        if at > len(data):
            raise damaged("JPEG", "the file ends in its header")
        if marker in _FRAMES | _OTHER_FRAMES and not layout.components:
            layout.read_frame(marker, body)
        elif marker == _DRI:
            layout.restart_interval = int.from_bytes(body[:2], "big")
        elif marker == _SOS:
            start, at = at, _end_of_scan(data, at, restarts=layout.restart_interval > 0)
            layout.read_scan(body, start, at)
    return layout


def _next_marker(data: bytes, at: int) -> int:
    """Return the position of the last 0xFF of the next marker, or the length of `data` if there is none."""
    found = _MARKER.search(data, at)
    return found.start() if found else len(data)


def _end_of_scan(data: bytes, at: int, *, restarts: bool) -> int:
    """Return the end of the entropy-coded data: a marker other than an expected restart, or the end of the file."""
    found = (_MARKER_NO_RESTART if restarts else _MARKER).search(data, at)
    at = found.start() if found else len(data)
    # A restart marker without data after it does not belong to the scan, and must not be counted as data.
    return at - 2 if restarts and data[at - 2] == 0xFF and 0xD0 <= data[at - 1] <= 0xD7 else at


def _load(image: JpegImageFile, data: bytes, layout: Layout) -> Image.Image:
    """Decode all pixels.

    Raises:
        ImageUnreadable: a scan or a part of one is missing.
    """
    scans = layout.needed_scans()
    if not scans:
        raise damaged("JPEG", "its last scans are missing")
    decoder = _Decoder(image)
    arithmetic, last = layout.frame in _ARITHMETIC, scans[-1]
    at = 0
    for scan in scans:
        _check_restarts(data, scan, layout)
        # This check does not work for arithmetic coding, whose decoder cannot wait for more data within a scan, or with
        # restart markers, which the decoder would skip.
        if not arithmetic and not scan.restart_interval and scan.end - scan.start >= 2 * SPARE_BYTES:
            # Padding after the last scan is harmless. Between scans, it is a sign of a gap in the file.
            if scan is not last:
                at = _feed_most(decoder, data, at, scan.end, MISSING)
            elif ends_in_filler(data, scan.start, scan.end):
                at = _feed_most(decoder, data, at, scan.end, FILLER)
        decoder.feed(data[at : scan.end] + (_ARITHMETIC_READ_AHEAD if arithmetic else _HUFFMAN_READ_AHEAD))
        at = scan.end
        if not decoder.skips(b"\0", b"\0"):
            raise damaged("JPEG", MISSING)
    decoder.feed(b"\xff\xd9")
    if not decoder.finished:
        raise damaged("JPEG", MISSING)
    image.tile = []
    return image


def _feed_most(decoder: _Decoder, data: bytes, at: int, end: int, why: str) -> int:
    """Feed `data` from `at` almost to the `end` of a scan, and refuse a scan that is already complete there.

    The last bytes of such a scan are filler. The bytes of a flat area also repeat, but the decoder needs them. Returns
    the position up to which data were fed.
    """
    tail = end - SPARE_BYTES + (data[end - SPARE_BYTES - 1] == 0xFF)
    one, two = _STUFFED_BYTE.findall(data, tail, tail + 4)[:2]
    decoder.feed(data[at:tail])
    if decoder.skips(one, two):
        raise damaged("JPEG", why)
    return tail + len(one) + len(two)


def _check_restarts(data: bytes, scan: Scan, layout: Layout) -> None:
    """Refuse a scan whose restart markers are incomplete or out of order.

    Feeding the decoder does not reveal this, because libjpeg skips bytes to find a missing marker, as it does after a
    complete scan.
    """
    if scan.restart_interval:
        wanted = max(0, math.ceil(layout.units(scan) / scan.restart_interval) - 1)
        found = b"".join(_RESTART.findall(data, scan.start, scan.end))
        if found != (_RESTARTS * (wanted // 8 + 1))[:wanted]:
            raise damaged("JPEG", MISSING)


class _Decoder:
    """Feeds Pillow's JPEG decoder piece by piece.

    `Image._getdecoder` is private. Pillow's public `ImageFile.Parser` uses it too, but refuses formats whose plugin
    reads the file itself, such as JPEG.
    """

    def __init__(self, image: Any) -> None:
        image.load_prepare()
        ((_, box, _, arguments),) = image.tile
        self._decoder = Image._getdecoder(image.mode, "jpeg", arguments, image.decoderconfig)
        self._decoder.setimage(image.im, box)
        self._unread = b""
        self.finished = False

    def feed(self, data: bytes) -> None:
        """
        Raises:
            OSError: libjpeg cannot decode the data.
        """
        if self.finished:
            return
        self._unread += data
        read, error = self._decoder.decode(self._unread)
        if error < 0:
            raise OSError("broken data stream")
        self.finished = read < 0
        self._unread = b"" if self.finished else self._unread[read:]

    def skips(self, *units: bytes) -> bool:
        """Feed single bytes. Returns whether the decoder searches for the next marker, instead of needing more data.

        A decoder that searches for a marker consumes every byte at once. In the middle of a scan, one byte is not
        enough, because libjpeg reads seven bytes at a time. The first byte may complete such a group, but then the
        second does not.

        Args:
            units: two bytes of data; 0xFF includes the zero that follows it.
        """
        skipped = True
        for unit in units:
            self.feed(unit)
            skipped = skipped and not self._unread
        return skipped
