"""PNG's transparent colour (tRNS) and ancillary chunks: hand-written files against pixels computed with NumPy."""

from __future__ import annotations

import random
import struct
import zlib

import numpy as np
import pytest

from screening.errors import ImageUnreadable
from screening.images import decode, inspect

GREY, RGB, PALETTE = 0, 2, 3
SIDE = 16


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def packed(rows: np.ndarray, depth: int) -> bytes:
    """Samples of a picture as PNG has them; each row begins with filter 0."""
    out = b""
    for row in rows:
        if depth == 16:
            out += b"\0" + row.astype(">u2").tobytes()
        else:
            bits = np.unpackbits(row.astype(np.uint8).reshape(-1, 1), axis=1)[:, 8 - depth :]
            out += b"\0" + np.packbits(bits.reshape(-1)).tobytes()
    return out


ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))


def png(
    samples: np.ndarray, depth: int, colour: int, *chunks: bytes, interlaced: bool = False, rows: int = 99
) -> bytes:
    """A PNG of samples (height, width × channels); of the passes' rows, only the first `rows` are written."""
    channels = 3 if colour == RGB else 1
    height, width = samples.shape[0], samples.shape[1] // channels
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, int(interlaced))
    pixels = samples.reshape(height, width, channels)
    passes = ADAM7 if interlaced else ((0, 0, 1, 1),)
    parts = [pixels[top::down, left::across] for left, top, across, down in passes]
    data = b"".join(packed(part.reshape(len(part), -1)[:rows], depth) for part in parts if part.size)
    middle = b"".join(chunks) + chunk(b"IDAT", zlib.compress(data))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + middle + chunk(b"IEND", b"")


def samples(depth: int, channels: int, key: list[int]) -> np.ndarray:
    """Random samples, a third of the pixels in the key's colour, and some that differ from it in one bit only."""
    rng = np.random.default_rng(depth * 10 + channels)
    pixels = rng.integers(0, 1 << depth, (SIDE, SIDE, channels))
    pixels[rng.random((SIDE, SIDE)) < 0.33] = key
    pixels[0, :8] = np.array(key) ^ np.array([1] + [0] * (channels - 1))
    pixels[1, :8] = np.array(key) ^ np.array([0] * (channels - 1) + [1 << (depth - 1)])
    return pixels


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize(
    ("depth", "colour"), [(1, GREY), (2, GREY), (4, GREY), (8, GREY), (16, GREY), (8, RGB), (16, RGB)]
)
def test_the_transparent_colour_becomes_white_at_every_depth(depth, colour, interlaced) -> None:
    channels = 3 if colour == RGB else 1
    for seed in range(4):
        rng = random.Random(seed)
        key = [rng.choice((0, (1 << depth) - 1, rng.randrange(1 << depth))) for _ in range(channels)]
        pixels = samples(depth, channels, key)
        transparency = chunk(b"tRNS", struct.pack(f">{channels}H", *key))
        data = png(pixels.reshape(SIDE, -1), depth, colour, transparency, interlaced=interlaced)
        shown = np.asarray(decode(inspect(data))).astype(int)
        wanted = np.broadcast_to(pixels * 255 / ((1 << depth) - 1), (SIDE, SIDE, 3)).copy()
        wanted[(pixels == key).all(axis=2)] = 255
        assert np.abs(shown - wanted).max() <= 1


