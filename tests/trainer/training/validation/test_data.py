"""The validation samples: which are asked, and which data are refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from screening.checkpoint.manifest import read_manifest
from tests.trainer.training.validation.overfitting import COLOURS, coloured, sft, training_data, write_recipe
from trainer.__main__ import main
from trainer.data.split.assign import SplitError
from trainer.data_directory import DataError, data_digest, read_samples
from trainer.training.recipe.recipe import RecipeError, load_recipe
from trainer.training.recipe.stages import ValidationRecipe
from trainer.training.validation.data import Validation, drawn, read_validation

Read = Callable[..., Validation | None]
SETTINGS = ValidationRecipe(every_steps=2, samples=3)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return training_data(tmp_path / "training")


@pytest.fixture
def read(small_checkpoint: Path) -> Read:
    """`read(validation, training, **changes of the other arguments)`."""
    parent = read_manifest(small_checkpoint)

    def call(directory: Path, data: Path, **changes: Any) -> Validation | None:
        given = {"settings": SETTINGS, "section": "sft_answer", "seed": 0, "parent": parent, **changes}
        return read_validation(directory, training=read_samples(data), data=data, **given)

    return call


def test_a_few_samples_are_drawn_by_the_seed_and_a_small_part_is_asked_as_a_whole(
    read: Read, data: Path, tmp_path: Path
) -> None:
    samples = read_samples(coloured(tmp_path / "many", [(colour, "A") for colour in COLOURS], shade=7))
    first, again, other = (drawn(samples, 3, seed) for seed in (0, 0, 1))
    assert first == again != other
    assert list(first) == [sample for sample in samples if sample in first] and len(first) == 3
    assert drawn(samples, 6, 0) == drawn(samples, 100, 0) == tuple(samples)
    found = read(tmp_path / "many", data)
    assert found is not None and found.samples == first


def test_an_empty_part_is_refused(read: Read, data: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "samples.jsonl").touch()
    with pytest.raises(DataError, match=r"empty hold no samples. Divide more data or raise `split --validation`"):
        read(tmp_path / "empty", data)


def test_settings_need_data_and_data_need_settings(
    read: Read, data: Path, small_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(RecipeError, match=r"needs the section hcm_grpo\.validation"):
        read(data, data, settings=None, section="hcm_grpo")
    recipe = write_recipe(tmp_path / "r.yaml", {"every_steps": 2})
    assert sft(recipe, small_checkpoint, data, tmp_path / "out") == 2
    assert "sft_answer.validation is set, and there are no validation data. Give --validation DIR" in (
        capsys.readouterr().err
    )
    assert not (tmp_path / "out").exists()


def test_samples_of_the_training_data_are_refused(read: Read, data: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"6 of 6 samples, the first is 'training-0', are in the training data"):
        read(data, data)
    renamed = shutil.copytree(data, tmp_path / "renamed")
    lines = (renamed / "samples.jsonl").read_text().replace('"id": "training', '"id": "other')
    (renamed / "samples.jsonl").write_text(lines)
    with pytest.raises(DataError, match="show a product or picture of it"):
        read(renamed, data)


def test_pictures_of_the_training_data_are_refused_under_other_names_of_sample_and_product(
    read: Read, data: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(data, tmp_path / "copy")
    lines = [json.loads(line) for line in (copy / "samples.jsonl").read_text().splitlines()]
    renamed = [{**line, "id": f"other-{number}", "product": f"other {number}"} for number, line in enumerate(lines)]
    (copy / "samples.jsonl").write_text("".join(json.dumps(line) + "\n" for line in renamed))
    with pytest.raises(DataError, match=r"6 of 6 samples, the first is 'other-0'"):
        read(copy, data)


def test_a_split_json_of_another_program_does_not_matter(read: Read, tmp_path: Path) -> None:
    data = training_data(tmp_path / "shop" / "labelled")
    (tmp_path / "shop" / "split.json").write_text('{"unit": "ml"}')
    other = coloured(tmp_path / "other", [((10, 200, 30), "A")], shade=7)
    assert read(other, data) is not None
    (tmp_path / "shop" / "testing").mkdir()
    with pytest.raises(SplitError, match="damaged"):
        read(other, data)


def test_the_frozen_test_set_is_refused_also_as_a_copy_with_other_names(read: Read, data: Path, tmp_path: Path) -> None:
    source = coloured(tmp_path / "source", [((20 * n, 40, 30), "A") for n in range(12)], shade=1)
    division = tmp_path / "split"
    given = ["--data", str(source), "--out", str(division), "--shares", "1,1,0,0", "--validation", "0.5"]
    assert main(["split", *given]) == 0
    training, testing = division / "training", division / "testing"
    with pytest.raises(DataError, match=rf"product or a picture of the test set {testing}.*Give other data"):
        read(testing, training)
    copy = shutil.copytree(testing, tmp_path / "copy")
    lines = (copy / "samples.jsonl").read_text().replace('"source-', '"copy-')
    (copy / "samples.jsonl").write_text(lines)
    with pytest.raises(DataError, match=rf"--validation {copy}: \d samples show"):
        read(copy, training)
    assert read(division / "validation", training) is not None


def test_data_that_an_earlier_stage_was_trained_on_are_refused(
    read: Read, data: Path, small_checkpoint: Path, tmp_path: Path
) -> None:
    seen = coloured(tmp_path / "seen", [(COLOURS[0], "A")], shade=7)
    record = {"sft-weak": {"digest": data_digest(seen, read_samples(seen))}}
    parent = read_manifest(small_checkpoint).model_copy(update={"data": record})
    with pytest.raises(DataError, match="trained on these data in an earlier stage"):
        read(seen, data, parent=parent)


def test_a_recipe_without_validation_keeps_the_record_that_it_had() -> None:
    recipe = load_recipe("tiny-rl")
    assert "validation" not in recipe.model_dump_json()
    assert "validation" not in recipe.sft_answer.deciding and "validation" not in recipe.stage_2.deciding
