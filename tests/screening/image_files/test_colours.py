"""Colours: a picture comes out in sRGB as a browser shows it, whatever colour space its file is in."""

from __future__ import annotations

import struct
import zlib
from io import BytesIO

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageDraw

from screening.image_files import colour, colour_profiles
from screening.images import decode, inspect
from tests.squares import load_square

BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
PRIMARIES = {
    "sRGB": ((0.3127, 0.3290), (0.64, 0.33), (0.30, 0.60), (0.15, 0.06)),
    "Display P3": ((0.3127, 0.3290), (0.680, 0.320), (0.265, 0.690), (0.150, 0.060)),
    "Adobe RGB": ((0.3127, 0.3290), (0.64, 0.33), (0.21, 0.71), (0.15, 0.06)),
    "BT.2020": ((0.3127, 0.3290), (0.708, 0.292), (0.170, 0.797), (0.131, 0.046)),
    "ProPhoto": ((0.3457, 0.3585), (0.7347, 0.2653), (0.1596, 0.8404), (0.0366, 0.0001)),
}
PATCHES = [(200, 60, 40), (60, 160, 70), (40, 70, 190), (128, 128, 128), (220, 200, 60), (90, 40, 120), (250, 250, 250)]
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def encoded(image: Image.Image, format: str = "PNG", **options: object) -> bytes:
    buffer = BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def profile(space: str, gamma: float = 0.0) -> bytes:
    """An ICC profile; gamma 0 is sRGB's curve. The converted colours are compared with `expected`, which is computed in
    another way."""
    made = colour_profiles._profile(tuple(v for point in PRIMARIES[space] for v in point), gamma)
    assert made is not None
    return made


def to_xyz(space: str) -> np.ndarray:
    white, *colours = [np.array([x / y, 1, (1 - x - y) / y]) for x, y in PRIMARIES[space]]
    matrix = np.stack(colours, axis=1)
    matrix = matrix * np.linalg.solve(matrix, white)
    d65 = np.array([0.3127 / 0.3290, 1, (1 - 0.3127 - 0.3290) / 0.3290])
    adapt = np.linalg.inv(BRADFORD) @ np.diag((BRADFORD @ d65) / (BRADFORD @ white)) @ BRADFORD
    return adapt @ matrix


def expected(pixels: object, space: str, gamma: float = 0.0) -> np.ndarray:
    """The oracle: linear light, matrices, sRGB's curve, clipped."""
    values = np.asarray(pixels, dtype=float) / 255
    linear = values**gamma if gamma else np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    light = np.clip(linear @ (np.linalg.inv(to_xyz("sRGB")) @ to_xyz(space)).T, 0, 1)
    return 255 * np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)


def patches() -> Image.Image:
    image = Image.new("RGB", (40 * len(PATCHES), 40))
    for number, value in enumerate(PATCHES):
        ImageDraw.Draw(image).rectangle((40 * number, 0, 40 * number + 39, 39), value)
    return image


def shown(data: bytes) -> np.ndarray:
    """The colour in the middle of each patch."""
    pixels = np.asarray(decode(inspect(data))).astype(float)
    return pixels[20, 20::40]


ICC = [("Display P3", 0.0), ("Adobe RGB", 2.2), ("BT.2020", 0.0), ("ProPhoto", 1.8)]
ENCODINGS = [
    ("JPEG", {"quality": 98, "subsampling": 0}), ("JPEG", {"quality": 98, "progressive": True}), ("PNG", {}),
    ("WEBP", {"lossless": True}), ("AVIF", {"quality": 98, "subsampling": "4:4:4"}),
]  # fmt: skip


@pytest.mark.parametrize(("space", "gamma"), ICC)
@pytest.mark.parametrize(("format", "options"), ENCODINGS)
def test_an_embedded_profile_is_converted_to_srgb(format, options, space, gamma) -> None:
    data = encoded(patches(), format, icc_profile=profile(space, gamma), **options)
    assert np.abs(shown(data) - expected(PATCHES, space, gamma)).max() <= 5
    assert np.abs(shown(data) - PATCHES).max() > 12


