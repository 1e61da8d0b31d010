"""The benchmark's questions: no product twice, drawn once and kept."""

from __future__ import annotations

import argparse
import io
from itertools import islice

import pytest
from PIL import Image

from loadtest.load.rendered import NotRendered, questions, rendered

pytestmark = pytest.mark.slow


def test_questions_are_all_different_drawn_once_and_kept(tmp_path) -> None:
    args = argparse.Namespace(picture_size=96, seed=3, questions=tmp_path)
    directory = rendered(args, 3)
    drawn = (directory / "render.json").stat().st_mtime_ns
    assert rendered(args, 3) == directory and (directory / "render.json").stat().st_mtime_ns == drawn
    asked = list(questions(directory))
    pictures = [picture for question in asked for picture in (question.original, *question.generated)]
    assert len(asked) == 3 and len(set(pictures)) == 15
    assert {Image.open(io.BytesIO(picture)).size for picture in pictures} == {(96, 96)}
    assert [question.original for question in islice(questions(directory), 2)] == [q.original for q in asked[:2]]


def test_a_directory_of_something_else_is_not_touched(tmp_path) -> None:
    other = tmp_path / "96px-3-seed-3"
    other.mkdir()
    (other / "mine").touch()
    with pytest.raises(NotRendered, match="96px-3-seed-3"):
        rendered(argparse.Namespace(picture_size=96, seed=3, questions=tmp_path), 3)
    assert list(other.iterdir()) == [other / "mine"]
