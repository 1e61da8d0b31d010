"""Bytes that mean harm, or came to harm: an upright RGB picture of the right size or an `ImageError`, nothing else."""

from __future__ import annotations

import random
import struct
import subprocess
import sys
import zlib
from io import BytesIO

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageFilter

from screening.errors import ImageError, ImageTooLarge, ImageUnreadable, ImageUnsupported
from screening.images import ImageLimits, inspect
from tests.squares import load_square

SIZE = 64


def sample(format: str) -> bytes:
    """A picture with EXIF and with detail everywhere, so that damage at any place hits data."""
    noise = Image.effect_noise((90, 70), 60).filter(ImageFilter.GaussianBlur(2))
    image = Image.merge("RGB", (noise, noise.rotate(90), noise.rotate(180)))
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010E] = "a picture for tests"
    buffer = BytesIO()
    image.save(buffer, format, exif=exif)
    return buffer.getvalue()


SAMPLES = {format: sample(format) for format in ("JPEG", "PNG", "WEBP", "AVIF")}


def outcome(data: bytes) -> str:
    """`picture`, or the code of the error. Any other exception fails the test that calls this."""
    try:
        image = load_square(data, SIZE)
    except ImageError as error:
        assert str(error)
        return error.code
    assert (image.mode, image.size) == ("RGB", (SIZE, SIZE))
    return "picture"


@pytest.mark.parametrize("format", SAMPLES)
def test_the_unharmed_sample_is_a_picture(format):
    assert outcome(SAMPLES[format]) == "picture"


@pytest.mark.parametrize("format", SAMPLES)
def test_a_truncated_file_is_refused_unless_all_its_pixels_are_there(format):
    data = SAMPLES[format]
    lengths = sorted({*range(64), *range(64, len(data), 37), *range(len(data) - 40, len(data))})
    outcomes = {length: outcome(data[:length]) for length in lengths}
    whole = [length for length, result in outcomes.items() if result == "picture"]
    # What follows the last pixel (checksums, end markers) may be missing; nothing before it may.
    assert all(length >= len(data) - 24 for length in whole)


@pytest.mark.parametrize("format", SAMPLES)
def test_flipped_bits_never_raise_anything_else(format):
    rng = random.Random(f"flips in {format}")
    outcomes = set()
    for _ in range(250):
        data = bytearray(SAMPLES[format])
        # Half of the flips hit the first 200 bytes, where the headers are.
        reach = 200 if rng.random() < 0.5 else len(data)
        for _ in range(rng.choice((1, 1, 2, 8, 64))):
            data[rng.randrange(reach)] ^= 1 << rng.randrange(8)
        outcomes.add(outcome(bytes(data)))
    assert "image-unreadable" in outcomes


@pytest.mark.parametrize("format", SAMPLES)
def test_rearranged_bytes_never_raise_anything_else(format):
    rng = random.Random(f"cuts in {format}")
    for _ in range(60):
        data = SAMPLES[format]
        a, b = sorted(rng.randrange(len(data)) for _ in range(2))
        for mutant in (data[:a] + data[b:], data[:b] + data[a:], data[:a] + rng.randbytes(b - a) + data[b:]):
            outcome(mutant)


@given(st.sampled_from([data[:12] for data in SAMPLES.values()]), st.binary(max_size=300))
def test_a_true_signature_before_anything_never_raises_anything_else(signature, rest):
    assert outcome(signature + rest) != "picture"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0",
        b"\0" * 5000,
        b"hello, world" * 50,
        b'{"original": "..."}',
        b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>",
        b"%PDF-1.7\n",
        b"GIF89a" + b"\0" * 100,
        b"BM" + b"\0" * 100,
        b"II*\0" + b"\0" * 100,
        b"\x89PNG\r\n\x1a\n",
        b"\xff\xd8\xff",
        b"\xff\xd8\xff\xd9",
        b"RIFF\0\0\0\0WEBP",
        b"RIFF\xff\xff\xff\xffWEBPVP8 ",
        b"\0\0\0\x1cftypavif\0\0\0\0avifmif1miaf",
    ],
)
def test_bytes_that_are_not_a_picture_are_refused(data):
    with pytest.raises((ImageUnsupported, ImageUnreadable)):
        load_square(data, SIZE)


