"""Incomplete files are refused, whatever their last bytes are. Whole files of every kind: accepted."""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from screening.errors import ImageUnreadable
from screening.image_files import jpeg
from screening.images import decode, inspect
from tests.squares import load_square

END = b"\xff\xd9"
NEARLY = 128
"""Bytes at the end of a JPEG's data that may be missing unnoticed: parts of the last two blocks of 8 x 8 pixels."""


def photo(width: int = 200, height: int = 150) -> Image.Image:
    rng = np.random.default_rng(1)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)).astype(float)
    return Image.fromarray((smooth + rng.normal(0, 12, smooth.shape)).clip(0, 255).astype(np.uint8))


def on_white() -> Image.Image:
    """A product on a white ground: a long flat part at the end."""
    image = Image.new("RGB", (400, 400), "white")
    image.paste(photo(120, 90), (140, 60))
    return image


def encoded(image: Image.Image, format: str = "JPEG", **options: object) -> bytes:
    buffer = BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def assert_refused(data: bytes) -> None:
    with pytest.raises(ImageUnreadable, match="truncated or damaged"):
        decode(inspect(data), shrink_to=32)


KINDS = [
    {}, {"progressive": True}, {"optimize": True}, {"quality": 95, "subsampling": 0}, {"subsampling": 1},
    {"restart_marker_rows": 1}, {"restart_marker_blocks": 3}, {"progressive": True, "restart_marker_rows": 2},
]  # fmt: skip
MODES = ["RGB", "L", "CMYK"]


@pytest.fixture(params=KINDS, ids=str)
def kind(request: pytest.FixtureRequest) -> dict[str, object]:
    return request.param


@pytest.fixture(params=MODES)
def whole(request: pytest.FixtureRequest, kind: dict[str, object]) -> bytes:
    """A whole JPEG."""
    data = encoded(photo().convert(request.param), **kind)
    decode(inspect(data))
    return data


