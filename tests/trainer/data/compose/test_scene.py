"""The stand-in `scene`: shadow where the product stands, no halo, no change of the product; and the measurements."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter

from tests.trainer.data.compose.photos import photographed
from trainer.data.compose.canvas import Canvas, make_canvas
from trainer.data.compose.cutout import checked
from trainer.data.compose.inpainters.scene import Scene
from trainer.data.compose.layout import place
from trainer.data.compose.measure import measure
from trainer.data.compose.model_options import ModelOptions
from trainer.data.compose.segmenters.backdrop import Backdrop

SIDE = 240
GREY = Image.new("RGB", (SIDE, SIDE), (170, 170, 170))


def _layer(*boxes: tuple[int, int, int, int]) -> Image.Image:
    layer = Image.new("RGBA", (SIDE, SIDE))
    for box in boxes:
        ImageDraw.Draw(layer).rectangle(box, fill=(120, 30, 40, 255))
    return layer


def _brightness(picture: Image.Image, box: tuple[int, int, int, int]) -> float:
    return float(np.asarray(picture.crop(box).convert("L")).mean())


@pytest.mark.parametrize("seed", range(6))
def test_the_product_is_unchanged_and_stands_on_its_shadow(seed: int) -> None:
    canvas = Canvas(_layer((90, 60, 150, 200)), GREY)
    picture = Scene(ModelOptions()).paint(canvas, seed)
    measures = measure(picture, canvas)
    assert (measures.change_inside, measures.largest_change_inside) == (0, 0)
    far = _brightness(picture, (5, 5, 60, 40))
    assert _brightness(picture, (95, 201, 145, 203)) < 0.7 * far
    assert _brightness(picture, (90, 232, 150, 240)) > 0.85 * far


def test_the_ground_between_two_feet_is_lighter_than_under_them() -> None:
    canvas = Canvas(_layer((60, 60, 180, 160), (60, 160, 80, 200), (160, 160, 180, 200)), GREY)
    picture = Scene(ModelOptions()).paint(canvas, 1)
    foot, middle = _brightness(picture, (62, 201, 78, 203)), _brightness(picture, (112, 201, 128, 203))
    assert foot < 0.8 * middle


@pytest.mark.parametrize("paper", [(245, 245, 245), (120, 120, 124)])
def test_a_product_from_plain_paper_brings_no_halo(paper: tuple[int, int, int]) -> None:
    product = Image.new("RGB", (161, 201), (40, 70, 60))
    photo = photographed(product, (341, 361))
    dark = Image.composite(
        photo, Image.new("RGB", photo.size, paper), photo.convert("L").point(lambda v: 255 * (v < 99))
    )
    cut = checked(Backdrop().cut(dark.filter(ImageFilter.GaussianBlur(1.2))))
    at = place(cut.picture.size, "top-bottom", SIDE, 0)
    canvas = make_canvas(cut.picture, at, Image.new("RGB", (SIDE, SIDE), (60, 60, 62)), SIDE)
    for seed in range(4):
        assert abs(measure(Scene(ModelOptions()).paint(canvas, seed), canvas).halo) < 3


def test_a_white_fringe_is_measured_as_a_halo() -> None:
    canvas = Canvas(_layer((90, 60, 150, 200)), GREY)
    picture = Image.new("RGB", (SIDE, SIDE), (90, 90, 90))
    ImageDraw.Draw(picture).rectangle((88, 58, 152, 202), fill=(255, 255, 255))
    picture.paste(canvas.layer, (0, 0), canvas.layer)
    assert measure(picture, canvas).halo > 20


def test_the_reference_gives_the_scene() -> None:
    canvas = Canvas(_layer((90, 60, 150, 200)), Image.new("RGB", (SIDE, SIDE), (20, 90, 160)))
    red, green, blue = np.asarray(Scene(ModelOptions()).paint(canvas, 0), float)[:40, :40].mean((0, 1))
    assert red < green < blue