@pytest.mark.parametrize("size", [32, 112, 448])
def test_the_square_of_a_profiled_picture_is_converted_too(size) -> None:
    image = Image.new("RGB", (900, 700), PATCHES[0])
    for format in ("JPEG", "PNG"):
        square = load_square(encoded(image, format, icc_profile=profile("Adobe RGB", 2.2)), size)
        assert (
            np.abs(np.array(square.getpixel((size // 2, size // 2))) - expected(PATCHES[0], "Adobe RGB", 2.2)).max()
            <= 3
        )


def swapped_primaries() -> bytes:
    """sRGB with red and blue exchanged (case 03): a browser shows pure blue as pure red."""
    data = bytearray(SRGB)
    places = {
        bytes(data[132 + 12 * i : 136 + 12 * i]): 132 + 12 * i for i in range(struct.unpack(">I", data[128:132])[0])
    }
    red, blue = places[b"rXYZ"], places[b"bXYZ"]
    data[red : red + 4], data[blue : blue + 4] = b"bXYZ", b"rXYZ"
    return bytes(data)


def test_exchanged_primaries_exchange_the_colours() -> None:
    data = encoded(Image.new("RGB", (64, 64), (0, 0, 255)), "JPEG", quality=95, icc_profile=swapped_primaries())
    red, green, blue = decode(inspect(data)).getpixel((30, 30))
    assert red > 250 and green < 5 and blue < 5


@pytest.mark.parametrize(("format", "options"), ENCODINGS)
def test_an_srgb_profile_changes_no_pixel(format, options) -> None:
    plain, tagged = encoded(patches(), format, **options), encoded(patches(), format, icc_profile=SRGB, **options)
    assert decode(inspect(plain)).tobytes() == decode(inspect(tagged)).tobytes()


@pytest.mark.parametrize(
    "broken",
    [b"", b"no profile", SRGB[:200], SRGB[:-300], b"\0" * 1_300_000, b"\xff" * 3000, SRGB[:16] + b"Lab " + SRGB[20:],
     SRGB[:12] + b"link" + SRGB[16:], SRGB + b"\0" * (5 * 2**20)],
    ids=["empty", "text", "header", "cut", "zeros", "ones", "lab", "link", "large"],
)  # fmt: skip
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_an_unreadable_profile_counts_as_none(broken, format) -> None:
    plain = decode(inspect(encoded(patches(), format)))
    assert decode(inspect(encoded(patches(), format, icc_profile=broken))).tobytes() == plain.tobytes()


@pytest.mark.parametrize("space", ["CMYK", "GRAY"])
def test_a_profile_of_other_channels_counts_as_none(space) -> None:
    wrong = SRGB[:16] + space.encode() + SRGB[20:]
    plain = decode(inspect(encoded(patches())))
    assert decode(inspect(encoded(patches(), icc_profile=wrong))).tobytes() == plain.tobytes()


def icc(kind: bytes, space: bytes, connection: bytes, name: bytes, body: bytes) -> bytes:
    """A profile (version 2) of a white point and one more tag."""
    d50 = (63190, 65536, 54061)
    white = struct.pack(">4sI3i", b"XYZ ", 0, *d50)
    table = struct.pack(">I4sII4sII", 2, b"wtpt", 156, 20, name, 176, len(body))
    fields = (176 + len(body), 0, 0x02400000, kind, space, connection, b"acsp", *d50)
    return struct.pack(">II I4s4s4s 12x 4s 28x 3i 48x", *fields) + table + white + body


def grey_profile(gamma: float) -> bytes:
    curve = struct.pack(">4sIIHxx", b"curv", 0, 1, round(256 * gamma))
    return icc(b"mntr", b"GRAY", b"XYZ ", b"kTRC", curve)


@pytest.mark.parametrize("mode", ["L", "LA", "I;16"])
def test_a_grey_profile_is_converted(mode) -> None:
    image = Image.new("L", (64, 64), 100)
    if mode == "LA":
        image.putalpha(255)
    if mode == "I;16":
        image = Image.fromarray(np.full((64, 64), 100 * 257, dtype=np.uint16))
    pixel = decode(inspect(encoded(image, icc_profile=grey_profile(1.0)))).getpixel((5, 5))
    assert np.abs(np.array(pixel) - expected((100,) * 3, "sRGB", 1.0)).max() <= 2


@pytest.mark.parametrize("format", ["JPEG", "PNG"])
def test_a_grey_picture_may_have_an_rgb_profile(format) -> None:
    image = Image.new("L", (64, 64), 100)
    pixel = decode(inspect(encoded(image, format, icc_profile=profile("Adobe RGB", 1.8)))).getpixel((5, 5))
    assert np.abs(np.array(pixel) - expected((100,) * 3, "sRGB", 1.8)).max() <= 2


@pytest.mark.parametrize("mode", ["RGBA", "P", "LA"])
def test_colours_are_converted_before_the_white_background_is_added(mode) -> None:
    image = Image.new("RGBA", (64, 64), (*PATCHES[0], 255) if mode != "LA" else (100, 100, 100, 255))
    image.paste((0, 0, 0, 0), (0, 0, 64, 32))
    image = image.quantize(4) if mode == "P" else image.convert(mode)
    data = encoded(image, icc_profile=profile("Adobe RGB", 1.8))
    picture = decode(inspect(data))
    assert picture.getpixel((5, 5)) == (255, 255, 255)
    own = PATCHES[0] if mode != "LA" else (100, 100, 100)
    assert np.abs(np.array(picture.getpixel((5, 60))) - expected(own, "Adobe RGB", 1.8)).max() <= 3


def cmyk_profile() -> bytes:
    """Paper is white, all black is black, and any other ink is a grey of L* 50 (`lut8`, two steps a channel)."""
    lut = struct.pack(">4sIBBBx9i", b"mft1", 0, 4, 3, 2, 65536, 0, 0, 0, 65536, 0, 0, 0, 65536)
    lightness = [255, 0, *(0 if ink % 2 else 128 for ink in range(2, 16))]
    lut += bytes(range(256)) * 4 + b"".join(bytes((value, 128, 128)) for value in lightness) + bytes(range(256)) * 3
    return icc(b"prtr", b"CMYK", b"Lab ", b"A2B0", lut)


def test_a_cmyk_profile_is_applied() -> None:
    image = Image.new("CMYK", (64, 64), (255, 0, 0, 0))
    image.paste((0, 0, 0, 0), (32, 0, 64, 64))
    picture = decode(inspect(encoded(image, "JPEG", quality=95, icc_profile=cmyk_profile())))
    assert picture.getpixel((5, 5)) == pytest.approx((119, 119, 119), abs=4)  # L* 50 in sRGB
    assert picture.getpixel((60, 5)) == pytest.approx((255, 255, 255), abs=2)
    plain = decode(inspect(encoded(image, "JPEG", quality=95)))
    assert plain.getpixel((5, 5)) == pytest.approx((0, 255, 255), abs=4)


def png_with(*chunks: tuple[bytes, bytes], image: Image.Image | None = None) -> bytes:
    data = encoded(image or patches())
    extra = b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )
    return data[:33] + extra + data[33:]


def points(space: str) -> bytes:
    return struct.pack(">8I", *(round(100_000 * value) for point in PRIMARIES[space] for value in point))


def gamma_chunk(encoding: float) -> tuple[bytes, bytes]:
    return b"gAMA", struct.pack(">I", round(100_000 * encoding))


@pytest.mark.parametrize(
    ("chunks", "space", "gamma"),
    [
        ([(b"cICP", bytes((12, 13, 0, 1)))], "Display P3", 0.0),
        ([(b"cICP", bytes((9, 13, 0, 1)))], "BT.2020", 0.0),
        ([(b"cICP", bytes((1, 8, 0, 1)))], "sRGB", 1.0),
        ([gamma_chunk(1.0)], "sRGB", 1.0),
        ([gamma_chunk(1 / 1.8), (b"cHRM", points("Adobe RGB"))], "Adobe RGB", 1.8),
        ([(b"cHRM", points("BT.2020"))], "BT.2020", 0.0),
        ([(b"sRGB", b"\0"), gamma_chunk(1.0), (b"cHRM", points("BT.2020"))], "sRGB", 0.0),
        ([(b"cICP", bytes((12, 13, 0, 1))), (b"iCCP", b"x\0\0" + zlib.compress(SRGB))], "Display P3", 0.0),
        ([(b"iCCP", b"x\0\0" + zlib.compress(SRGB)), gamma_chunk(1.0)], "sRGB", 0.0),
        ([gamma_chunk(0.45455), (b"cHRM", points("sRGB"))], "sRGB", 0.0),
        ([gamma_chunk(0)], "sRGB", 0.0),
        ([(b"cHRM", bytes(32))], "sRGB", 0.0),
        ([(b"cHRM", b"\xff" * 32)], "sRGB", 0.0),
        ([(b"cICP", bytes((9, 16, 0, 1)))], "sRGB", 0.0),
    ],
    ids=["cicp-p3", "cicp-2020", "cicp-linear", "gama", "gama-chrm", "chrm", "srgb-wins", "cicp-wins", "iccp-wins",
         "gama-of-srgb", "gama-0", "chrm-0", "chrm-huge", "pq-is-not-converted"],
)  # fmt: skip
def test_png_states_colours_by_numbers_too(chunks, space, gamma) -> None:
    wanted = expected(PATCHES, space, gamma) if (space, gamma) != ("sRGB", 0.0) else np.array(PATCHES)
    assert np.abs(shown(png_with(*chunks)) - wanted).max() <= 3


def nclx(data: bytes, primaries: int, transfer: int) -> bytes:
    """The file with other code points in its `colr` box."""
    at = data.index(b"colrnclx") + 8
    return data[:at] + struct.pack(">HH", primaries, transfer) + data[at + 4 :]


@pytest.mark.parametrize(
    ("codes", "space"),
    [((12, 13), "Display P3"), ((9, 13), "BT.2020"), ((1, 13), "sRGB"), ((1, 1), "sRGB"), ((2, 2), "sRGB")],
)
def test_an_avif_states_colours_by_code_points(codes, space) -> None:
    data = nclx(encoded(patches(), "AVIF", quality=98, subsampling="4:4:4"), *codes)
    wanted = expected(PATCHES, space) if space != "sRGB" else np.array(PATCHES)
    assert np.abs(shown(data) - wanted).max() <= 5


@pytest.mark.parametrize(
    ("format", "mode", "options"),
    [("JPEG", "RGB", {}), ("JPEG", "RGB", {"progressive": True}), ("JPEG", "L", {}), ("JPEG", "CMYK", {}),
     ("PNG", "RGB", {}), ("PNG", "L", {}), ("PNG", "P", {}), ("PNG", "1", {}),
     ("WEBP", "RGB", {}), ("WEBP", "RGB", {"lossless": True})],
)  # fmt: skip
def test_a_picture_without_a_profile_has_the_pixels_of_its_file(format, mode, options) -> None:
    noise = Image.fromarray(np.random.default_rng(5).integers(0, 256, (83, 131, 3), dtype=np.uint8))
    data = encoded(noise.convert(mode), format, **options)
    with Image.open(BytesIO(data)) as image:
        assert decode(inspect(data)).tobytes() == image.convert("RGB").tobytes()


@pytest.mark.parametrize(("format", "mode"), [("PNG", "RGBA"), ("PNG", "LA"), ("WEBP", "RGBA")])
def test_a_transparent_picture_without_a_profile_only_gets_a_white_background(format, mode) -> None:
    noise = Image.fromarray(np.random.default_rng(6).integers(0, 256, (300, 31, 4), dtype=np.uint8))
    data = encoded(noise.convert(mode), format)
    with Image.open(BytesIO(data)) as image:
        white = Image.new("RGBA", image.size, "white")
        assert (
            decode(inspect(data)).tobytes()
            == Image.alpha_composite(white, image.convert("RGBA")).convert("RGB").tobytes()
        )


@pytest.mark.slow
def test_many_profiles_take_bounded_memory() -> None:
    for gamma in range(120, 220):
        decode(inspect(encoded(patches(), icc_profile=profile("Adobe RGB", gamma / 100))))
    assert colour._transform.cache_info().currsize <= 16