def cuts(data: bytes) -> Iterator[int]:
    """Places in the pixel data, from the first scan to near the end."""
    layout = jpeg.read_layout(data)
    first, last = layout.scans[0].start, layout.scans[-1].end - NEARLY
    yield from range(first, last, max(1, (last - first) // 12))
    yield last


def test_a_jpeg_cut_anywhere_and_closed_with_an_end_marker_is_refused(whole) -> None:
    for at in cuts(whole):
        assert_refused(whole[:at] + END)
        assert_refused(whole[:at] + END + b"trailing bytes" * 50)
        assert_refused(whole[:at] + b"\xff\xd3" + END)


def test_a_jpeg_cut_anywhere_is_refused(whole) -> None:
    for at in cuts(whole):
        assert_refused(whole[:at])


@pytest.mark.parametrize("filler", [b"\0", b"\x55", b"\xaa", b"FILLER", b"\x01\x02\x03", b"\xff\x00", bytes(range(48))])
def test_a_jpeg_whose_second_half_is_filler_is_refused(kind, filler) -> None:
    data = encoded(photo(), **kind)
    for part in (2, 3):
        half = len(data) // part
        rest = (filler * len(data))[: len(data) - half]
        assert_refused(data[:half] + rest + END)
        assert_refused(data[:half] + rest)


def test_a_jpeg_cut_at_any_restart_marker_is_refused() -> None:
    for options in ({"restart_marker_rows": 1}, {"restart_marker_blocks": 5}):
        data = encoded(photo(), **options)
        scan = jpeg.read_layout(data).scans[0]
        markers = [scan.start + m.start() for m in re.finditer(rb"\xff[\xd0-\xd7]", data[scan.start : scan.end])]
        assert len(markers) > 5
        for at in markers:
            assert_refused(data[:at] + END)
            assert_refused(data[: at + 2] + END)
        assert_refused(data[: markers[1]] + data[markers[3] :])


@pytest.mark.parametrize("mode", MODES)
def test_a_progressive_jpeg_without_its_last_scans_is_refused(mode) -> None:
    data = encoded(photo().convert(mode), progressive=True)
    scans = jpeg.read_layout(data).scans
    for scan in scans[:-1]:
        assert_refused(data[: scan.end] + END)


def test_a_progressive_jpeg_with_a_hole_in_any_scan_is_refused() -> None:
    data = encoded(photo(), progressive=True)
    for scan in jpeg.read_layout(data).scans:
        if scan.end - scan.start > 200:
            middle = (scan.start + scan.end) // 2
            assert_refused(data[:middle] + data[scan.end :])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("options", [{}, {"restart_marker_rows": 1}])
def test_a_progressive_jpeg_without_any_one_of_its_scans_or_a_part_of_it_is_refused(mode, options) -> None:
    data = encoded(photo().convert(mode), progressive=True, **options)
    scans = jpeg.read_layout(data).scans
    for number, scan in enumerate(scans):
        header = data.rindex(b"\xff\xda", 0, scan.start)
        assert_refused(data[:header] + data[scan.end :])
        if scan is not scans[-1]:
            following = scans[number + 1]
            if min(scan.end - scan.start, following.end - following.start) > 200:
                # A hole from the middle of one scan to the middle of the next, and one inside.
                assert_refused(data[: (scan.start + scan.end) // 2] + data[(following.start + following.end) // 2 :])
                assert_refused(data[: scan.start + 60] + data[scan.end - 60 :])


def test_bytes_that_a_scan_does_not_need_are_a_hole_unless_they_are_at_the_end() -> None:
    data = encoded(photo(), progressive=True)
    *earlier, last = jpeg.read_layout(data).scans
    for scan in earlier:
        assert_refused(data[: scan.end] + data[last.start : last.start + 100] + data[scan.end :])
    decode(inspect(data[: last.end] + bytes(100) + END))


def test_restart_markers_out_of_order_are_a_hole() -> None:
    data = encoded(photo(), restart_marker_rows=1)
    markers = [at.start() for at in re.finditer(rb"\xff[\xd0-\xd7]", data)]
    assert_refused(
        data[: markers[1]] + data[markers[2] : markers[3]] + data[markers[1] : markers[2]] + data[markers[3] :]
    )
    assert_refused(data[: markers[3]] + data[markers[1] :])


@pytest.mark.parametrize(
    "image", [photo(), on_white(), Image.new("RGB", (300, 300), "white"), Image.new("L", (64, 64))]
)
@pytest.mark.parametrize("quality", [5, 75, 100])
def test_complete_jpegs_of_every_kind_are_accepted(kind, image, quality) -> None:
    data = encoded(image, **{"quality": quality, **kind})
    for trailing in (b"", b"\0" * 4096, b"\xff\xd8\xff\xe0 a preview behind the picture", b"\n"):
        assert decode(inspect(data + trailing)).size == image.size
    assert load_square(data, 32).size == (32, 32)


@pytest.mark.parametrize("size", [(1, 1), (7, 9), (8, 8), (15, 17), (16, 16), (33, 1), (1, 33)])
def test_complete_jpegs_of_every_size_are_accepted(kind, size) -> None:
    for quality in (1, 50, 100):
        try:
            data = encoded(photo(*size), **{"quality": quality, **kind})
        except OSError:  # Pillow's encoder has too little room for restart markers in the smallest pictures
            continue
        assert decode(inspect(data)).size == size


@pytest.mark.parametrize("padding", [b"\0", b"\0\0\0", b"\xff", b"\xff\xff\xff\xff", bytes(40)])
def test_padding_between_data_and_end_marker_is_accepted(padding) -> None:
    data = encoded(photo())
    assert decode(inspect(data[:-2] + padding + END)).tobytes() == decode(inspect(data)).tobytes()


def test_scans_after_the_picture_is_complete_are_accepted() -> None:
    data = encoded(photo(), progressive=True)
    last = data[data.rindex(b"\xff\xda") : -2]
    assert decode(inspect(data[:-2] + 3 * last + END)).tobytes() == decode(inspect(data)).tobytes()


def riff(data: bytes, change: dict[bytes, bytes]) -> bytes:
    """A WebP with other bodies of some chunks, all sizes right."""
    at, body = 12, b"WEBP"
    while at + 8 <= len(data):
        kind, length = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8], "little")
        new = change.get(kind, data[at + 8 : at + 8 + length])
        body += kind + struct.pack("<I", len(new)) + new + b"\0" * (len(new) % 2)
        at += 8 + length + length % 2
    return b"RIFF" + struct.pack("<I", len(body)) + body


def webp_body(data: bytes, kind: bytes) -> bytes:
    at = data.index(kind, 12)
    return data[at + 8 : at + 8 + int.from_bytes(data[at + 4 : at + 8], "little")]


def with_alpha(image: Image.Image) -> Image.Image:
    clear = image.convert("RGBA")
    clear.putalpha(image.convert("L"))
    return clear


@pytest.mark.parametrize(
    ("kind", "image", "options"),
    [
        (b"VP8 ", photo(), {}),
        (b"VP8L", photo(), {"lossless": True}),
        (b"VP8 ", with_alpha(photo()), {}),
        (b"ALPH", with_alpha(photo()), {}),
        (b"VP8L", with_alpha(photo()), {"lossless": True}),
    ],
)
def test_a_webp_with_shortened_or_filled_data_is_refused(kind, image, options) -> None:
    data = encoded(image, "WEBP", **options)
    body = webp_body(data, kind)
    decode(inspect(riff(data, {})))
    for part in (0.1, 0.5, 0.9, 0.97):
        kept = int(len(body) * part)
        assert_refused(riff(data, {kind: body[:kept]}))
        assert_refused(data[: data.index(body) + kept])
        if len(body) - kept > 600:
            for filler in (b"\0", b"\xaa", b"FILLER"):
                assert_refused(riff(data, {kind: body[:kept] + (filler * len(body))[: len(body) - kept]}))


@pytest.mark.slow
@pytest.mark.parametrize("side", [64, 700, 2000])
@pytest.mark.parametrize("colour", ["white", "black", (12, 200, 99)])
def test_flat_pictures_are_accepted(side, colour) -> None:
    image = Image.new("RGB", (side, side), colour)
    for format, options in (("WEBP", {}), ("WEBP", {"lossless": True}), ("AVIF", {"speed": 10}), ("PNG", {})):
        decode(inspect(encoded(image, format, **options)))
    for options in KINDS:
        decode(inspect(encoded(image, **options)))
        decode(inspect(encoded(image.convert("L"), **options)))


def avif_item(data: bytes, length: int) -> bytes:
    """An AVIF whose only coded item has another length, and whose `mdat` ends after it."""
    box = data.index(b"mdat") - 4
    old = int.from_bytes(data[box : box + 4], "big") - 8
    table = data.index(b"iloc")
    place = data.index(struct.pack(">I", old), table)
    changed = data[:place] + struct.pack(">I", length) + data[place + 4 :]
    return changed[:box] + struct.pack(">I", 8 + length) + changed[box + 4 : box + 8 + length]


def test_an_avif_with_a_shortened_or_filled_item_is_refused() -> None:
    data = encoded(photo(), "AVIF")
    box = data.index(b"mdat")
    length = len(data) - box - 4
    decode(inspect(avif_item(data, length)))
    for part in (0.05, 0.5, 0.9, 0.99):
        kept = int(length * part)
        assert_refused(avif_item(data, kept))
        assert_refused(data[: box + 4 + kept])
        if length - kept > 300:
            assert_refused(data[: box + 4 + kept] + bytes(length - kept))


@pytest.mark.slow
def test_an_avif_may_have_padding_after_its_coded_data_and_texts_that_repeat() -> None:
    for image in (photo(), with_alpha(photo())):
        data = encoded(image, "AVIF")
        box = data.index(b"mdat") - 4
        size = int.from_bytes(data[box : box + 4], "big")
        assert box + size == len(data)
        padded = data[:box] + struct.pack(">I", size + 1000) + data[box + 4 :] + bytes(1000)
        decode(inspect(padded))
        decode(inspect(data + struct.pack(">I4s", 1008, b"free") + bytes(1000)))
        decode(inspect(encoded(image, "AVIF", xmp=b" " * 3000)))


@pytest.mark.parametrize("image", [photo(), with_alpha(photo()), Image.new("RGB", (64, 64))])
def test_an_avif_cut_anywhere_is_called_a_truncated_avif(image) -> None:
    data = encoded(image, "AVIF")
    for at in [8, 12, 16, 24, *range(32, len(data) - 1, max(1, len(data) // 150))]:
        with pytest.raises(ImageUnreadable, match="AVIF picture is truncated"):
            decode(inspect(data[:at]))


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "AVIF"])
def test_the_beginning_of_a_file_is_called_truncated_and_names_its_format(format) -> None:
    data = encoded(photo(), format)
    for at in (16, 20, 30, 60, len(data) // 3):
        with pytest.raises(ImageUnreadable, match=f"(?i){format} picture is truncated"):
            decode(inspect(data[:at]))


def png_chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    at, found = 8, []
    while at < len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        found.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + length]))
        at += 12 + length
    return found


def png(chunks: list[tuple[bytes, bytes]]) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )


