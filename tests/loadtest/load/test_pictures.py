"""Pictures are real JPEGs, new to every cache, and the same for the same seed."""

from __future__ import annotations

import io
from itertools import islice

import numpy as np
import pytest
from PIL import Image

from loadtest.load.pictures import SIZES, Photo, Pictures

pytestmark = pytest.mark.slow

SMALL = [(160, 128), (128, 160)]


def taken(count: int, **fields):
    return list(islice(Pictures(products=2, sizes=SMALL, **fields).questions(), count))


def pixels(data: bytes, size: tuple[int, int] | None = None) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as picture:
        picture.load()
        return np.asarray(picture.resize(size) if size else picture).astype(int)


def test_no_two_generated_pictures_are_the_same_even_when_made_small() -> None:
    seen = [pixels(data, (64, 64)).tobytes() for question in taken(40) for data in question.generated]
    assert len(set(seen)) == len(seen) == 160


def test_a_variant_is_the_picture_with_a_tint_on_its_first_rows() -> None:
    rng = np.random.default_rng(0)
    photo = Photo(rng.integers(0, 240, (128, 96, 3), dtype=np.uint8))
    first, other = pixels(photo.variant(0)), pixels(photo.variant(photo.variants - 1))
    assert first.shape == other.shape == (128, 96, 3)
    # The decoder smooths colours across rows of blocks: one pixel beyond the third row may differ.
    assert (first[50:] == other[50:]).all()
    difference = (other - first)[:46].mean(axis=(0, 1))
    assert difference[0] > 8 and difference[2] > 8


def test_every_variant_differs_and_is_read_without_complaint() -> None:
    photo = Photo(np.full((48, 32, 3), 90, np.uint8))
    assert len({pixels(photo.variant(number)).tobytes() for number in range(photo.variants)}) == photo.variants


@pytest.mark.parametrize(("share", "least", "most"), [(0.0, 0, 0), (0.5, 70, 130), (1.0, 198, 198)])
def test_originals_are_repeated_as_often_as_asked(share, least, most) -> None:
    questions = taken(200, repeated_originals=share)
    assert least <= sum(question.repeated for question in questions) <= most
    known = set()
    for question in questions:
        assert (question.original in known) == question.repeated
        known.add(question.original)


def test_questions_follow_from_the_seed() -> None:
    first, again, other = (taken(3, seed=seed) for seed in (1, 1, 2))
    assert first == again != other


def test_default_sizes_are_those_of_photos() -> None:
    (question,) = islice(Pictures(products=1).questions(), 1)
    with Image.open(io.BytesIO(question.original)) as picture:
        assert (picture.format, picture.size) == ("JPEG", SIZES[0])
    assert 60_000 < len(question.original) < 600_000
    assert all(800 <= side <= 1600 for size in SIZES for side in size)
