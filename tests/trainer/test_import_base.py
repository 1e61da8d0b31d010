"""A public base model, as a hub would give it, becomes a checkpoint; what would go wrong silently is set right."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file, save_file

from screening.checkpoint import verify
from screening.prompt import STANDARD
from trainer.__main__ import main

WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, small_checkpoint: Path) -> Path:
    """The small model as a base: tied, tiling, and with an end token that the chat template does not write."""
    from transformers import AutoProcessor, InternVLForConditionalGeneration

    directory = tmp_path_factory.mktemp("hub") / "base"
    model = InternVLForConditionalGeneration.from_pretrained(small_checkpoint)
    model.config.tie_word_embeddings = model.config.text_config.tie_word_embeddings = True
    model.tie_weights()
    model.save_pretrained(directory)
    processor = AutoProcessor.from_pretrained(small_checkpoint)
    processor.image_processor.crop_to_patches, processor.image_processor.max_patches = True, 12
    processor.tokenizer.eos_token = processor.tokenizer.unk_token or "<unk>"
    processor.save_pretrained(directory)
    assert "lm_head.weight" not in load_file(directory / WEIGHTS)
    return directory


@pytest.fixture
def recipe(tmp_path: Path) -> str:
    stage = {"learning_rate": 0.001, "batch_size": 2, "epochs": 1, "captions": False}
    settings = {"name": "from-base", "base": "Someone/Base-hf", "prompt": "standard", "max_tokens_cot": 99}
    path = tmp_path / "from-base.yaml"
    path.write_text(yaml.safe_dump({**settings, "sft_weak": stage, "sft_answer": stage}))
    return str(path)


def test_it_can_be_trained_and_carries_the_recipes_contract(
    base: Path, recipe: str, tmp_path: Path, small_data: Path, small_checkpoint: Path
) -> None:
    out = tmp_path / "imported"
    assert main(["import", recipe, "--model", str(base), "--out", str(out)]) == 0
    manifest = verify(out)
    assert (manifest.name, manifest.version, manifest.base) == ("from-base", "base", "Someone/Base-hf")
    assert manifest.prompt == STANDARD
    assert manifest.decoding.max_tokens_cot == 99
    assert manifest.image == verify(small_checkpoint).image

    arguments = ["sft", "--stage", "answer-driven", "--recipe", recipe, "--checkpoint", str(out)]
    arguments += ["--data", str(small_data), "--out", str(tmp_path / "sft"), "--tracking-uri", "none"]
    assert main(arguments) == 0
    assert verify(tmp_path / "sft" / "checkpoint").base == "Someone/Base-hf"


def test_what_goes_wrong_silently_is_set_right(base: Path, recipe: str, tmp_path: Path) -> None:
    from transformers import AutoProcessor

    assert main(["import", recipe, "--model", str(base), "--out", str(tmp_path / "a")]) == 0
    before, after = load_file(base / WEIGHTS), load_file(tmp_path / "a" / WEIGHTS)
    embeddings = next(name for name in before if "embed_tokens" in name)
    assert after.keys() == before.keys() | {"lm_head.weight"}
    assert after["lm_head.weight"].equal(before[embeddings].to(after["lm_head.weight"].dtype)), "untied, and equal"
    config = json.loads((tmp_path / "a" / "config.json").read_text())
    assert not config["tie_word_embeddings"] and not config["text_config"]["tie_word_embeddings"]
    processor = AutoProcessor.from_pretrained(tmp_path / "a")
    assert processor.image_processor.max_patches == 1
    assert processor.tokenizer.eos_token == "<|im_end|>", "what the chat template writes behind an answer"
    assert config["text_config"]["eos_token_id"] == processor.tokenizer.eos_token_id


def _drop_a_tensor(base: Path) -> None:
    tensors = load_file(base / WEIGHTS)
    tensors.pop(next(name for name in tensors if "k_proj" in name))
    save_file(tensors, base / WEIGHTS, {"format": "pt"})


def _be_another_model(base: Path) -> None:
    (base / "config.json").write_text(json.dumps({"model_type": "qwen2"}))


def _have_special_tags(base: Path) -> None:
    path = base / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    for token in tokenizer["added_tokens"]:
        token["special"] = True
    path.write_text(json.dumps(tokenizer))


def _have_other_picture_lengths(base: Path) -> None:
    path = base / "processor_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "image_seq_length": 7}))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (_drop_a_tensor, "tensors missing or unknown"),
        (_be_another_model, "type 'qwen2'"),
        (_have_special_tags, "loses tags"),
        (_have_other_picture_lengths, "7 tokens"),
    ],
)
def test_a_base_that_cannot_be_trained_is_refused(
    damage: Callable[[Path], None],
    said: str,
    base: Path,
    recipe: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    import shutil

    shutil.copytree(base, tmp_path / "base")
    damage(tmp_path / "base")
    assert main(["import", recipe, "--model", str(tmp_path / "base"), "--out", str(tmp_path / "out")]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_what_is_not_there_is_said(recipe: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    assert main(["import", recipe, "--model", str(tmp_path / "empty"), "--out", str(tmp_path / "out")]) == 2
    assert "hf download" in capsys.readouterr().err
    assert main(["import", "tiny", "--out", str(tmp_path / "out")]) == 2
    assert "names no `base`" in capsys.readouterr().err
    assert main(["import", recipe, "--out", str(tmp_path)]) == 2
    assert "name a new directory" in capsys.readouterr().err