@pytest.mark.parametrize("level", [0, 6])
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P", "1", "I;16"])
def test_a_png_with_missing_data_is_refused(mode, level) -> None:
    image = Image.fromarray(np.arange(30_000, dtype=np.uint16).reshape(150, 200)) if mode == "I;16" else photo()
    chunks = png_chunks(encoded(image if mode == "I;16" else image.convert(mode), "PNG", compress_level=level))
    stream = b"".join(body for kind, body in chunks if kind == b"IDAT")
    head = [chunk for chunk in chunks if chunk[0] not in (b"IDAT", b"IEND")]
    parts = [(b"IDAT", stream[at : at + len(stream) // 7]) for at in range(0, len(stream), len(stream) // 7)]
    end = [(b"IEND", b"")]
    decode(inspect(png(head + parts + end)))
    rows = zlib.decompress(stream)
    assert_refused(png(head + end))
    for number in range(len(parts) - 2):
        assert_refused(png(head + parts[:number] + parts[number + 1 :] + end))
        assert_refused(png(head + parts[: number + 1] + end))
        assert_refused(png(head + parts[: number + 1]))
        some = rows[: len(rows) * (number + 1) // 8]
        assert_refused(png([*head, (b"IDAT", zlib.compress(some)), *end]))
    whole = png(head + parts + end)
    for part in (3, 2):
        assert_refused(whole[: len(whole) // part])
        assert_refused(whole[: len(whole) // part] + bytes(len(whole) - len(whole) // part))


@pytest.mark.parametrize("trailing", [b"junk behind the end" * 20, bytes(4096)])
@pytest.mark.parametrize("format", ["PNG", "WEBP", "AVIF"])
def test_bytes_after_a_complete_picture_are_accepted(format, trailing) -> None:
    data = encoded(photo(), format)
    assert decode(inspect(data + trailing)).tobytes() == decode(inspect(data)).tobytes()
