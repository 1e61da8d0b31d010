"""Whatever a caller calls a picture becomes the bytes of one image file, or a clear error before any network."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter, OrderedDict, UserList, deque
from io import BytesIO, StringIO
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageChops, ImageCms, ImageOps, ImageStat

from screening_client import Client, InputError
from screening_client.encoding import MAX_BYTES, MAX_SIDE
from screening_client.pictures import four_pictures, picture_bytes


def test_paths_as_text_and_path_give_the_files_bytes(tmp_path: Path) -> None:
    path = tmp_path / "ä picture.jpg"
    path.write_bytes(b"bytes")
    assert picture_bytes(str(path), "original") == picture_bytes(path, "original") == b"bytes"


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_every_kind_of_bytes_is_taken_as_it_is(kind: Any) -> None:
    assert picture_bytes(kind(b"bytes"), "original") == b"bytes"


def test_a_file_object_is_read_from_its_beginning_however_often_it_is_given() -> None:
    file = BytesIO()
    file.write(b"bytes")
    assert [picture_bytes(file, "original") for _ in range(2)] == [b"bytes", b"bytes"]


def test_a_pipe_is_read_from_where_it_stands() -> None:
    reader, writer = os.pipe()
    with os.fdopen(writer, "wb") as end:
        end.write(b"bytes")
    with os.fdopen(reader, "rb") as pipe:
        assert picture_bytes(pipe, "original") == b"bytes"


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "I;16", "F"])
def test_pil_images_of_every_mode_become_a_png_of_the_same_size(mode: str) -> None:
    data = picture_bytes(Image.new(mode, (5, 3)), "original")
    with Image.open(BytesIO(data)) as image:
        assert (image.format, image.size) == ("PNG", (5, 3))


def test_pixels_of_a_pil_image_survive() -> None:
    image = Image.effect_noise((9, 7), 80).convert("RGB")
    with Image.open(BytesIO(picture_bytes(image, "original"))) as sent:
        assert sent.tobytes() == image.tobytes()


def test_a_pil_image_with_an_orientation_is_sent_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (8, 4)).save(tmp_path / "turned.jpg", exif=exif)
    with Image.open(tmp_path / "turned.jpg") as image:
        data = picture_bytes(image, "original")
    with Image.open(BytesIO(data)) as sent:
        assert sent.size == (4, 8) and not sent.getexif().get(0x0112)


def test_a_damaged_pil_image_is_named() -> None:
    buffer = BytesIO()
    Image.effect_noise((64, 64), 80).save(buffer, format="PNG")
    with Image.open(BytesIO(buffer.getvalue()[:1000])) as image, pytest.raises(InputError, match=r"generated\[1\]"):
        picture_bytes(image, "generated[1]")


@pytest.mark.parametrize(
    ("picture", "said"),
    [
        (b"", "is empty"),
        (BytesIO(), "is empty"),
        (StringIO("text"), "'rb'"),
        ("no/such/file.jpg", "cannot be read"),
        ("nul\0character", "cannot be read"),
        (".", "cannot be read"),
        ("https://example.org/a.jpg", "download it"),
        ("HTTPS://example.org/a.jpg", "download it"),
        (" http://example.org/a.jpg", "download it"),
        (Path("https://example.org/a.jpg"), "download it"),
        ("s3://bucket/a.jpg", "download it"),
        ("file:///tmp/a.jpg", "URL"),
        ("data:image/png;base64,AAAA", "URL"),
        (None, "NoneType"),
        (4711, "int"),
        ([b"bytes"], "list"),
    ],
)
def test_an_argument_that_is_not_a_picture_is_refused_by_name(picture: Any, said: str) -> None:
    with pytest.raises(InputError, match=r"^generated\[2\]") as caught:
        picture_bytes(picture, "generated[2]")
    assert said in str(caught.value)


def test_a_closed_file_is_refused(tmp_path: Path) -> None:
    file = (tmp_path / "a").open("wb+")
    file.close()
    with pytest.raises(InputError, match="closed"):
        picture_bytes(file, "original")


def test_an_empty_file_is_named_with_its_path(tmp_path: Path) -> None:
    path = tmp_path / "empty.jpg"
    path.touch()
    with pytest.raises(InputError, match=r"original \(.*empty\.jpg\) is empty"):
        picture_bytes(path, "original")


@pytest.mark.parametrize("count", [0, 1, 3, 5])
def test_another_number_than_four_is_refused(count: int) -> None:
    with pytest.raises(InputError, match=f"has {count} pictures"):
        four_pictures([b"x"] * count)


@pytest.mark.parametrize(
    "not_a_list", ["abcd", b"abcd", bytearray(b"abcd"), memoryview(b"abcd"), Path("abcd"), BytesIO(b"abcd"), None, 4]
)
def test_one_picture_in_place_of_four_is_refused(not_a_list: Any) -> None:
    with pytest.raises(InputError, match="list of 4 pictures"):
        four_pictures(not_a_list)


LETTERS = {letter: letter.encode() for letter in "abcd"}


@pytest.mark.parametrize(
    "unordered",
    [
        set(LETTERS),
        frozenset(LETTERS),
        LETTERS,
        OrderedDict(LETTERS),
        Counter(LETTERS),
        MappingProxyType(LETTERS),
        LETTERS.keys(),
        LETTERS.values(),
        LETTERS.items(),
        OrderedDict(LETTERS).values(),
        iter(set(LETTERS)),
        iter(frozenset(LETTERS)),
        iter(LETTERS),
        iter(LETTERS.values()),
        iter(OrderedDict(LETTERS)),
    ],
    ids=lambda each: type(each).__name__,
)
def test_four_pictures_without_an_order_are_refused(unordered: Any, server: Any) -> None:
    with pytest.raises(InputError, match="has no order"):
        four_pictures(unordered)
    with Client(base_url=server.url) as client, pytest.raises(InputError, match="has no order"):
        client.screen(original=b"o", generated=unordered)
    assert server.received == []


FOUR = [b"a", b"b", b"c", b"d"]


@pytest.mark.parametrize(
    "ordered",
    [FOUR, tuple(FOUR), deque(FOUR), UserList(FOUR), iter(FOUR), (each for each in FOUR), map(bytes, FOUR)],
    ids=lambda each: type(each).__name__,
)
def test_four_pictures_in_an_order_keep_it(ordered: Any) -> None:
    assert four_pictures(ordered) == tuple(FOUR)


def test_an_array_of_four_paths_keeps_its_order() -> None:
    assert four_pictures(np.array(list("abcd"))) == tuple("abcd")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="ndarray"):
        four_pictures(np.zeros((4, 8, 8)))  # type: ignore[arg-type]


@pytest.mark.parametrize("count", [0, 3, 5])
def test_an_iterator_of_another_length_is_refused(count: int) -> None:
    with pytest.raises(InputError, match=f"has {count} pictures"):
        four_pictures(iter([b"x"] * count))  # type: ignore[arg-type]


def test_swapped_arguments_are_named(server: Any) -> None:
    with Client(base_url=server.url) as client:
        with pytest.raises(InputError, match="generated is of type str; pass a list"):
            client.screen(original=FOUR, generated="a.jpg")  # type: ignore[arg-type]
        with pytest.raises(InputError, match="swapped"):
            client.screen(original=FOUR, generated=FOUR)  # type: ignore[arg-type]
        with pytest.raises(InputError, match=r"generated\[2\] is of type NoneType"):
            client.screen(original=b"o", generated=[b"a", b"b", None, b"d"])  # type: ignore[list-item]


def sent(image: Image.Image) -> Image.Image:
    """The image as the service opens it."""
    received = Image.open(BytesIO(picture_bytes(image, "original")))
    received.load()
    return received


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


def test_importing_and_using_the_client_pulls_in_nothing_heavy() -> None:
    program = """
import sys
import screening_client, screening_client.cli
from screening_client.pictures import picture_bytes
picture_bytes(b"bytes", "original")
heavy = {"torch", "pydantic", "PIL", "numpy", "vllm", "fastapi", "screening", "service", "trainer"}
print(*sorted(heavy & {name.partition(".")[0] for name in sys.modules}))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
