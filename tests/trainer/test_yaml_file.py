"""YAML files that people write: a slip is an error that names its place."""

from __future__ import annotations

from pathlib import Path

import pytest

from trainer.training.recipe.recipe import RecipeError, load_recipe
from trainer.yaml_file import YamlError, read_yaml


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"a: 1\nb: {c: 2, c: 3}\n", r"'c' is given twice.* line 2, column 11"),
        (b"'a': 1\na: 2\n", r"'a' is given twice.* line 2"),
        (b"- {a: 1, b: 2, a: 3}\n", r"'a' is given twice"),
        (b"a: " + b"[" * 5000, r"nested too deeply"),
        (b"a: [1\n", r"is not YAML: while parsing a flow sequence in line 1, column 4"),
        (b"? [1]\n: 2\n", r"is not YAML: .*unhashable key"),
        (b"a: \xfc\n", r"is not UTF-8 \(byte 3\)\. Save it as UTF-8"),
    ],
)
def test_a_wrong_file_is_refused_with_its_place(text: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "file.yaml").write_bytes(text)
    with pytest.raises(YamlError, match=rf"{tmp_path}/file\.yaml.*{message}"):
        read_yaml(tmp_path / "file.yaml")


def test_merged_keys_may_be_overridden(tmp_path: Path) -> None:
    (tmp_path / "file.yaml").write_text("x: &x {a: 1, b: 2}\ny: &y {<<: *x, a: 3}\nz: {<<: *y, b: 4}\n")
    assert read_yaml(tmp_path / "file.yaml")["z"] == {"a": 3, "b": 4}


def test_a_recipe_that_gives_a_section_twice_is_refused(tmp_path: Path) -> None:
    (tmp_path / "twice.yaml").write_text("extends: tiny\nsft_weak: {epochs: 2}\nsft_weak: {learning_rate: 0.1}\n")
    with pytest.raises(RecipeError, match="'sft_weak' is given twice"):
        load_recipe(str(tmp_path / "twice.yaml"))
