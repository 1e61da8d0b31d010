"""Defects of products in photos: where they change the picture, how much, and what is written about them."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from screening.task import Dimension
from tests.trainer.data.compose.photos import cutout
from trainer.data.compose.cutout import checked
from trainer.data.render.cutouts import CutOut
from trainer.data.render.defect_kinds import KINDS
from trainer.data.render.photo_kinds import PHOTO_KINDS, unsuitable
from trainer.data.render.picture import Shot, draw_generated
from trainer.data.render.regions import box_of
from trainer.data.render.scenes import real_setting

SIDE = 192
SEED = 2
"""With this seed the product stands in the middle of the picture."""
FITTING = [name for name, kind in KINDS.items() if name in PHOTO_KINDS or name in (
    "slim", "wide", "mirrored", "doubled", "missing", "too_long", "floating", "sunk", "leaning", "fruit", "ball",
    "second_product", "handle", "spout", "sticker", "sparkles",
)]  # fmt: skip
INSIDE = {
    "all_colours", "part_colour", "part_doubled", "details_blurred", "details_garbled", "details_erased",
    "details_mirrored",
}  # fmt: skip
OUTSIDE = {"mirrored", "doubled", "missing", "too_long", "detached", "hard"}


@cache
def _product() -> CutOut:
    cut = checked(cutout(3, 320))
    return CutOut("a", {}, cut.picture, cut.picture.convert("RGB"))


def _plain(picture: Image.Image) -> CutOut:
    return CutOut("plain", {}, picture, picture.convert("RGB"))


def _shot(name: str | None, severity: int = 0, ground: tuple[int, int, int] = (150, 150, 150)) -> Shot:
    setting = real_setting("grey", Image.new("RGB", (SIDE, SIDE), ground))
    plan = [(name, severity)] if name else []
    return draw_generated(_product(), np.random.default_rng(SEED), SIDE, plan, setting=setting)


def _pixels(shot: Shot) -> NDArray[np.float32]:
    return np.asarray(shot.image, np.float32)


@cache
def _mask() -> NDArray[np.bool_]:
    """The product's pixels: those that do not depend on the ground."""
    one, other = (_pixels(_shot(None, ground=ground)) for ground in ((150, 150, 150), (90, 190, 90)))
    return np.asarray(np.abs(one - other).max(2) < 3)


@cache
def _changes(name: str) -> list[NDArray[np.float32]]:
    """For each severity, the mean difference of each pixel from the same picture without the defect."""
    plain = _pixels(_shot(None))
    return [np.abs(_pixels(_shot(name, severity)) - plain).mean(2) for severity in KINDS[name].severities]


def test_every_dimension_has_each_severity() -> None:
    for dimension in Dimension:
        kinds = [KINDS[name] for name in FITTING if KINDS[name].dimension is dimension]
        assert {severity for kind in kinds for severity in kind.severities} == {1, 2, 3}


@pytest.mark.parametrize("name", FITTING)
def test_the_severity_orders_the_change_and_a_subtle_one_can_be_seen(name: str) -> None:
    visible = [int(np.count_nonzero(change > 12)) for change in _changes(name)]
    assert visible == sorted(set(visible))
    assert visible[0] > 0.003 * SIDE * SIDE


@pytest.mark.parametrize("name", sorted(INSIDE))
def test_a_defect_of_the_surface_changes_only_the_product(name: str) -> None:
    for change in _changes(name):
        assert change[~_mask()].sum() < 0.04 * change.sum()


@pytest.mark.parametrize("name", sorted(OUTSIDE))
def test_a_defect_of_the_shadow_changes_only_the_ground(name: str) -> None:
    for change in _changes(name):
        assert change[_mask()].sum() < 0.04 * change.sum()


@pytest.mark.parametrize("name", sorted(set(FITTING) - INSIDE - OUTSIDE))
def test_a_defect_of_shape_place_or_extension_changes_the_silhouette(name: str) -> None:
    for change in _changes(name):
        assert change[~_mask()].sum() > 0.05 * change.sum()


@pytest.mark.parametrize("name", FITTING)
def test_the_label_says_what_was_planted(name: str) -> None:
    for severity in KINDS[name].severities:
        shot = _shot(name, severity)
        (defect,) = shot.defects
        assert (defect.kind, defect.severity, defect.dimension) == (name, severity, KINDS[name].dimension)
        assert defect.comment == KINDS[name].comment
        assert not shot.usable
        assert not set(defect.comment) & set(",:<>")
        assert len(defect.comment.split()) <= 8


