"""Decoding of pictures: an accepted picture has the pixels that it should have."""

from __future__ import annotations

import struct
import sys
import threading
import warnings
import zlib
from io import BytesIO

import pytest
from PIL import ExifTags, Image, ImageChops, ImageDraw

from screening import images
from screening.errors import ImageShapeRefused, ImageTooLarge, ImageUnsupported
from screening.images import PADDING, ImageLimits, accept, check_total, decode, fit_square, inspect
from tests.squares import load_square

RED, GREEN, BLUE, WHITE = (200, 30, 30), (30, 160, 60), (30, 60, 200), (255, 255, 255)


def encoded(image: Image.Image, format: str = "PNG", **options: object) -> bytes:
    buffer = BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def quarters(width: int = 60, height: int = 40) -> Image.Image:
    """Red, green / blue, white: every rotation and reflection of it looks different."""
    image = Image.new("RGB", (width, height), WHITE)
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, 0, width // 2 - 1, height // 2 - 1), RED)
    draw.rectangle((width // 2, 0, width, height // 2 - 1), GREEN)
    draw.rectangle((0, height // 2, width // 2 - 1, height), BLUE)
    return image


def corners(image: Image.Image) -> tuple[tuple[int, ...], ...]:
    """Colours near the four corners, in reading order, snapped to the nearest of the known ones."""
    width, height = image.size
    known = (RED, GREEN, BLUE, WHITE)
    points = [(x, y) for y in (height // 8, height - 1 - height // 8) for x in (width // 8, width - 1 - width // 8)]
    pixels = [image.getpixel(point) for point in points]
    return tuple(min(known, key=lambda c, p=p: sum((a - b) ** 2 for a, b in zip(c, p, strict=True))) for p in pixels)


@pytest.mark.parametrize(
    ("format", "options"),
    [
        ("JPEG", {"quality": 95}),
        ("JPEG", {"progressive": True}),
        ("PNG", {}),
        ("WEBP", {"quality": 95}),
        ("WEBP", {"lossless": True}),
        ("AVIF", {"quality": 90}),
    ],
)
def test_every_allowed_format_is_taken_in(format, options):
    data = encoded(quarters(), format, **options)
    picture = inspect(data)
    assert (picture.format, picture.width, picture.height) == (format, 60, 40)
    image = decode(picture)
    assert (image.mode, image.size) == ("RGB", (60, 40))
    assert corners(image) == (RED, GREEN, BLUE, WHITE)


@pytest.mark.parametrize("format", ["GIF", "BMP", "TIFF", "ICO", "PPM", "PCX", "TGA", "JPEG2000", "PDF", "EPS"])
def test_every_other_format_is_refused(format):
    with pytest.raises(ImageUnsupported) as caught:
        inspect(encoded(quarters(), format))
    assert "name of a file" not in str(caught.value)


@pytest.mark.parametrize("text", [b"original.jpg", b"https://shop.example/4711/original.jpg\n"])
def test_a_name_in_the_place_of_a_picture_is_called_one(text):
    """As `curl -F original=original.jpg` sends it, without the `@`."""
    with pytest.raises(ImageUnsupported, match="look like the name of a file, so send its content"):
        inspect(text)


@pytest.mark.parametrize("format", ["PNG", "WEBP", "AVIF"])
def test_an_animation_is_refused(format):
    frames = [quarters(), quarters().rotate(180)]
    with pytest.raises(ImageUnsupported, match="animated"):
        inspect(encoded(frames[0], format, save_all=True, append_images=frames[1:], duration=100))


def test_a_jpeg_that_a_second_picture_follows_is_a_still_picture():
    data = encoded(quarters(), "MPO", save_all=True, append_images=[Image.new("RGB", (8, 8))])
    picture = inspect(data)
    assert picture.format == "JPEG"
    assert corners(decode(picture)) == (RED, GREEN, BLUE, WHITE)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "AVIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation_comes_out_upright(orientation, format):
    # The camera stored the upright picture with the inverse rotation.
    inverse = {5: 5, 6: 8, 7: 7, 8: 6}.get(orientation, orientation)
    turn = images._UPRIGHT.get(inverse)
    stored = quarters().transpose(turn) if turn is not None else quarters()
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    image = decode(inspect(encoded(stored, format, exif=exif)), shrink_to=20)
    assert corners(image) == (RED, GREEN, BLUE, WHITE)
    assert image.width > image.height


XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    b'<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/></rdf:RDF></x:xmpmeta>'
)


def png_text(data: bytes, key: str, text: bytes) -> bytes:
    """The PNG with an international text chunk before its pixels."""
    body = b"iTXt" + key.encode() + bytes(5) + text
    return data[:33] + struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body)) + data[33:]


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "AVIF"])
@pytest.mark.parametrize("orientation", [None, 1, 3])
def test_an_orientation_in_xmp_does_not_turn_a_picture(format, orientation):
    exif = Image.Exif()
    if orientation is not None:
        exif[ExifTags.Base.Orientation] = orientation
    options = {} if format == "PNG" else {"xmp": XMP}
    data = encoded(quarters(), format, exif=exif, **options)
    if format == "PNG":
        data = png_text(data, "XML:com.adobe.xmp", XMP)
    image = decode(inspect(data))
    assert image.size == (60, 40)
    assert corners(image) == ((WHITE, BLUE, GREEN, RED) if orientation == 3 else (RED, GREEN, BLUE, WHITE))


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_unknown_orientation_is_ignored(orientation):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    assert corners(decode(inspect(encoded(quarters(), "JPEG", exif=exif)))) == (RED, GREEN, BLUE, WHITE)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize(
    "exif",
    [
        b"Exif\0\0",
        b"Exif\0\0II*\0",
        b"Exif\0\0MM\0*\xff\xff\xff\xff",
        b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + b"\x12\x01\x03\0\x01\0\0\0" * 3,
        b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x02\0\xff\xff\xff\x7f\0\0\0\0",
        b"no exif at all",
    ],
)
def test_damaged_exif_does_not_make_pixels_unreadable(exif, format):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the encoder complains
        data = encoded(quarters(), format, exif=exif)
    assert corners(decode(inspect(data))) == (RED, GREEN, BLUE, WHITE)


@pytest.mark.parametrize("mode", ["RGB", "L", "1", "P", "CMYK", "YCbCr", "RGBA", "LA", "I;16"])
def test_every_colour_mode_comes_out_as_rgb(mode):
    source = quarters() if mode not in ("I;16", "1") else quarters().convert("L")
    data = encoded(source.convert(mode), "JPEG" if mode in ("CMYK", "YCbCr") else "PNG")
    image = decode(inspect(data))
    assert (image.mode, image.size) == ("RGB", (60, 40))


def test_a_cmyk_jpeg_keeps_its_colours():
    assert corners(decode(inspect(encoded(quarters().convert("CMYK"), "JPEG")))) == (RED, GREEN, BLUE, WHITE)


def test_a_16_bit_grey_picture_keeps_its_tones():
    image = Image.new("I;16", (3, 1))
    for x, tone in enumerate((0, 100 * 257, 65535)):
        image.putpixel((x, 0), tone)
    shown = decode(inspect(encoded(image)))
    assert [shown.getpixel((x, 0)) for x in range(3)] == [(0, 0, 0), (100, 100, 100), (255, 255, 255)]


def test_a_black_and_white_picture_is_black_and_white():
    image = Image.new("1", (2, 1))
    image.putpixel((1, 0), 1)
    shown = decode(inspect(encoded(image)))
    assert [shown.getpixel((x, 0)) for x in range(2)] == [(0, 0, 0), (255, 255, 255)]


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
@pytest.mark.parametrize("format", ["PNG", "WEBP", "AVIF"])
def test_transparent_parts_become_white(mode, format):
    image = Image.new("RGBA", (16, 16), (0, 0, 0, 0))
    image.paste((0, 0, 0, 128), (8, 0, 16, 16))
    data = encoded(image.convert(mode), format, **({"lossless": True} if format == "WEBP" else {}))
    shown = decode(inspect(data))
    assert shown.getpixel((2, 8)) == pytest.approx((255, 255, 255), abs=4)
    assert shown.getpixel((13, 8)) == pytest.approx((127, 127, 127), abs=4)


@pytest.mark.parametrize("transparency", [0, b"\x00\xff"])
def test_a_transparent_palette_colour_becomes_white(transparency):
    image = Image.new("P", (2, 1))
    image.putpalette([0, 0, 0, *RED])
    image.putpixel((1, 0), 1)
    shown = decode(inspect(encoded(image, transparency=transparency)))
    assert [shown.getpixel((x, 0)) for x in range(2)] == [WHITE, RED]


@pytest.mark.parametrize("name", ["picture.png", "picture.txt", ""])
def test_the_format_is_recognised_by_content_and_not_by_name(name, tmp_path):
    path = tmp_path / (name or "picture")
    path.write_bytes(encoded(quarters(), "JPEG"))
    assert inspect(path.read_bytes()).format == "JPEG"


@pytest.mark.parametrize(
    "size", [(1, 1), (1, 3000), (3000, 1), (2, 16_000), (7, 5), (112, 112), (800, 600), (113, 112)]
)
@pytest.mark.parametrize("format", ["JPEG", "PNG"])
def test_every_shape_comes_out_square(size, format):
    assert load_square(encoded(Image.new("RGB", size, RED), format), 112).size == (112, 112)


def test_a_wide_picture_is_padded_above_and_below_not_squashed():
    square = fit_square(Image.new("RGB", (200, 100), RED), 100)
    rows = [square.getpixel((50, y)) for y in range(100)]
    assert rows == [PADDING] * 25 + [RED] * 50 + [PADDING] * 25


def test_a_tall_picture_is_padded_left_and_right():
    square = fit_square(Image.new("RGB", (100, 200), RED), 100)
    assert [square.getpixel((x, 50)) for x in range(100)] == [PADDING] * 25 + [RED] * 50 + [PADDING] * 25


def test_decoding_a_jpeg_smaller_changes_little_and_never_goes_below_twice_the_need():
    data = encoded(quarters(1600, 1200), "JPEG", quality=95)
    small = decode(inspect(data), shrink_to=112)
    assert 224 <= max(small.size) < 1600
    difference = ImageChops.difference(load_square(data, 112), fit_square(decode(inspect(data)), 112))
    assert sum(difference.convert("L").histogram()[24:]) < 0.03 * 112 * 112


def test_a_file_over_the_limit_of_bytes_is_refused_unread():
    with pytest.raises(ImageTooLarge, match="MiB") as caught:
        inspect(b"x" * 101, ImageLimits(max_bytes=100))
    assert caught.value.unit == "bytes"


def test_a_picture_at_the_limit_of_pixels_passes_and_one_over_it_does_not():
    limits = ImageLimits(max_pixels=2400)
    assert inspect(encoded(quarters(60, 40)), limits).pixels == 2400
    with pytest.raises(ImageTooLarge, match="61 x 40") as caught:
        inspect(encoded(quarters(61, 40)), limits)
    assert caught.value.unit == "pixels"


@pytest.mark.parametrize("size", [(101, 5), (5, 101)])
def test_a_side_over_its_limit_is_refused(size):
    assert inspect(encoded(quarters(100, 100)), ImageLimits(max_side=100)).width == 100
    with pytest.raises(ImageTooLarge, match="limit for each side is 100") as caught:
        inspect(encoded(Image.new("RGB", size)), ImageLimits(max_side=100))
    assert caught.value.unit == "pixels"


@pytest.mark.parametrize(
    ("marker", "precision", "message"),
    [
        (0xC0, 12, "12 bits"),
        (0xC1, 12, "12 bits"),
        (0xC3, 8, "lossless"),
        (0xC5, 8, "hierarchical"),
        (0xCF, 8, "lossl"),
    ],
)
def test_a_jpeg_of_a_kind_that_browsers_do_not_show_is_not_called_damaged(marker, precision, message):
    data = bytearray(encoded(quarters(64, 64), "JPEG"))
    frame = data.index(b"\xff\xc0")
    data[frame + 1], data[frame + 4] = marker, precision
    with pytest.raises(ImageUnsupported, match=message):
        inspect(bytes(data))


@pytest.mark.parametrize("size", [(32, 32), (32, 256), (256, 32), (800, 100)])
def test_a_picture_at_the_limits_of_shape_passes(size):
    accept(encoded(Image.new("RGB", size)))


@pytest.mark.parametrize("size", [(1, 1), (31, 31), (31, 200), (32, 257), (257, 32), (1, 3000), (9000, 20)])
def test_a_picture_that_is_too_small_or_too_narrow_is_refused(size):
    with pytest.raises(ImageShapeRefused, match=f"{size[0]} x {size[1]} pixels; its (shorter|longer) side"):
        accept(encoded(Image.new("RGB", size)))


def test_alpha_is_kept_where_it_is_asked_for():
    image = Image.new("RGBA", (40, 40), (10, 20, 30, 77))
    assert decode(inspect(encoded(image)), keep_alpha=True).getpixel((3, 3)) == (10, 20, 30, 77)
    assert decode(inspect(encoded(image.convert("RGB"))), keep_alpha=True).mode == "RGB"


def test_the_sum_of_pixels_is_limited():
    pictures = [inspect(encoded(quarters(60, 40)))] * 5
    check_total(pictures, ImageLimits(max_total_pixels=12_000))
    with pytest.raises(ImageTooLarge, match="together") as caught:
        check_total(pictures, ImageLimits(max_total_pixels=11_999))
    assert caught.value.unit == "pixels"


@pytest.mark.slow
def test_decoding_in_many_threads_leaves_the_warning_filters_of_others_alone():
    data = encoded(quarters(), "JPEG")
    load_square(data, 32)
    before = list(warnings.filters)
    failures: list[BaseException] = []

    def work() -> None:
        try:
            for _ in range(50):
                load_square(data, 32)
        except BaseException as error:  # noqa: BLE001 - carried to the test's own thread
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(8)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)  # threads interrupt each other everywhere
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert not failures
    assert warnings.filters == before
