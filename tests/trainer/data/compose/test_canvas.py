"""Layouts, masks and canvases, compared with an independent computation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from trainer.data.compose.canvas import Canvas, make_canvas
from trainer.data.compose.layout import LAYOUTS, choose_layout, place

SIDES = st.integers(16, 400)
SEEDS = st.integers(0, 2**63 - 1)


@given(width=SIDES, height=SIDES, layout=st.sampled_from(LAYOUTS), side=st.integers(64, 1024), seed=SEEDS)
def test_a_product_stays_on_the_canvas_with_its_proportions(
    width: int, height: int, layout: str, side: int, seed: int
) -> None:
    at = place((width, height), layout, side, seed)
    assert at.left >= 0 and at.left + at.width <= side
    assert at.top >= 0 and at.top + at.height <= 0.9 * side
    scale = max(at.width / width, at.height / height)
    assert abs(at.width - width * scale) <= 1
    assert abs(at.height - height * scale) <= 1


@given(seed=SEEDS)
def test_left_right_leaves_one_half_free(seed: int) -> None:
    at = place((100, 200), "left-right", 200, seed)
    assert at.left + at.width <= 108 or at.left >= 92


def test_left_right_takes_both_sides_and_auto_takes_both_layouts() -> None:
    middles = [place((100, 200), "left-right", 200, seed).left + 20 for seed in range(30)]
    assert min(middles) < 100 < max(middles)
    assert {choose_layout((100, 200), "auto", seed) for seed in range(30)} == set(LAYOUTS)
    assert {choose_layout((300, 200), "auto", seed) for seed in range(30)} == {"top-bottom"}
    assert choose_layout((300, 200), "left-right", 0) == "left-right"


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("seed", [0, 1, 2, 3])
def test_the_mask_is_black_on_the_left_and_white_except_over_the_product(layout: str, seed: int) -> None:
    side, product = 128, Image.new("RGBA", (60, 90), (200, 30, 30, 255))
    at = place(product.size, layout, side, seed)
    canvas = make_canvas(product, at, Image.new("RGB", (300, 200), (90, 90, 90)), side)
    expected = [
        [
            255
            if x >= side and not (at.left <= x - side < at.left + at.width and at.top <= y < at.top + at.height)
            else 0
            for x in range(2 * side)
        ]
        for y in range(side)
    ]
    assert canvas.mask.mode == "L"
    assert np.array_equal(np.asarray(canvas.mask), expected)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_mask_follows_curves_and_holes(layout: str) -> None:
    side, product = 160, Image.new("RGBA", (160, 160))
    draw = ImageDraw.Draw(product)
    draw.ellipse((0, 0, 159, 159), fill=(20, 90, 160, 255))
    draw.ellipse((50, 50, 109, 109), fill=(0, 0, 0, 0))
    at = place(product.size, layout, side, 3)
    canvas = make_canvas(product, at, Image.new("RGB", (8, 8)), side)
    y, x = np.mgrid[0:side, 0:side]
    # The distance of each pixel from the centre of the ring, in pixels of the original drawing.
    away = np.hypot((x + 0.5 - at.left) * 160 / at.width - 80, (y + 0.5 - at.top) * 160 / at.height - 80)
    hole = np.asarray(canvas.hole)
    assert set(np.unique(hole)) == {0, 255}
    assert (hole[(away < 78) & (away > 32)] == 0).all()
    assert (hole[(away > 82) | (away < 28)] == 255).all()


def test_the_initial_picture_is_the_reference_beside_the_product_on_white() -> None:
    layer = Image.new("RGBA", (32, 32))
    layer.paste((10, 200, 30, 255), (8, 8, 24, 30))
    layer.putpixel((7, 10), (10, 200, 30, 127))  # soft edges are not kept
    canvas = Canvas(layer, Image.new("RGB", (32, 32), (1, 2, 3)))
    initial = np.asarray(canvas.initial)
    assert initial.shape == (32, 64, 3)
    assert (initial[:, :32] == (1, 2, 3)).all()
    right = np.full((32, 32, 3), 255)
    right[8:30, 8:24] = (10, 200, 30)
    assert np.array_equal(initial[:, 32:], right)


def test_a_reference_of_another_shape_is_cropped_and_not_squashed() -> None:
    wide = Image.new("RGB", (400, 100), (255, 255, 255))
    ImageDraw.Draw(wide).ellipse((180, 30, 219, 69), fill=(0, 0, 0))
    canvas = make_canvas(Image.new("RGBA", (20, 20), (9, 9, 9, 255)), place((20, 20), "top-bottom", 100, 0), wide, 100)
    box = canvas.reference.convert("L").point(lambda value: 255 if value < 128 else 0).getbbox()
    assert box is not None
    assert abs((box[2] - box[0]) - (box[3] - box[1])) <= 1
    assert abs((box[2] - box[0]) - 40) <= 1
