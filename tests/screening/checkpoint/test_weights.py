"""Checks of weights that need no engine."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from screening.checkpoint.manifest import Manifest, Tensor, read_manifest
from screening.checkpoint.weights import check_finite, compare_tensors, read_tensors
from screening.errors import CheckpointDamaged, CheckpointError


@pytest.fixture
def manifest(tiny_checkpoint: Path) -> Manifest:
    """The manifest of a directory with one weight file; only the names of its files matter here."""
    whole = read_manifest(tiny_checkpoint)
    return whole.model_copy(update={"files": {"model.safetensors": whole.files["model.safetensors"]}, "tensors": None})


def test_the_shipped_weights_are_finite_and_have_the_shapes_of_their_configuration(tiny_checkpoint: Path) -> None:
    whole = read_manifest(tiny_checkpoint)
    tensors = read_tensors(tiny_checkpoint, whole)
    check_finite(tiny_checkpoint, whole)
    assert tensors["language_model.lm_head.weight"] == tensors["language_model.model.embed_tokens.weight"]
    assert compare_tensors(tensors, tensors) is None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_one_value_that_is_not_finite_is_found(dtype, value, manifest, tmp_path: Path) -> None:
    big = torch.finfo(dtype).max
    weights = {"a": torch.tensor([1.0, -big, big, 0.0], dtype=dtype), "b": torch.zeros(3, 3, dtype=dtype)}
    save_file(weights, tmp_path / "model.safetensors")
    check_finite(tmp_path, manifest)
    weights["b"][2, 2] = value
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"b holds values that are not finite"):
        check_finite(tmp_path, manifest)


def test_integers_and_empty_tensors_are_accepted(manifest, tmp_path: Path) -> None:
    weights = {"ids": torch.full((4,), -1), "none": torch.zeros(0, 4)}
    save_file(weights, tmp_path / "model.safetensors")
    assert read_tensors(tmp_path, manifest)["ids"] == Tensor("I64", (4,))
    check_finite(tmp_path, manifest)


def test_the_tensors_are_those_that_the_manifest_says(tiny_checkpoint: Path) -> None:
    whole = read_manifest(tiny_checkpoint)
    tensors = read_tensors(tiny_checkpoint, whole)
    written = whole.model_copy(update={"tensors": tensors})
    again = Manifest.model_validate_json(written.model_dump_json())
    assert again.tensors == tensors
    assert again.digest == whole.digest, "digests that are in use stay what they are"
    assert read_tensors(tiny_checkpoint, again) == tensors
    name = "language_model.model.layers.0.self_attn.k_proj.weight"
    turned = Tensor(tensors[name].dtype, (1, *tensors[name].shape))
    for said in (tensors | {"more": turned}, tensors | {name: turned}, {n: t for n, t in tensors.items() if n != name}):
        other = whole.model_copy(update={"tensors": said})
        with pytest.raises(CheckpointDamaged, match=rf"other tensors than its manifest lists: .*({name}|more)"):
            read_tensors(tiny_checkpoint, other)


def test_an_index_names_the_tensors_and_their_files(manifest: Manifest, tmp_path: Path) -> None:
    """Engines load what the index names, so a wrong one leaves tensors out."""
    save_file({"a": torch.zeros(2), "b": torch.zeros(3)}, tmp_path / "model.safetensors")
    index = "model.safetensors.index.json"
    manifest = manifest.model_copy(update={"files": {**manifest.files, index: manifest.files["model.safetensors"]}})
    (tmp_path / index).write_text('{"weight_map": {"a": "model.safetensors", "b": "model.safetensors"}}')
    assert read_tensors(tmp_path, manifest).keys() == {"a", "b"}
    wrong = ['{"a": "model.safetensors"}', "{}", "[]", '{"a": "model.safetensors", "b": "other.safetensors"}', "7"]
    for content in [*(f'{{"weight_map": {places}}}' for places in wrong), "", "[]", "{", "[" * 100_000, "\x00"]:
        (tmp_path / index).write_text(content)
        with pytest.raises(CheckpointError, match="does not list the tensors"):
            read_tensors(tmp_path, manifest)
