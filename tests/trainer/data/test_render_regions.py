"""Boxes of planted defects: they lie where a picture changes when the same scene is drawn without its defect."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from screening.boxes import Box
from screening.task import Dimension
from trainer.data.render.composition import Composition, compose_scene
from trainer.data.render.cutouts import CutOut
from trainer.data.render.dataset import Order, write_dataset
from trainer.data.render.defect_kinds import KINDS
from trainer.data.render.defects import apply_plan
from trainer.data.render.light import Light
from trainer.data.render.photo_kinds import PHOTO_KINDS
from trainer.data.render.picture import draw_generated
from trainer.data.render.products import make_product
from trainer.data.render.regions import box_of
from trainer.data.render.scenes import SETTINGS
from trainer.data.render.staging import Defect, Staging
from trainer.data_directory import read_samples

SIDE = 96
LIGHT = Light(-1)
DRAWN = [name for name in KINDS if name not in PHOTO_KINDS]


def _planned(name: str) -> tuple[Defect, Staging, Staging]:
    """A gross defect of a kind, the plan with it, and the plan of the same scene without it."""
    for seed in range(200):
        product = make_product(np.random.default_rng(seed))
        clean = Staging(product, product.look, LIGHT, LIGHT, [(LIGHT, 1.0)], staged=name == "overhang")
        staging = replace(clean, items=[])
        if KINDS[name].fits(staging):
            (defect,) = apply_plan(staging, [(name, 3)], np.random.default_rng(seed))
            # A wrong shadow is compared with none: the right one falls elsewhere.
            shadows = [] if name in ("mirrored", "doubled", "direction", "too_long") else clean.shadows
            return defect, staging, replace(clean, shadows=shadows, show_reference=staging.show_reference)
    raise AssertionError(f"no product allows {name}")


def _drawn(staging: Staging) -> Composition:
    scene = SETTINGS["podium" if staging.staged else "concrete"]
    return compose_scene(staging, scene, 0, np.random.default_rng(5), SIDE)


def _change(one: Image.Image, other: Image.Image) -> NDArray[np.float32]:
    """How much each pixel differs, without noise."""
    apart = np.abs(np.asarray(one, np.float32) - np.asarray(other, np.float32)).max(2)
    return np.where(apart > 24, apart, 0)


def _share_inside(change: NDArray[np.float32], box: Box, margin: int = 2) -> float:
    left, top, right, bottom = (round(edge * SIDE) for edge in box)
    inside = change[max(0, top - margin) : bottom + margin, max(0, left - margin) : right + margin]
    return float(inside.sum() / change.sum())


@pytest.mark.parametrize("name", [name for name in DRAWN if KINDS[name].dimension is not Dimension.LAYOUT])
def test_the_picture_changes_inside_the_box(name: str) -> None:
    defect, staging, clean = _planned(name)
    picture = _drawn(staging)
    box = box_of(defect, picture)
    assert box is not None and box.valid
    change = _change(picture.image, _drawn(clean).image)
    # An added object and a changed outline also cast another shadow, which the region leaves out.
    assert _share_inside(change, box) > 0.6
    if defect.changed != "width" and name not in ("sparkles", "wrong_side"):
        rows, columns = np.flatnonzero(change.any(1)), np.flatnonzero(change.any(0))
        seen = (columns[-1] - columns[0] + 3) * (rows[-1] - rows[0] + 3) / SIDE**2
        assert box.area < 1.5 * seen, "the box is not much larger than what changed"


@pytest.mark.parametrize("name", [name for name in DRAWN if KINDS[name].dimension is Dimension.LAYOUT])
def test_the_region_of_a_wrong_placement_is_the_product(name: str) -> None:
    defect, staging, _ = _planned(name)
    picture = _drawn(staging)
    box = box_of(defect, picture)
    assert box is not None
    wide, high = (round((high - low) * SIDE) for low, high in ((box.left, box.right), (box.top, box.bottom)))
    outline = picture.figure.getchannel("A").point(lambda value: 255 if value >= 124 else 0).getbbox()
    assert outline is not None
    assert (wide, high) == (outline[2] - outline[0], outline[3] - outline[1])


@pytest.fixture(scope="module")
def photo() -> CutOut:
    """A box, cut out of a photo, with stripes at the left of its label and a block at the right."""
    pixels = np.zeros((80, 60, 4), np.uint8)
    pixels[..., :3], pixels[..., 3] = (200, 170, 60), 255
    pixels[30:50, 15:32:3, :3] = (20, 30, 90)
    pixels[30:50, 33:45, :3] = (150, 20, 20)
    picture = Image.fromarray(pixels)
    return CutOut("box", {}, picture, picture.convert("RGB"))


@pytest.mark.parametrize("name", [*PHOTO_KINDS, "missing", "ball", "handle"])
def test_the_box_of_a_defect_in_a_photograph_lies_where_the_picture_changes(photo: CutOut, name: str) -> None:
    assert KINDS[name].fits(Staging(photo, photo.look, LIGHT, LIGHT, [(LIGHT, 1.0)]))
    # Photographs have a stream of their own for defects, so the same seed draws the same scene without the defect.
    plan = [(name, 3)]
    shot, clean = (draw_generated(photo, np.random.default_rng(3), SIDE, p, setting="table") for p in (plan, []))
    assert shot.composition is not None
    box = box_of(shot.defects[0], shot.composition)
    assert box is not None and box.valid
    if KINDS[name].dimension is Dimension.APPEARANCE:
        assert _share_inside(_change(shot.image, clean.image), box) > 0.6


def test_records_carry_the_boxes_and_samples_read_them(tmp_path: Path) -> None:
    write_dataset(Order(4, 8, 64, (0.2, 0.4, 0.4)), tmp_path / "d")
    lines = [json.loads(line) for line in (tmp_path / "d" / "samples.jsonl").read_text().splitlines()]
    boxes = [defect["box"] for line in lines for picture in line["generated"] for defect in picture["defects"]]
    assert boxes and all(Box(*box).valid for box in boxes)
    for sample in read_samples(tmp_path / "d"):
        for picture in sample.generated:
            assert all(picture.box_of(dimension) for dimension in picture.dimensions)
