"""JPEG (ITU-T T.81): its scans, and a decoder that notices missing data.

libjpeg paints what it has no data for in grey and only warns, and Pillow hides the warning. So the decoder is fed here
piece by piece, one piece per scan, and must not want more than the scan holds.
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
"""Frame headers that libjpeg decodes: baseline, extended and progressive, with Huffman and with arithmetic coding."""
_PROGRESSIVE, _ARITHMETIC = frozenset({0xC2, 0xCA}), frozenset({0xC9, 0xCA})
_BARE = frozenset({0x01, *range(0xD0, 0xD9)})
"""Markers without a length: TEM, RST0-7, SOI."""
_OTHER_FRAMES = frozenset({0xC3, *range(0xC5, 0xC8), 0xCB, *range(0xCD, 0xD0)})
"""Lossless and hierarchical JPEG, which browsers do not show either."""
_COEFFICIENTS = 64
_NO_BIT = 14
"""Above every bit of a coefficient: nothing of it is coded."""
_RESTARTS = bytes(range(0xD0, 0xD8))
_RESTART = re.compile(rb"\xff([\xd0-\xd7])")
_MARKER = re.compile(rb"\xff[\x01-\xfe]")
"""Bytes of 0xFF may stand before a marker; a zero follows one that is data."""
_MARKER_NO_RESTART = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")
_STUFFED_BYTE = re.compile(rb"\xff\0|.", re.DOTALL)
"""One byte of entropy-coded data; a zero follows 0xFF there."""

_HUFFMAN_READ_AHEAD = b"\xff\x00" * 8
"""64 one-bits, after a scan. libjpeg reads up to 57 bits ahead, and no Huffman code is all ones: at most the last two
blocks of 8 x 8 pixels can be made of this."""
_ARITHMETIC_READ_AHEAD = bytes(64)
"""The arithmetic encoder may leave out zeros at the end of a scan (T.81, D.1.8)."""


@dataclass(frozen=True, slots=True)
class Component:
    """Horizontal and vertical sampling factors."""

    across: int
    down: int


@dataclass(frozen=True, slots=True)
class Scan:
    """One pass over the picture: where its entropy-coded data are, and what they code."""

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
    """What the markers of a JPEG say, up to the end of its first picture."""

    width: int = 0
    height: int = 0
    frame: int = 0
    components: dict[int, Component] = field(default_factory=dict)
    restart_interval: int = 0
    scans: list[Scan] = field(default_factory=list)
    end: int | None = None
    """Where the end marker stands; None: the file has none."""

    def read_frame(self, marker: int, body: bytes) -> None:
        if marker in _OTHER_FRAMES or body[0] != 8:
            kind = f"has {body[0]} bits per colour" if marker in _FRAMES else "is a lossless or hierarchical one"
            raise ImageUnsupported(f"the JPEG picture {kind}; save it as a baseline or progressive one of 8 bits")
        self.frame = marker
        self.height, self.width = int.from_bytes(body[1:3], "big"), int.from_bytes(body[3:5], "big")
        for at in range(6, 6 + 3 * body[5], 3):
            self.components[body[at]] = Component(max(1, body[at + 1] >> 4), max(1, body[at + 1] & 15))

    def read_scan(self, body: bytes, start: int, end: int) -> None:
        count = body[0]
        first, last, bits = body[1 + 2 * count : 4 + 2 * count]
        ids = tuple(body[1 : 1 + 2 * count : 2])
        if not set(ids) <= self.components.keys():
            raise damaged("JPEG", "a scan names a colour that the header does not")
        self.scans.append(Scan(start, end, ids, first, last, bits >> 4, bits & 15, self.restart_interval))

    def units(self, scan: Scan) -> int:
        """Coded units (MCUs) of a scan; restart intervals are counted in them (T.81, A.2)."""
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
        """The scans up to the one that completes the picture: every colour is coded and, in a progressive picture,
        each coefficient to its last bit. None: they never do, or a refinement has nothing to refine (T.81, G.1.1.1).
        Later ones add nothing."""
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
    """Read a JPEG's markers."""
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
    """Walk the markers of a JPEG's first picture.

    Raises:
        ImageUnreadable: a segment breaks off, or a scan names a colour that the header does not.
        ImageUnsupported: a kind of JPEG that libjpeg and browsers do not decode.
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
    """Where the next marker's last 0xFF stands; the length of `data` where there is none."""
    found = _MARKER.search(data, at)
    return found.start() if found else len(data)


def _end_of_scan(data: bytes, at: int, *, restarts: bool) -> int:
    """Where the entropy-coded data end: at a marker other than an expected restart, or with the file."""
    found = (_MARKER_NO_RESTART if restarts else _MARKER).search(data, at)
    at = found.start() if found else len(data)
    # A restart that nothing follows is no promise of more data, and must not pass for it either.
    return at - 2 if restarts and data[at - 2] == 0xFF and 0xD0 <= data[at - 1] <= 0xD7 else at


def _load(image: JpegImageFile, data: bytes, layout: Layout) -> Image.Image:
    """Decode all pixels.

    Raises:
        ImageUnreadable: a scan, or part of one, is missing.
    """
    scans = layout.needed_scans()
    if not scans:
        raise damaged("JPEG", "its last scans are missing")
    decoder = _Decoder(image)
    arithmetic, last = layout.frame in _ARITHMETIC, scans[-1]
    at = 0
    for scan in scans:
        _check_restarts(data, scan, layout)
        # An arithmetic decoder cannot wait for more data within a scan, and restart markers would be skipped.
        if not arithmetic and not scan.restart_interval and scan.end - scan.start >= 2 * SPARE_BYTES:
            # Padding after the last scan is harmless; between scans it is what a hole in the file leaves.
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
    """Feed `data` from `at` to near the `end` of a scan, and refuse a scan that is complete there already: it does not
    need its last bytes. Those of a flat area repeat like filler, but are needed. Returns how far the data were fed.
    """
    tail = end - SPARE_BYTES + (data[end - SPARE_BYTES - 1] == 0xFF)
    one, two = _STUFFED_BYTE.findall(data, tail, tail + 4)[:2]
    decoder.feed(data[at:tail])
    if decoder.skips(one, two):
        raise damaged("JPEG", why)
    return tail + len(one) + len(two)


def _check_restarts(data: bytes, scan: Scan, layout: Layout) -> None:
    """Refuse a scan whose restart markers are not all there, in their order. Looking for a missing one, libjpeg skips
    bytes as it does after a whole scan, so that feeding it does not tell the two apart."""
    if scan.restart_interval:
        wanted = max(0, math.ceil(layout.units(scan) / scan.restart_interval) - 1)
        found = b"".join(_RESTART.findall(data, scan.start, scan.end))
        if found != (_RESTARTS * (wanted // 8 + 1))[:wanted]:
            raise damaged("JPEG", MISSING)


class _Decoder:
    """Pillow's JPEG decoder, fed by hand. `Image._getdecoder` is private; Pillow's own `ImageFile.Parser` is built on
    it, but refuses formats that read their file themselves, as its JPEG plugin does."""

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
            OSError: libjpeg gives up.
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
        """Feed single bytes, and tell whether the decoder looks for the next marker or wants more data of its scan.

        Looking for a marker, it skips every byte at once. In the middle of a scan one byte is not enough to read on,
        because libjpeg reads bits seven bytes at a time. The first byte may complete what it waited for, but then the
        second does not.

        Args:
            units: two bytes, each 0xFF with the zero that follows it.
        """
        skipped = True
        for unit in units:
            self.feed(unit)
            skipped = skipped and not self._unread
        return skipped