def test_nothing_at_all_is_called_empty():
    with pytest.raises(ImageUnreadable, match="empty"):
        inspect(b"")


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, *more: bytes, pixels: bytes = b"\0") -> bytes:
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    data = png_chunk(b"IDAT", zlib.compress(pixels))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(more) + data + png_chunk(b"IEND", b"")


def riff(*chunks: tuple[bytes, bytes]) -> bytes:
    body = b"WEBP" + b"".join(
        kind + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2) for kind, data in chunks
    )
    return b"RIFF" + struct.pack("<I", len(body)) + body


def webp_canvas(width: int, height: int, flags: int = 0) -> tuple[bytes, bytes]:
    return b"VP8X", bytes([flags, 0, 0, 0]) + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")


def webp_small_frame() -> tuple[bytes, bytes]:
    buffer = BytesIO()
    Image.new("RGB", (4, 4)).save(buffer, "WEBP", lossless=True)
    return b"VP8L", buffer.getvalue()[20:]


def jpeg_claiming(width: int, height: int) -> bytes:
    """A small JPEG whose frame header (SOF0) states another size."""
    buffer = BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "JPEG")
    data = bytearray(buffer.getvalue())
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = struct.pack(">HH", height, width)
    return bytes(data)


@pytest.mark.parametrize(
    "data",
    [
        png(60_000, 60_000),
        png(2**31 - 1, 2**31 - 1),
        png(5_001, 5_000),
        png(13_000, 13_000),  # where Pillow itself would only warn
        riff(webp_canvas(60_000, 60_000), webp_small_frame()),
        riff((b"VP8L", b"\x2f" + struct.pack("<I", 16_382 | 16_382 << 14) + bytes(20))),
        jpeg_claiming(60_000, 60_000),
        jpeg_claiming(6_000, 6_000),
    ],
    ids=["png", "png-largest", "png-just-over", "png-warned", "webp-canvas", "webp-frame", "jpeg", "jpeg-just-over"],
)
def test_huge_dimensions_in_a_tiny_file_are_refused_from_the_header(data):
    assert len(data) < 2000
    with pytest.raises(ImageTooLarge) as caught:
        inspect(data)
    assert caught.value.unit == "pixels"


@pytest.mark.parametrize("size", [(0, 0), (0, 5), (5, 0)])
def test_a_picture_without_pixels_is_refused(size):
    with pytest.raises((ImageUnreadable, ImageUnsupported)):
        load_square(png(*size), SIZE)


def test_a_header_that_promises_more_pixels_than_follow_is_refused():
    with pytest.raises(ImageUnreadable):
        load_square(png(4_000, 4_000), SIZE)
    assert outcome(png(2, 2, pixels=b"\0" + bytes(6) + b"\0" + bytes(6))) == "picture"


@pytest.mark.slow
@pytest.mark.parametrize("kind", [b"zTXt", b"iTXt", b"iCCP"])
def test_a_text_bomb_in_a_png_is_harmless(kind):
    bomb = zlib.compress(bytes(80_000_000), 9)
    prefix = {b"zTXt": b"k\0\0", b"iTXt": b"k\0\1\0\0\0", b"iCCP": b"k\0\0"}[kind]
    pixels = b"\0" + bytes(6) + b"\0" + bytes(6)
    assert outcome(png(2, 2, png_chunk(kind, prefix + bomb), pixels=pixels)) in ("picture", "image-unreadable")


def test_a_jpeg_of_hundreds_of_scans_is_refused_from_its_bytes():
    buffer = BytesIO()
    Image.open(BytesIO(SAMPLES["JPEG"])).save(buffer, "JPEG", progressive=True)
    data = buffer.getvalue()
    assert outcome(data) == "picture"
    last = data[data.rindex(b"\xff\xda") : -2]
    assert outcome(data[:-2] + 10 * last + b"\xff\xd9") == "picture"
    with pytest.raises(ImageUnreadable, match=r"the limit is 256\. Save it with fewer scans"):
        inspect(data[:-2] + 256 * last + b"\xff\xd9")


@pytest.mark.parametrize(("side", "scans", "refused"), [(5_000, 16, False), (5_000, 17, True), (1_300, 230, False)])
def test_the_scans_of_a_jpeg_are_limited_by_its_pixels(side, scans, refused):
    buffer = BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "JPEG", progressive=True)
    data = bytearray(buffer.getvalue())
    frame, last = data.index(b"\xff\xc2"), data.rindex(b"\xff\xda")
    data[frame + 5 : frame + 9] = struct.pack(">HH", side, side)
    more = (scans - data.count(b"\xff\xda")) * data[last:-2]
    if not refused:
        assert inspect(bytes(data[:-2] + more)).scans == scans
        return
    with pytest.raises(ImageTooLarge, match=f"{scans} scans of 25.0 megapixels") as caught:
        inspect(bytes(data[:-2] + more))
    assert caught.value.unit == "pixels"


