"""Checkpoints of true sizes with random weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from screening.checkpoint.directory import verify
from screening.checkpoint.weights import read_tensors
from trainer.__main__ import main

pytestmark = pytest.mark.slow

NARROW = """\
extends: tiny
name: narrow
architecture: {vision_layers: 1, text_layers: 1}
"""


@pytest.fixture
def recipe(tmp_path: Path) -> str:
    path = tmp_path / "narrow.yaml"
    path.write_text(NARROW)
    return str(path)


def test_the_result_is_a_complete_checkpoint_of_the_recipes_sizes(recipe, tmp_path, tiny_checkpoint) -> None:
    assert main(["random-init", recipe, "--out", str(tmp_path / "a"), "--max-tokens", "7"]) == 0
    manifest, like = verify(tmp_path / "a"), verify(tiny_checkpoint)
    config = json.loads((tmp_path / "a" / "config.json").read_text())
    assert (config["text_config"]["num_hidden_layers"], config["vision_config"]["num_hidden_layers"]) == (1, 1)
    assert manifest.image == like.image
    assert manifest.prompt == like.prompt
    assert manifest.decoding.max_tokens_cot == 7
    tensors = read_tensors(tmp_path / "a", manifest)
    assert {tensor.dtype for tensor in tensors.values()} == {"BF16"}


def test_a_seed_gives_the_same_weights_and_another_seed_others(recipe, tmp_path) -> None:
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        assert main(["random-init", recipe, "--out", str(tmp_path / name), "--seed", seed]) == 0
    digests = [verify(tmp_path / name).digest for name in "abc"]
    assert digests[0] == digests[1] != digests[2]


def test_nothing_is_written_over(recipe, tmp_path, capsys) -> None:
    assert main(["random-init", recipe, "--out", str(tmp_path)]) == 2
    assert "name a new directory" in capsys.readouterr().err
