"""The validation part of a division: made of training products, by product, without a change to the other parts."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.trainer.data.split_data import ids, many, record, report, split, tree, unlabelled, where, write
from trainer.data.split.held_out import frozen_beside, read_items, repeated_test_samples

pytestmark = pytest.mark.slow


def test_validation_takes_whole_products_from_training_and_from_no_other_part(tmp_path: Path) -> None:
    data = write(tmp_path / "data", *many(0, 40))
    assert split(tmp_path / "without", data) == split(tmp_path / "with", data, validation="0.5") == 0
    before, after = where(tmp_path / "without"), where(tmp_path / "with")
    moved = {name for name in before if before[name] != after[name]}
    assert moved and moved == ids(tmp_path / "with", "validation")
    assert {before[name] for name in moved} == {"training"}
    products = {name: {one.rpartition("-")[0] for one in ids(tmp_path / "with", name)} for name in set(after.values())}
    assert len(products["training"]) + len(products["validation"]) == len(products["training"] | products["validation"])
    assert report(tmp_path / "with")["frozen"] == report(tmp_path / "without")["frozen"]
    assert report(tmp_path / "with")["splits"]["validation"]["samples"] == len(moved)


def test_without_the_option_a_division_has_no_validation_part_and_earlier_divisions_stay_valid(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, out = write(tmp_path / "data", *many(0, 12)), tmp_path / "out"
    assert split(out, data) == 0
    assert not (out / "validation").exists()
    assert "validation" not in (out / "split.json").read_text() + (out / "run.json").read_text()
    before = tree(out)
    assert split(out, data, validation="0.5") == 2
    assert "other settings" in capsys.readouterr().err
    assert tree(out) == before


def test_later_data_follow_their_products_into_validation(tmp_path: Path) -> None:
    data, out = write(tmp_path / "data", *many(0, 30)), tmp_path / "out"
    assert split(out, data, validation="0.5") == 0
    name = sorted(ids(out, "validation"))[0]
    product = f"p{name[1:].partition('-')[0]}"
    late = write(tmp_path / "late", record("late", product), unlabelled("open", product))
    assert split(out, data, late, validation="0.5") == 0
    assert "late" in ids(out, "validation")
    assert report(out)["left_out"] == ["open"], "a training on it would leak into the validation"


@pytest.mark.parametrize("part", ["1", "-0.1", "half"])
def test_a_part_that_leaves_no_training_data_is_refused(
    part: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        split(tmp_path / "out", tmp_path, validation=part)
    assert f"'{part}' must be a number of at least 0 and below 1" in capsys.readouterr().err


def test_samples_of_the_test_set_are_recognised_in_a_copy(tmp_path: Path) -> None:
    data, out = write(tmp_path / "data", *many(0, 20)), tmp_path / "out"
    assert split(out, data, validation="0.5") == 0
    sets = list(frozen_beside([out / "training", tmp_path]))
    assert sets == [out / "testing"]
    assert repeated_test_samples(read_items(out / "validation"), sets) is None
    name = sorted(ids(out, "testing"))[0]
    files = {option: f"{name}/{option}.jpg" for option in ("original", *"ABCD")}
    copy = write(tmp_path / "copy", record("other", "", **files))
    assert "1 samples show a product or a picture" in str(repeated_test_samples(read_items(copy), sets))