def png_of_two_headers(first: int, second: int) -> bytes:
    """A PNG of `first` x `first` pixels, with the header of another square after its pixels."""
    header = struct.pack(">IIBBBBB", second, second, 8, 2, 0, 0, 0)
    data = png(first, first)
    end = data.rindex(b"IEND") - 4
    return data[:end] + png_chunk(b"IHDR", header) + data[end:]


@pytest.mark.parametrize(("first", "second"), [(9_700, 64), (64, 9_700), (64, 64)])
def test_a_png_with_two_headers_is_refused(first, second):
    with pytest.raises(ImageUnreadable, match="two headers"):
        inspect(png_of_two_headers(first, second))


def jpeg_of_two_frames(first: int, second: int) -> bytes:
    """A JPEG with two frame headers before its scan."""
    data = jpeg_claiming(first, first)
    frame = data.index(b"\xff\xc0")
    end = frame + 2 + int.from_bytes(data[frame + 2 : frame + 4], "big")
    other = data[: frame + 5] + struct.pack(">HH", second, second) + data[frame + 9 : end]
    return data[:end] + other[frame:] + data[end:]


@pytest.mark.parametrize(("first", "second"), [(64, 9_700), (9_700, 64), (64, 17_000)])
def test_a_jpeg_with_two_frame_headers_cannot_pass_the_limits_by_the_smaller_one(first, second):
    with pytest.raises(ImageTooLarge):
        inspect(jpeg_of_two_frames(first, second))


def test_a_webp_whose_frame_is_larger_than_its_canvas_is_refused():
    buffer = BytesIO()
    Image.new("RGB", (200, 200)).save(buffer, "WEBP", lossless=True)
    frame = b"VP8L", buffer.getvalue()[20:]
    limits = ImageLimits(max_pixels=10_000)
    with pytest.raises(ImageUnreadable):
        inspect(riff(webp_canvas(64, 64), frame), limits)
    with pytest.raises(ImageTooLarge):
        inspect(riff(webp_canvas(200, 200), frame), limits)


@pytest.mark.parametrize("format", SAMPLES)
def test_the_limits_hold_for_the_size_that_pillow_decodes(format):
    width, height = Image.open(BytesIO(SAMPLES[format])).size
    assert sorted((width, height)) == [70, 90]
    accepted = inspect(SAMPLES[format], ImageLimits(max_pixels=width * height, max_side=90))
    assert (accepted.width, accepted.height) == (width, height)
    for limits in (ImageLimits(max_pixels=width * height - 1), ImageLimits(max_side=89)):
        with pytest.raises(ImageTooLarge):
            inspect(SAMPLES[format], limits)


def box(kind: bytes, *content: bytes) -> bytes:
    body = b"".join(content)
    return struct.pack(">I", 8 + len(body)) + kind + body


def full_box(kind: bytes, *content: bytes, version: int = 0) -> bytes:
    return box(kind, bytes([version, 0, 0, 0]), *content)


def avif_meta(*boxes: bytes) -> bytes:
    return full_box(b"meta", full_box(b"hdlr", bytes(4), b"pict", bytes(13)), *boxes)


def avif_track(*boxes: bytes) -> bytes:
    header = full_box(b"tkhd", bytes(72), struct.pack(">II", 64 << 16, 64 << 16))
    return box(b"moov", box(b"trak", header, *boxes))


def item_locations(items: int, extents: int, *, sizes: int = 0, extent: bytes = b"") -> bytes:
    each = [struct.pack(">HHH", item + 1, 0, extents) + extents * extent for item in range(items)]
    return full_box(b"iloc", struct.pack(">HH", sizes, items), *each)


def item_properties(size: int, copies: int) -> bytes:
    """A property that libavif does not know and copies, and one item that has it many times."""
    owned = struct.pack(">IHB", 1, 1, copies) + copies * b"\x01"
    return box(b"iprp", box(b"ipco", box(b"abcd", bytes(size))), full_box(b"ipma", owned))


