"""Photos of every form come out upright, in sRGB, with their proportions, at the requested size."""

from __future__ import annotations

import json
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from screening.image_files import colour_profiles
from screening.images import accept
from tests.trainer.data.compose.photos import SIDE, compose, make_references, photographed, two_halves
from trainer.data_directory import read_any_samples

RED, BLUE, DARK = (210, 40, 40), (40, 60, 200), (60, 20, 60)
STORED = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}
"""EXIF orientation → how its pixels are stored (CIPA DC-008, section 4.6.5)."""


def _exif(orientation: int) -> bytes:
    photo = photographed(two_halves())
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = photo.transpose(STORED[orientation]) if orientation > 1 else photo
    return _saved(stored, "JPEG", exif=exif, quality=95)


def _saved(picture: Image.Image, kind: str, **options: object) -> bytes:
    target = BytesIO()
    picture.save(target, kind, **options)
    return target.getvalue()


def _profiled() -> bytes:
    """A photo whose red and green numbers are exchanged, with a profile that says so."""
    white, red, green, blue = (0.3127, 0.3290), (0.64, 0.33), (0.30, 0.60), (0.15, 0.06)
    profile = colour_profiles._profile((*white, *green, *red, *blue), 0.0)
    r, g, b = photographed(two_halves()).split()
    return _saved(Image.merge("RGB", (g, r, b)), "PNG", icc_profile=profile)


def _cutout_16_bit() -> bytes:
    """A 16-bit grey PNG of a dark product on light paper."""
    grey = np.asarray(photographed(two_halves()).convert("L"), np.uint16) * 257
    return _saved(Image.fromarray(grey), "PNG")


def _transparent_palette() -> bytes:
    product = two_halves()
    canvas = Image.new("RGBA", (product.width + 40, product.height + 60))
    canvas.paste(product, (20, 30))
    return _saved(canvas.quantize(64, method=Image.Quantize.FASTOCTREE), "PNG")


COLOURED = {
    **{f"exif-{n}.jpg": _exif(n) for n in range(1, 9)},
    "cmyk.jpg": _saved(photographed(two_halves()).convert("CMYK"), "JPEG", quality=95),
    "palette.png": _saved(photographed(two_halves()).quantize(200), "PNG"),
    "transparent-palette.png": _transparent_palette(),
    "profile.png": _profiled(),
    "odd.webp": _saved(photographed(two_halves((57, 119)), (235, 277)), "WEBP", lossless=True),
    "picture.avif": _saved(photographed(two_halves()), "AVIF", quality=90),
}
GREY = {
    "grey.png": _saved(photographed(two_halves()).convert("L"), "PNG"),
    "grey-alpha.png": _saved(photographed(two_halves()).convert("LA"), "PNG"),
    "sixteen-bit.png": _cutout_16_bit(),
}


@pytest.fixture(scope="module")
def composed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Image.Image]]:
    """File → its pictures by name; one run over all files."""
    directory = tmp_path_factory.mktemp("formats")
    (directory / "products").mkdir()
    for name, data in (COLOURED | GREY).items():
        (directory / "products" / name).write_bytes(data)
    references = make_references(directory / "references")
    assert compose(directory / "products", references, directory / "out") == 0
    found = {}
    for line in (directory / "out" / "samples.jsonl").read_text().splitlines():
        sample = json.loads(line)
        files = [sample["original"]["file"], *(one["file"] for one in sample["generated"])]
        pictures = {Path(file).stem: Image.open(directory / "out" / file).convert("RGB") for file in files}
        placeholder = directory / "out" / "steps" / sample["id"] / "placeholder.png"
        found[sample["original"]["attributes"]["source"]] = pictures | {"placeholder": Image.open(placeholder)}
    return found


def _near(pixel: object, colour: tuple[int, int, int], tolerance: int = 45) -> bool:
    return bool(np.abs(np.subtract(pixel, colour)).max() <= tolerance)  # type: ignore[arg-type]


def _product(picture: Image.Image) -> tuple[int, int, int, int]:
    box = picture.convert("L").point(lambda value: 255 if value < 190 else 0).getbbox()
    assert box is not None
    return box


@pytest.mark.parametrize("name", COLOURED)
@pytest.mark.parametrize("picture", ["placeholder", *"abcd"])
def test_the_product_is_upright_and_has_its_colours(
    name: str, picture: str, composed: dict[str, dict[str, Image.Image]]
) -> None:
    shown = composed[name][picture]
    assert shown.size == (SIDE, SIDE)
    left, top, right, bottom = _product(composed[name]["placeholder"])
    across, down = right - left, bottom - top
    assert _near(shown.getpixel((left + across * 2 // 3, top + down // 4)), RED)
    assert _near(shown.getpixel((left + across * 2 // 3, bottom - down // 4)), BLUE)
    assert _near(shown.getpixel((left + across // 8 + 1, top + down // 4)), DARK)


@pytest.mark.parametrize("name", [*COLOURED, *GREY])
def test_the_product_keeps_its_proportions(name: str, composed: dict[str, dict[str, Image.Image]]) -> None:
    left, top, right, bottom = _product(composed[name]["placeholder"])
    assert abs((right - left) - (bottom - top) * 61 / 121) < 2.5


@pytest.mark.parametrize("name", [*COLOURED, *GREY])
def test_the_original_is_upright_and_fits_the_requested_size(
    name: str, composed: dict[str, dict[str, Image.Image]]
) -> None:
    original = composed[name]["original"]
    assert max(original.size) == SIDE
    assert original.height > original.width


def test_the_original_of_a_long_photo_keeps_enough_pixels(tmp_path: Path) -> None:
    """Every later stage refuses a picture whose shorter side has fewer than 32."""
    (tmp_path / "products").mkdir()
    long = Image.new("RGBA", (1400, 200))
    long.paste(two_halves(), (600, 40))
    long.save(tmp_path / "products" / "long.png")
    references, out = make_references(tmp_path / "references"), tmp_path / "out"
    assert compose(tmp_path / "products", references, out, "--size", "192") == 0
    (sample,) = read_any_samples(out)
    for file in sample.files:
        accept((out / file).read_bytes())
    with Image.open(out / sample.original.file) as original:
        assert original.size == (224, 32)


@pytest.mark.parametrize("name", GREY)
def test_a_grey_photo_stays_grey(name: str, composed: dict[str, dict[str, Image.Image]]) -> None:
    pixels = np.asarray(composed[name]["placeholder"], np.int16)
    assert np.ptp(pixels, axis=2).max() <= 2
