"""How an image object becomes bytes: colours, transparency, orientation and size."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageChops, ImageCms, ImageOps, ImageStat

from screening_client import InputError
from screening_client.encoding import MAX_BYTES, MAX_SIDE
from screening_client.pictures import picture_bytes
from tests.clients.sent_image import sent


def seen(image: Image.Image) -> list[tuple[int, int, int]]:
    """The pixels of the image as the service sees them."""
    rgb = sent(image).convert("RGB")
    return [rgb.getpixel((x, y)) for y in range(rgb.height) for x in range(rgb.width)]  # type: ignore[misc]


def two(mode: str, left: Any, right: Any, **info: Any) -> Image.Image:
    """An image of two pixels."""
    image = Image.new(mode, (2, 1))
    image.putpixel((0, 0), left)
    image.putpixel((1, 0), right)
    image.info.update(info)
    return image


def with_palette(mode: str, left: Any, right: Any, **info: Any) -> Image.Image:
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 0, 255])
    image = image.convert(mode)
    image.putpixel((0, 0), left)
    image.putpixel((1, 0), right)
    image.info.update(info)
    return image


WHITE, BLACK, RED, BLUE = (255, 255, 255), (0, 0, 0), (255, 0, 0), (0, 0, 255)


@pytest.mark.parametrize(
    ("image", "pixels"),
    [
        pytest.param(two("1", 0, 1), [BLACK, WHITE], id="1"),
        pytest.param(two("L", 0, 255), [BLACK, WHITE], id="L"),
        pytest.param(two("L", 0, 7, transparency=7), [BLACK, WHITE], id="L-transparency"),
        pytest.param(two("LA", (0, 255), (0, 0)), [BLACK, WHITE], id="LA"),
        pytest.param(two("La", (0, 255), (0, 0)), [BLACK, WHITE], id="La"),
        pytest.param(two("La", (51, 51), (0, 204)), [WHITE, (51, 51, 51)], id="La-half"),
        pytest.param(two("RGB", RED, BLUE), [RED, BLUE], id="RGB"),
        pytest.param(two("RGB", RED, BLUE, transparency=BLUE), [RED, WHITE], id="RGB-transparency"),
        pytest.param(two("RGBA", (*RED, 255), (*BLUE, 0)), [RED, WHITE], id="RGBA"),
        pytest.param(two("RGBa", (*RED, 255), (0, 0, 0, 0)), [RED, WHITE], id="RGBa"),
        pytest.param(two("RGBa", (51, 0, 0, 51), (0, 0, 0, 204)), [(255, 204, 204), (51, 51, 51)], id="RGBa-half"),
        pytest.param(two("RGBX", (*RED, 0), (*BLUE, 0)), [RED, BLUE], id="RGBX"),
        pytest.param(with_palette("P", 0, 1), [RED, BLUE], id="P"),
        pytest.param(with_palette("P", 0, 1, transparency=1), [RED, WHITE], id="P-transparency"),
        pytest.param(with_palette("P", 0, 1, transparency=b"\xff\x00"), [RED, WHITE], id="P-transparency-bytes"),
        pytest.param(with_palette("PA", (0, 255), (1, 0)), [RED, WHITE], id="PA"),
        pytest.param(two("I;16", 0, 65535), [BLACK, WHITE], id="I16"),
        pytest.param(two("I;16", 257 * 100, 300), [(100, 100, 100), (1, 1, 1)], id="I16-values"),
        pytest.param(two("I;16", 0, 300, transparency=300), [BLACK, WHITE], id="I16-transparency"),
        pytest.param(two("I;16", 301, 299, transparency=300), [(1, 1, 1)] * 2, id="I16-neighbours"),
        pytest.param(two("I;16B", 0, 65535), [BLACK, WHITE], id="I16B"),
        pytest.param(two("I;16L", 257 * 9, 65535), [(9, 9, 9), WHITE], id="I16L"),
        pytest.param(two("I", 0, 65535), [BLACK, WHITE], id="I"),
        pytest.param(two("F", 0.0, 255.0), [BLACK, WHITE], id="F"),
        pytest.param(two("CMYK", (0, 0, 0, 0), (0, 0, 0, 255)), [WHITE, BLACK], id="CMYK"),
        pytest.param(two("HSV", (0, 255, 255), (0, 0, 255)), [RED, WHITE], id="HSV"),
        pytest.param(two("LAB", (255, 128, 128), (0, 128, 128)), [WHITE, BLACK], id="LAB"),
        pytest.param(two("YCbCr", (255, 128, 128), (0, 128, 128)), [WHITE, BLACK], id="YCbCr"),
    ],
)
def test_transparent_pictures_of_every_mode_get_a_white_background(
    image: Image.Image, pixels: list[tuple[int, int, int]]
) -> None:
    wrong = [
        (found, wanted)
        for found, wanted in zip(seen(image), pixels, strict=True)
        if max(abs(a - b) for a, b in zip(found, wanted, strict=True)) > 1
    ]
    assert not wrong and not sent(image).has_transparency_data


@pytest.mark.parametrize(
    ("mode", "values"),
    [
        ("I", (-1, 65535)),
        ("I", (0, 65536)),
        ("I", (0, 255)),
        ("F", (0.0, 1.0)),
        ("F", (-1.0, 255.0)),
        ("F", (0.0, 256.0)),
        ("F", (float("nan"), float("nan"))),
    ],
)
def test_values_without_a_defined_brightness_are_refused_by_name(mode: str, values: tuple[Any, Any]) -> None:
    with pytest.raises(InputError, match=rf"^original: .*mode {mode} .*values from .* convert it to mode L"):
        picture_bytes(two(mode, *values), "original")


def photo(width: int, height: int) -> Image.Image:
    """A picture with edges, gradients and grain, like a photograph."""
    rng = np.random.default_rng(7)
    x, y = np.meshgrid(np.linspace(0, 9, width), np.linspace(0, 7, height))
    waves = np.stack([np.sin(x * y / 3), np.cos(x - y), np.sin(x + 2 * y)], axis=-1) * 90 + 128
    return Image.fromarray(np.clip(waves + rng.normal(0, 3, waves.shape), 0, 255).astype(np.uint8))


def difference(one: Image.Image, other: Image.Image, size: int = 448) -> float:
    """Largest mean difference of a channel, on a scale of 255, at the size that a model sees."""
    small = [each.convert("RGB").resize((size, size), Image.Resampling.LANCZOS) for each in (one, other)]
    return max(ImageStat.Stat(ImageChops.difference(*small)).mean)


@pytest.mark.slow
@pytest.mark.parametrize("size", [(4000, 3000), (1500, 2049)])
def test_a_large_image_fits_the_service_without_visible_loss(size: tuple[int, int]) -> None:
    image = photo(*size)
    data = picture_bytes(image, "original")
    received = Image.open(BytesIO(data))
    assert len(data) <= MAX_BYTES and max(received.size) == MAX_SIDE and received.format == "JPEG"
    assert abs(received.width / received.height - size[0] / size[1]) < 0.02 * size[0] / size[1]
    assert received.layer[0][1:3] == received.layer[1][1:3] == (1, 1), "no chroma subsampling"
    assert difference(image, received) < 1


@pytest.mark.slow
def test_noise_fits_the_service_too() -> None:
    noise = Image.fromarray(np.random.default_rng(1).integers(0, 256, (2048, 2048, 3), dtype=np.uint8))
    data = picture_bytes(noise, "original")
    assert len(data) <= MAX_BYTES and Image.open(BytesIO(data)).size == (1536, 1536)


def test_five_of_the_largest_fit_into_one_request(repository: Path) -> None:
    from screening.images import ImageLimits
    from service.config.settings import Settings

    settings = Settings(engine="scripted")
    assert settings.max_body_bytes >= 5 * MAX_BYTES + 64 * 1024 and ImageLimits().max_bytes >= MAX_BYTES
    assert ImageLimits().max_total_pixels >= 5 * MAX_SIDE**2


def test_an_extreme_shape_keeps_a_pixel() -> None:
    assert sent(Image.new("L", (20000, 2))).size == (2048, 1)


def profile(space: str) -> bytes:
    """An ICC profile of three colours or of grey."""
    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    data[16:20] = space.encode()
    return bytes(data)


@pytest.mark.parametrize("size", [(40, 30), (2100, 10)])
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_the_colour_profile_is_sent(mode: str, size: tuple[int, int]) -> None:
    image = Image.new(mode, size)
    image.info["icc_profile"] = profile("RGB ")
    assert sent(image).info["icc_profile"] == profile("RGB ")


@pytest.mark.parametrize(("mode", "space"), [("L", "RGB "), ("CMYK", "CMYK"), ("RGB", "GRAY"), ("RGB", "CMYK")])
def test_a_profile_of_other_colours_is_not_sent(mode: str, space: str) -> None:
    image = Image.new(mode, (4, 3))
    image.info["icc_profile"] = profile(space)
    assert "icc_profile" not in sent(image).info


@pytest.mark.slow
def test_a_profile_that_is_too_large_to_send_ends_the_shrinking() -> None:
    image = Image.effect_noise((300, 300), 90).convert("RGB")
    image.info["icc_profile"] = profile("RGB ") + np.random.default_rng(3).bytes(MAX_BYTES)
    assert max(sent(image).size) <= 256


def test_a_grey_profile_stays_with_grey() -> None:
    for mode in ("L", "LA", "1"):
        image = Image.new(mode, (4, 3))
        image.info["icc_profile"] = profile("GRAY")
        assert sent(image).info["icc_profile"] == profile("GRAY")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation_is_applied_once(orientation: int) -> None:
    marked = Image.new("RGB", (6, 4), "white")
    marked.putpixel((0, 0), RED)
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = BytesIO()
    marked.save(buffer, format="PNG", exif=exif)
    with Image.open(buffer) as image:
        assert seen(image) == [
            each[:3]
            for each in ImageOps.exif_transpose(image).convert("RGB").get_flattened_data()  # type: ignore[index]
        ]


def test_an_orientation_in_xmp_alone_turns_nothing() -> None:
    buffer = BytesIO()
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><a tiff:Orientation="6"/></x:xmpmeta>'
    Image.new("RGB", (8, 4)).save(buffer, format="JPEG", xmp=xmp)
    with Image.open(buffer) as image:
        assert image.getexif().get(0x0112) == 6, "Pillow reads it"
        assert sent(image).size == (8, 4)


def test_an_image_with_damaged_exif_is_sent_as_it_stands() -> None:
    image = Image.new("RGB", (8, 4))
    image.info["exif"] = b"Exif\0\0nonsense"
    assert sent(image).size == (8, 4)
