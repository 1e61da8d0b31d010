"""The domain shift of experiments: every picture of a data directory gets other light, contrast and noise."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.trainer.coloured import make_data
from trainer.__main__ import main
from trainer.data_directory import read_samples
from trainer.research.shift import Shift, shifted, write_shifted

GREY = Image.new("RGB", (40, 40), (100, 100, 100))


def test_without_a_treatment_the_pixels_stay() -> None:
    picture = Image.effect_noise((32, 32), 50).convert("RGB")
    assert shifted(picture, Shift(), "a").tobytes() == picture.tobytes()


def test_light_contrast_and_noise_change_what_they_name() -> None:
    assert shifted(GREY, Shift(warmth=0.2), "a").getpixel((0, 0)) == (120, 100, 80)
    assert shifted(GREY, Shift(contrast=0.5), "a").getpixel((0, 0)) == (114, 114, 114)
    noisy = np.asarray(shifted(GREY, Shift(noise=10), "a"), float)
    assert noisy.std() == pytest.approx(10, rel=0.1)
    assert noisy.mean() == pytest.approx(100, abs=1)


def test_each_picture_has_its_own_noise_which_follows_from_the_seed() -> None:
    first, again = (shifted(GREY, Shift(noise=10), "a").tobytes() for _ in range(2))
    assert first == again
    assert first != shifted(GREY, Shift(noise=10), "b").tobytes()
    assert first != shifted(GREY, Shift(noise=10, seed=1), "a").tobytes()


def test_the_samples_stay_the_same(tmp_path: Path) -> None:
    data, out = make_data(tmp_path / "data"), tmp_path / "out"
    assert main(["shift", "--data", str(data), "--out", str(out), "--warmth", "0.1", "--blur", "4"]) == 0
    assert read_samples(out) == read_samples(data)
    assert json.loads((out / "shift.json").read_text()) == {
        "warmth": 0.1,
        "contrast": 1.0,
        "blur": 4.0,
        "noise": 0.0,
        "seed": 0,
    }
    file = read_samples(out)[3].files[1]
    assert (out / file).read_bytes() != (data / file).read_bytes()


def test_an_existing_directory_is_not_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = make_data(tmp_path / "data", ("A",))
    assert write_shifted(data, tmp_path / "out", Shift()) == 1
    assert main(["shift", "--data", str(data), "--out", str(tmp_path / "out")]) == 2
    assert "exists already; name a new --out" in capsys.readouterr().err