def test_normal_pictures_differ_in_place_and_light() -> None:
    setting = real_setting("grey", Image.new("RGB", (SIDE, SIDE), (150, 150, 150)))
    shots = [draw_generated(_product(), np.random.default_rng(seed), SIDE, setting=setting) for seed in range(4)]
    assert all(shot.usable for shot in shots)
    for index, one in enumerate(shots):
        for other in shots[index + 1 :]:
            assert np.abs(_pixels(one) - _pixels(other)).mean() > 2


def test_a_plain_product_gets_other_defects() -> None:
    square = Image.new("RGBA", (120, 160))
    ImageDraw.Draw(square).rounded_rectangle((0, 0, 119, 159), 12, fill=(150, 60, 60, 255))
    product = _plain(square)
    left_out = unsuitable(product)
    assert {"details_blurred", "details_garbled", "details_mirrored", "part_doubled"} <= set(left_out)
    assert unsuitable(_product()) == []
    for seed in range(12):
        plan = [(Dimension.APPEARANCE, 1 + seed % 3)]
        (defect,) = draw_generated(product, np.random.default_rng(seed), 96, plan, setting="table").defects
        assert defect.kind not in left_out
    with pytest.raises(ValueError, match="no details_blurred defect of severity 1 fits"):
        draw_generated(product, np.random.default_rng(0), 96, [("details_blurred", 1)], setting="table")


@pytest.mark.parametrize("name", ["grown", "continued", "attached", "part_missing", "bent"])
def test_a_product_that_is_cut_off_shows_both_defects(name: str) -> None:
    """The edge of the picture cuts off the side that the other defect did not change."""
    for seed in range(4):
        for severities in ((1, 3), (3, 1)):
            plan = list(zip(("cut_off", name), severities, strict=True))
            shot = draw_generated(_product(), np.random.default_rng(seed), 96, plan, setting="table")
            assert shot.composition is not None
            product, other = (box_of(defect, shot.composition) for defect in shot.defects)
            assert product is not None and other is not None
            assert product.left == 0 or product.right == 1


def test_stripes_across_the_product_are_not_mirrored() -> None:
    """They would look as before, although the label says that they are mirrored."""
    striped = Image.new("RGBA", (120, 160), (230, 200, 60, 255))
    for row in range(0, 160, 8):
        striped.paste((20, 20, 20, 255), (0, row, 120, row + 4))
    left_out = unsuitable(_plain(striped))
    assert "details_mirrored" in left_out
    assert "details_blurred" not in left_out


def test_a_very_wide_product_floats_visibly() -> None:
    """It is low in the picture, and a small share of its height would be less than a pixel."""
    product = _plain(Image.new("RGBA", (640, 80), (200, 30, 30, 255)))

    def base(seed: int, plan: list[tuple[str, int]]) -> int:
        pixels = _pixels(draw_generated(product, np.random.default_rng(seed), SIDE, plan, setting="studio"))
        return int(np.flatnonzero((pixels[..., 0] - pixels[..., 1] > 80).any(1))[-1])

    assert all(base(seed, []) - base(seed, [("floating", 1)]) >= 0.01 * SIDE for seed in range(5))


def test_a_wide_product_stays_inside_the_frame() -> None:
    product = _plain(Image.new("RGBA", (580, 160), (200, 30, 30, 255)))
    for seed in range(5):
        shot = draw_generated(product, np.random.default_rng(seed), 96, setting="studio")
        pixels = _pixels(shot)
        red = (pixels[..., 0] - pixels[..., 1] > 80).any(0)
        assert red.any()
        assert not red[0]
        assert not red[-1]


def _drawn_shape(size: tuple[int, int], box: tuple[int, int, int, int], opacity: int) -> Image.Image:
    picture = Image.new("RGBA", size)
    draw = ImageDraw.Draw(picture)
    draw.rectangle((0, 0, size[0] - 1, size[1] - 1), fill=(40, 120, 160, opacity))
    draw.rectangle(box, fill=(0, 0, 0, 0))
    return picture


@pytest.mark.slow
@pytest.mark.parametrize(
    "picture",
    [
        _drawn_shape((16, 400), (0, 0, 3, 30), 255),
        _drawn_shape((400, 60), (0, 0, 30, 20), 255),
        _drawn_shape((160, 160), (40, 40, 120, 120), 255),
        _drawn_shape((120, 200), (0, 0, 30, 30), 140),
    ],
    ids=["thin", "wide", "ring", "glass"],
)
def test_unusual_shapes_take_every_defect_that_fits(picture: Image.Image) -> None:
    product, left_out = _plain(picture), unsuitable(_plain(picture))
    for name in set(FITTING) - set(left_out):
        for severity in KINDS[name].severities:
            shot = draw_generated(product, np.random.default_rng(4), 64, [(name, severity)], setting="concrete")
            assert shot.image.size == (64, 64)
