"""Canaries answer as their source does, in other letters; and nothing that one computes is of use to the other."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from loadtest.targets.canary_checkpoints import ALPHABETS, WORDS, derive
from screening.checkpoint.directory import verify
from screening.checkpoint.manifest import read_manifest
from screening.checkpoint.probes import probe_answers
from screening.checkpoint.weights import changed_for_engine, check_finite, compare_tensors, read_tensors
from screening.errors import CheckpointError


@pytest.fixture(scope="module")
def canaries(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("canaries")
    return {name: derive(tiny_checkpoint, folder / name, name, seed) for seed, name in enumerate(ALPHABETS)}


def test_the_alphabets_share_no_sign_and_none_is_an_option() -> None:
    capitals, punctuation = (set(letters) for letters in ALPHABETS.values())
    assert not capitals & punctuation
    assert not (capitals | punctuation) & set("ABCDN<>:,.+ ")
    assert min(len(capitals), len(punctuation)) >= len(WORDS)


def test_no_answer_of_the_source_has_a_sign_of_an_alphabet(tiny_checkpoint) -> None:
    signs = set("".join(ALPHABETS.values()))
    prompt = read_manifest(tiny_checkpoint).prompt
    texts = [text for _, text in probe_answers()]
    assert not signs & set("".join([*texts, prompt.cot, prompt.direct]).replace("</", "<"))


@pytest.mark.slow
def test_a_canary_is_a_complete_checkpoint_that_can_replace_the_other(canaries, tiny_checkpoint) -> None:
    first, second = (verify(directory) for directory in canaries.values())
    assert first.digest != second.digest
    assert first.parent == second.parent == read_manifest(tiny_checkpoint).digest
    assert not changed_for_engine(first, second)
    tensors = [read_tensors(directory, verify(directory)) for directory in canaries.values()]
    assert compare_tensors(*tensors) is None
    for directory in canaries.values():
        check_finite(directory, verify(directory))


def test_deriving_twice_gives_the_same_checkpoint(canaries, tiny_checkpoint, tmp_path) -> None:
    again = derive(tiny_checkpoint, tmp_path / "again", "punctuation", 1)
    assert read_manifest(again).digest == read_manifest(canaries["punctuation"]).digest


def test_another_tokenizer_or_architecture_is_refused(tiny_checkpoint, tmp_path) -> None:
    strange = tmp_path / "strange"
    shutil.copytree(tiny_checkpoint, strange)
    tokenizer = json.loads((strange / "tokenizer.json").read_text())
    del tokenizer["model"]["vocab"]["Ġchose"]
    (strange / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(CheckpointError, match="tokenizer"):
        derive(strange, tmp_path / "out", "capitals", 0)


def hidden_and_logits(directory: Path) -> tuple[Any, Any, Any]:
    """Results for one question with pictures and an answer: encoded pictures, values of the first layer, logits."""
    torch = pytest.importorskip("torch")
    from transformers import AutoModelForImageTextToText

    model = AutoModelForImageTextToText.from_pretrained(directory, dtype=torch.float32).eval()
    seen: dict[str, Any] = {}
    projection = model.get_submodule("model.language_model.layers.0.self_attn.v_proj")
    projection.register_forward_hook(lambda _module, _inputs, output: seen.update(values=output))
    projector = model.get_submodule("model.multi_modal_projector")
    projector.register_forward_hook(lambda _module, _inputs, output: seen.update(pictures=output))
    generator = torch.Generator().manual_seed(0)
    vocabulary = json.loads((directory / "tokenizer.json").read_text())["model"]["vocab"]
    question = [vocabulary[word] for word in ("Compare", "ĠA", "Ġto", "ĠD", "Ġwith", "Ġthe", "Ġoriginal", ".")]
    ids = torch.tensor([[*[model.config.image_token_id] * 16, *question]])
    pixels = torch.randn((1, 3, 128, 128), generator=generator)
    with torch.no_grad():
        logits = model(input_ids=ids, pixel_values=pixels).logits
    return seen["pictures"], seen["values"], logits


@pytest.mark.slow
def test_canaries_compute_what_their_source_does_and_mixed_canaries_do_not(canaries, tiny_checkpoint) -> None:
    torch = pytest.importorskip("torch")
    _, _, logits = hidden_and_logits(tiny_checkpoint)
    vocabulary = json.loads((tiny_checkpoint / "tokenizer.json").read_text())["model"]["vocab"]
    found = {}
    for name, directory in canaries.items():
        pictures, values, theirs = hidden_and_logits(directory)
        found[name] = pictures, values
        for word, sign in zip(WORDS, ALPHABETS[name], strict=False):
            one, other = vocabulary[word.replace(" ", "Ġ")], vocabulary[sign]
            theirs[..., [one, other]] = theirs[..., [other, one]]
        assert torch.equal(theirs, logits), name
    for ours, theirs in zip(*found.values(), strict=True):
        assert not torch.allclose(ours, theirs, atol=0.1)
