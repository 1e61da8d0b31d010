"""Bytes that mean harm, or came to harm: an upright RGB picture of the right size or an `ImageError`, nothing else."""

from __future__ import annotations

import random
import struct
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
    with pytest.raises(ImageUnreadable, match="scans"):
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