def samples_of_a_track(chunks: int, samples: int) -> bytes:
    table = box(
        b"stbl",
        full_box(b"stco", struct.pack(">I", chunks), bytes(4 * chunks)),
        full_box(b"stsc", struct.pack(">IIII", 1, 1, samples, 1)),
        full_box(b"stsz", struct.pack(">II", 1, chunks * samples)),
    )
    return box(b"mdia", box(b"minf", table))


def descriptions_of_samples(each: int, times: int) -> bytes:
    described = full_box(b"stsd", struct.pack(">I", each), *each * [box(b"abcd")])
    return box(b"mdia", box(b"minf", box(b"stbl", *times * [described])))


BRANDS = box(b"ftyp", b"avif", bytes(4), b"avifmif1miaf")
SEQUENCE = box(b"ftyp", b"avis", bytes(4), b"avismsf1")
TILES = [box(b"dimg", struct.pack(">IH", tile, 60_000), bytes(240_000)) for tile in range(1, 4)]

GREEDY = {
    "extents without bytes": (BRANDS + avif_meta(item_locations(200, 65_535)), "more extents"),
    "extents without bytes in a track": (SEQUENCE + avif_track(avif_meta(item_locations(200, 65_535))), "more extents"),
    "more extents than bytes": (BRANDS + avif_meta(item_locations(1, 65_535, sizes=0x4400)), "more extents"),
    "behind empty boxes": (
        BRANDS + avif_meta(*10_000 * [box(b"free")], item_locations(200, 65_535)),
        "more boxes than any picture needs",
    ),
    "items that are not there": (
        BRANDS + avif_meta(full_box(b"iloc", struct.pack(">HI", 0, 2**32 - 1), version=2)),
        "fewer items",
    ),
    "a property copied many times": (BRANDS + avif_meta(item_properties(2**20, 255)), "describe much more"),
    "a property of the boxes before": (
        SEQUENCE + avif_track(avif_meta(item_properties(2**20, 1)), avif_meta(item_properties(0, 255))),
        "two boxes of the kind 'meta'",
    ),
    "items of tiles": (BRANDS + avif_meta(full_box(b"iref", *TILES, version=1)), "describe much more"),
    "items that cover the file": (
        BRANDS
        + avif_meta(item_locations(100, 2, sizes=0x4400, extent=struct.pack(">II", 0, 500_000)))
        + box(b"mdat", bytes(2**20)),
        "describe much more",
    ),
    "samples without bytes": (SEQUENCE + avif_track(samples_of_a_track(25, 100_000)), "describe much more"),
    "descriptions of samples": (SEQUENCE + avif_track(descriptions_of_samples(9_000, 8)), "describe much more"),
}
"""AVIF files for which libavif would allocate much more memory than they have bytes, and the words of their refusal."""

MEASURED = """
import resource, sys
from pathlib import Path
from screening.errors import ImageUnreadable
from screening.images import inspect

def kib(name):
    status = Path("/proc/self/status").read_text()
    return int(status.split(name + ":")[1].split()[0])

data = sys.stdin.buffer.read()
limit = kib("VmSize") * 1024 + 150 * 2**20
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
before = kib("VmHWM")
try:
    inspect(data)
except ImageUnreadable as error:
    print(kib("VmHWM") - before, error)
"""
"""A program that prints how many KiB the refusal of a picture took. It cannot take more than 150 MiB."""


@pytest.mark.parametrize("name", GREEDY)
def test_a_small_avif_does_not_take_much_memory(name):
    data, words = GREEDY[name]
    assert len(data) < 2 * 2**20
    done = subprocess.run([sys.executable, "-c", MEASURED], input=data, capture_output=True, timeout=300)
    assert done.returncode == 0, done.stderr.decode()
    taken, _, said = done.stdout.decode().partition(" ")
    assert words in said
    assert int(taken) < 50 * 1024


def test_an_avif_whose_extents_have_no_position_of_their_own_is_a_picture():
    """Some encoders write the position of an item's data into the item."""
    data = bytearray(SAMPLES["AVIF"])
    table = data.index(b"iloc") + 4
    assert data[table : table + 6] == b"\0\0\0\0\x44\0"
    data[table + 4 : table + 6] = b"\x04\x40"
    for at in range(table + 8, table + 8 + 14 * int.from_bytes(data[table + 6 : table + 8], "big"), 14):
        data[at + 4 : at + 10] = data[at + 6 : at + 10] + data[at + 4 : at + 6]
    assert outcome(bytes(data)) == "picture"
