"""A checkpoint with tensors that its architecture does not have is not published, even if an engine would accept it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from screening.checkpoint.manifest import read_manifest
from screening.checkpoint.seal import check_seal
from screening.checkpoint.weights import read_tensors
from screening.errors import CheckpointError
from screening.inference.architecture import check_architecture
from tests.service.damage import Weights, rewrite, vit_biases_hashed_again
from tests.trainer.published import make_prober
from trainer.release.publish.command import publish, published_name

pytestmark = pytest.mark.slow

LAYER = "language_model.model.layers.1."


def without_a_part_of_a_fused_tensor(weights: Weights) -> None:
    del weights[f"{LAYER}self_attn.k_proj.weight"]


def without_the_head(weights: Weights) -> None:
    del weights["language_model.lm_head.weight"]


def with_a_tensor_more(weights: Weights) -> None:
    weights["language_model.model.layers.5.mlp.up_proj.weight"] = torch.zeros(2, 2)


def with_a_transposed_matrix(weights: Weights) -> None:
    name = f"{LAYER}mlp.down_proj.weight"
    weights[name] = weights[name].T.contiguous()


@pytest.fixture
def no_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use a fake engine that accepts any checkpoint, as vLLM accepts some of these."""

    @contextmanager
    def prober(*_: Any, **__: Any) -> Iterator[Any]:
        yield make_prober()

    monkeypatch.setattr("trainer.release.publish.probing.open_prober", prober)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without_a_part_of_a_fused_tensor, r"lacks \d+ tensors .*layers\.1\.self_attn\.k_proj\.weight"),
        (without_the_head, r"lacks \d+ tensors .*lm_head\.weight"),
        (with_a_tensor_more, r"tensors unknown to its architecture, .*layers\.5\.mlp\.up_proj"),
        (with_a_transposed_matrix, r"layers\.1\.mlp\.down_proj\.weight has the shape \[704, 256\].* has \[256, 704\]"),
    ],
)
@pytest.mark.usefixtures("no_engine")
def test_other_tensors_than_the_architecture_has_are_refused_by_name(
    change: Callable[[Weights], None], message: str, tmp_path: Path, tiny_checkpoint: Path
) -> None:
    broken = shutil.copytree(tiny_checkpoint, tmp_path / "broken")
    rewrite(broken, change)
    with pytest.raises(CheckpointError, match=message):
        publish(broken, tmp_path / "store")
    assert not (tmp_path / "store").exists()


def test_a_store_copy_that_was_hashed_again_is_not_taken_for_the_published_one(
    tmp_path: Path, tiny_checkpoint: Path
) -> None:
    changed = shutil.copytree(tiny_checkpoint, tmp_path / "changed")
    vit_biases_hashed_again(changed)
    shutil.copytree(changed, tmp_path / "store" / published_name(read_manifest(changed)))
    with pytest.raises(CheckpointError, match="recorded on something else"):
        publish(changed, tmp_path / "store")


@pytest.mark.usefixtures("no_engine")
def test_a_published_manifest_lists_the_tensors(tmp_path: Path, tiny_checkpoint: Path) -> None:
    before = read_manifest(tiny_checkpoint)
    manifest = read_manifest(published := publish(tiny_checkpoint, tmp_path / "store"))
    assert manifest.digest == before.digest
    check_seal(manifest)
    assert manifest.probes is not None and before.probes is not None
    assert manifest.probes.reading == before.probes.reading, "the reading of text does not depend on the machine"
    weights = load_file(published / "model.safetensors")
    assert manifest.tensors == read_tensors(published, before)
    assert {name: t.shape for name, t in manifest.tensors.items()} == {n: tuple(w.shape) for n, w in weights.items()}


@pytest.mark.parametrize("config", ["{}", '{"model_type": "nobody_knows_it"}', "not JSON"])
def test_a_configuration_that_describes_no_model_is_refused(config: str, tmp_path: Path, tiny_checkpoint: Path) -> None:
    broken = shutil.copytree(tiny_checkpoint, tmp_path / "broken")
    (broken / "config.json").write_text(config)
    with pytest.raises(CheckpointError, match=r"no model can be built from its config\.json"):
        check_architecture(broken)