def test_bits_of_the_transparent_colour_beyond_the_depth_do_not_count() -> None:
    pixels = np.array([[0, 1, 2, 3]] * 4)
    data = png(pixels, 2, GREY, chunk(b"tRNS", struct.pack(">H", 0xFF00 | 2)))
    assert np.asarray(decode(inspect(data)))[0, :, 0].tolist() == [0, 85, 255, 255]


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_a_transparent_palette_gets_a_white_background(depth) -> None:
    rng = np.random.default_rng(depth)
    count = 1 << depth
    palette, alpha = rng.integers(0, 256, (count, 3)), rng.integers(0, 256, max(1, count // 2))
    pixels = rng.integers(0, count, (SIDE, SIDE))
    chunks = (chunk(b"PLTE", palette.astype(np.uint8).tobytes()), chunk(b"tRNS", alpha.astype(np.uint8).tobytes()))
    shown = np.asarray(decode(inspect(png(pixels, depth, PALETTE, *chunks)))).astype(float)
    opacity = np.concatenate([alpha, np.full(count - len(alpha), 255)])[pixels][..., None] / 255
    assert np.abs(shown - (palette[pixels] * opacity + 255 * (1 - opacity))).max() <= 1


@pytest.mark.parametrize("body", [b"", b"\0"])
def test_a_transparent_colour_that_is_cut_off_counts_as_none(body) -> None:
    pixels = np.full((SIDE, SIDE), 7)
    shown = decode(inspect(png(pixels, 8, GREY, chunk(b"tRNS", body))))
    assert shown.getpixel((0, 0)) == (7, 7, 7)


@pytest.mark.parametrize(
    "ancillary",
    [
        chunk(b"iCCP", b"large\0\0" + zlib.compress(bytes(1_300_000))),
        chunk(b"iCCP", b"large\0\0" + zlib.compress(bytes(80_000_000), 9)),
        chunk(b"iCCP", b"odd\0\x09not zlib"),
        chunk(b"iCCP", b"no separator"),
        chunk(b"iCCP", b""),
        chunk(b"zTXt", b"workflow\0\0" + zlib.compress(b'{"node": 1}' * 400_000)),
        chunk(b"zTXt", b"workflow\0\x09unknown method"),
        chunk(b"iTXt", b"workflow\0\1\0\0\0" + zlib.compress(b"x" * 4_000_000)),
        chunk(b"tEXt", b"key\0" + b"x" * 3_000_000),
        chunk(b"tEXt", b"no separator"),
        chunk(b"gAMA", b"\0"),
        chunk(b"cHRM", b"short"),
        chunk(b"sRGB", b""),
        chunk(b"pHYs", b"\0"),
        chunk(b"cICP", b"\1"),
        chunk(b"acTL", b"\0"),
        chunk(b"eXIf", b""),
        chunk(b"pRVt", bytes(100_000)),
        struct.pack(">I", 4) + b"tEXtabcd" + b"\0\0\0\0",
        100 * chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(900_000))),
    ],
)
def test_odd_ancillary_chunks_do_not_make_pixels_unreadable(ancillary) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (SIDE, 3 * SIDE))
    shown = np.asarray(decode(inspect(png(pixels, 8, RGB, ancillary))))
    assert (shown.reshape(SIDE, -1) == pixels).all()


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize(("depth", "colour"), [(1, GREY), (4, GREY), (16, GREY), (8, RGB), (16, RGB)])
@pytest.mark.parametrize("rows", [0, 1, 7])
def test_a_picture_with_fewer_rows_than_its_header_says_is_refused(depth, colour, interlaced, rows) -> None:
    channels = 3 if colour == RGB else 1
    pixels = np.random.default_rng(0).integers(1, 1 << depth, (SIDE, channels * SIDE))
    decode(inspect(png(pixels, depth, colour, interlaced=interlaced)))
    with pytest.raises(ImageUnreadable):
        decode(inspect(png(pixels, depth, colour, interlaced=interlaced, rows=rows)))


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize(("depth", "colour"), [(1, GREY), (8, GREY), (16, GREY), (8, RGB)])
def test_a_black_picture_is_accepted(depth, colour, interlaced) -> None:
    channels = 3 if colour == RGB else 1
    for side in (1, 2, 3, 5, 9, SIDE):
        pixels = np.zeros((side, channels * side), dtype=int)
        assert decode(inspect(png(pixels, depth, colour, interlaced=interlaced))).getextrema() == ((0, 0),) * 3
