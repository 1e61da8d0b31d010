from __future__ import annotations

from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from transformers.models.got_ocr2.image_processing_got_ocr2 import GotOcr2ImageProcessor

from screening.boxes import Box
from screening.checkpoint.manifest import ImageContract
from screening.checkpoint.probes import probe_pictures
from screening.images import PADDING, decode, fit_square, inspect
from screening.inference.pictures import canvas, largest_canvas, load_prepared, prepare

SIZE = 64
SQUARE = ImageContract(size=SIZE, tokens_per_picture=4)
TILED = ImageContract(size=SIZE, tokens_per_picture=4, max_patches=4)


def encoded(width: int, height: int, **options: object) -> bytes:
    pixels = np.random.default_rng(width).integers(0, 256, (height, width, 3), dtype=np.uint8)
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", **options)
    return buffer.getvalue()


def cut(picture: Image.Image) -> torch.Tensor:
    """The tiles that InternVL's processor makes of a prepared picture, as values from 0 to 255."""
    processor = GotOcr2ImageProcessor(
        size={"height": SIZE, "width": SIZE}, crop_to_patches=True, max_patches=4, do_rescale=False, do_normalize=False
    )
    return processor([picture], return_tensors="pt")["pixel_values"]


@pytest.mark.parametrize("size", [(300, 200), (40, 300), (64, 64), (50, 50)])
def test_without_tiles_a_picture_becomes_the_same_square_as_ever(size: tuple[int, int]) -> None:
    picture = inspect(encoded(*size))
    assert prepare(picture, SQUARE).image.tobytes() == fit_square(decode(picture, shrink_to=SIZE), SIZE).tobytes()


@pytest.mark.parametrize(
    ("size", "grid"),
    [
        ((640, 640), (2, 2)),
        ((100, 100), (2, 2)),
        ((80, 80), (1, 1)),  # four tiles would have more than twice its pixels
        ((640, 480), (2, 2)),
        ((640, 360), (2, 1)),
        ((360, 640), (1, 2)),
        ((640, 200), (3, 1)),
        ((200, 1600), (1, 4)),
    ],
)
def test_a_picture_is_padded_to_a_grid_that_the_processor_cuts_without_stretching(
    size: tuple[int, int], grid: tuple[int, int]
) -> None:
    prepared = load_prepared(encoded(*size), TILED)
    columns, rows = grid
    assert prepared.size == (columns * SIZE, rows * SIZE) == canvas(*size, TILED)
    tiles, pixels = cut(prepared), torch.from_numpy(np.asarray(prepared).copy()).permute(2, 0, 1)
    assert len(tiles) == columns * rows + (columns * rows > 1)
    whole = torch.cat([torch.cat(list(tiles[row * columns :][:columns]), 2) for row in range(rows)], 1)
    assert torch.equal(whole, pixels.to(whole.dtype))


def test_the_padding_is_grey_and_the_picture_keeps_its_shape() -> None:
    pixels = np.asarray(load_prepared(encoded(640, 480), TILED))
    assert (pixels[:16] == PADDING).all()
    assert (pixels[-16:] == PADDING).all()
    assert not (pixels[16:-16] == PADDING).all(axis=(1, 2)).any()


def test_a_turned_picture_gets_the_grid_of_its_upright_form() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    assert load_prepared(encoded(1600, 300, exif=exif), TILED).size == (SIZE, 4 * SIZE)


@pytest.mark.parametrize("image", [SQUARE, TILED], ids=["one tile", "four tiles"])
@pytest.mark.parametrize("size", [(640, 640), (640, 80), (80, 640), (640, 480)])
@pytest.mark.parametrize("orientation, mark", [(1, (0.1, 0.2, 0.4, 0.6)), (6, (0.4, 0.1, 0.8, 0.4))])
def test_a_place_on_the_canvas_is_found_on_the_upright_picture(
    image: ImageContract, size: tuple[int, int], orientation: int, mark: tuple[float, ...]
) -> None:
    stored = Image.new("RGB", size, "white")
    corners = (0.1 * size[0], 0.2 * size[1], 0.4 * size[0] - 1, 0.6 * size[1] - 1)
    ImageDraw.Draw(stored).rectangle(corners, fill="black")
    exif, buffer = Image.Exif(), BytesIO()
    exif[0x0112] = orientation  # 6: browsers turn it clockwise, so its left edge is on top and its bottom on the left
    stored.save(buffer, "PNG", exif=exif)
    prepared = prepare(inspect(buffer.getvalue()), image)
    dark = prepared.image.convert("L").point(lambda value: 255 if value < PADDING[0] // 2 else 0)
    place, (wide, high) = dark.getbbox(), prepared.image.size
    assert place is not None
    left, top, right, bottom = place
    found = prepared.frame.on_picture(Box(left / wide, top / high, right / wide, bottom / high))
    assert found == pytest.approx(mark, abs=0.07)  # half a pixel of a picture that is 8 pixels high


@pytest.mark.parametrize("tiles", [1, 2, 3, 4])
def test_every_probe_picture_has_as_many_tiles_as_possible(tiles: int) -> None:
    image = ImageContract(size=SIZE, tokens_per_picture=4, max_patches=tiles)
    pictures = probe_pictures(0, SIZE, tiles)
    assert {picture.width * picture.height for picture in pictures} == {tiles * SIZE * SIZE}
    assert all(canvas(*picture.size, image) == picture.size for picture in pictures)
    assert largest_canvas(image) in {picture.size for picture in pictures}
