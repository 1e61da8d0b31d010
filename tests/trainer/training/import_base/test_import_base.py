"""Importing a public base model: it becomes a checkpoint, and silent faults are corrected or refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file

from screening.checkpoint.manifest import verify
from screening.prompt import STANDARD
from tests.trainer.training.import_base.base_files import WEIGHTS, _have_shards
from trainer.__main__ import main

pytestmark = pytest.mark.slow


def test_it_can_be_trained_and_carries_the_recipes_contract(
    base: Path, recipe: str, tmp_path: Path, small_data: Path, small_checkpoint: Path
) -> None:
    out = tmp_path / "imported"
    assert main(["import", recipe, "--model", str(base), "--out", str(out)]) == 0
    manifest = verify(out)
    assert (manifest.name, manifest.version, manifest.base) == ("from-base", "base", "base")
    assert manifest.prompt == STANDARD
    assert manifest.decoding.max_tokens_cot == 99
    assert manifest.image == verify(small_checkpoint).image

    # Beside the standard prompt, this model has no room for whole answers. Stage 1.1 only warns of that.
    arguments = ["sft", "--stage", "weak", "--recipe", recipe, "--checkpoint", str(out)]
    arguments += ["--data", str(small_data), "--out", str(tmp_path / "sft"), "--tracking-uri", "none"]
    assert main(arguments) == 0
    assert verify(tmp_path / "sft" / "checkpoint").base == "base"


def test_silent_faults_of_a_base_are_corrected(base: Path, recipe: str, tmp_path: Path) -> None:
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
    assert processor.tokenizer.eos_token == "<|im_end|>", "the token that the chat template writes after an answer"
    assert config["text_config"]["eos_token_id"] == processor.tokenizer.eos_token_id


def test_the_recipe_states_the_tiles(
    base: Path, recipe: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from transformers import AutoProcessor

    from screening.inference.inspection import inspect

    path, out = tmp_path / "four.yaml", tmp_path / "a"
    path.write_text(f"extends: {recipe}\ntiles: 4\n")
    assert main(["import", str(path), "--model", str(base), "--out", str(out)]) == 2
    said = capsys.readouterr().err
    assert "exceed the model's 1024 positions. " in said and ", or take fewer tiles" in said
    path.write_text(f"extends: {recipe}\nprompt: compact\ntiles: 4\n")
    assert main(["import", str(path), "--model", str(base), "--out", str(out)]) == 0
    manifest = verify(out)
    assert manifest.image.max_patches == AutoProcessor.from_pretrained(out).image_processor.max_patches == 4
    assert "up to 4 tiles per picture" in manifest.data["import"]["changes"]
    inspect(out, manifest)


def test_a_model_in_shards_is_read_completely(base: Path, recipe: str, tmp_path: Path) -> None:
    import shutil

    copy = shutil.copytree(base, tmp_path / "base")
    _have_shards(copy)
    for source, out in ((base, "one"), (copy, "two")):
        assert main(["import", recipe, "--model", str(source), "--out", str(tmp_path / out)]) == 0
    one, two = (load_file(tmp_path / out / WEIGHTS) for out in ("one", "two"))
    assert one.keys() == two.keys() and all(one[name].equal(two[name]) for name in one)


def test_the_manifest_names_the_imported_model(base: Path, recipe: str, tmp_path: Path) -> None:
    import shutil

    commit = "0123456789abcdef0123456789abcdef01234567"
    copy = tmp_path / "models--Other--Model-hf" / "snapshots" / commit
    shutil.copytree(base, copy)
    for source, out in ((base, "one"), (copy, "two")):
        assert main(["import", recipe, "--model", str(source), "--out", str(tmp_path / out)]) == 0
    one, two = (verify(tmp_path / out) for out in ("one", "two"))
    assert (one.base, one.recipe["base"]) == ("base", "base"), "and not the recipe's Someone/Base-hf"
    assert (two.base, two.data["import"]["commit"]) == ("Other/Model-hf", commit)
    assert one.data["import"]["commit"] is None
    assert one.data["import"]["files"] == two.data["import"]["files"]
    assert one.data["import"]["changes"][0] == "head untied from the embeddings"
    assert "end token <|im_end|>" in one.data["import"]["changes"][1]
    assert str(tmp_path) not in two.model_dump_json()
    (copy / "config.json").write_text((copy / "config.json").read_text() + " ")
    assert main(["import", recipe, "--model", str(copy), "--out", str(tmp_path / "three")]) == 0
    assert verify(tmp_path / "three").data["import"]["files"] != two.data["import"]["files"]


@pytest.mark.parametrize("how", ["hf download", "git", "git branch"])
def test_the_revision_is_read_where_the_download_notes_it(how: str, base: Path, tmp_path: Path) -> None:
    import shutil

    from trainer.training.base_source import find_source

    copy, commit = shutil.copytree(base, tmp_path / "base"), "f" * 40
    noted = {
        "hf download": {".cache/huggingface/download/config.json.metadata": f"{commit}\nabc\n17.5\n"},
        "git": {".git/HEAD": f"{commit}\n"},
        "git branch": {".git/HEAD": "ref: refs/heads/main\n", ".git/refs/heads/main": f"{commit}\n"},
    }[how]
    for name, text in noted.items():
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_text(text)
    assert find_source(str(copy)).commit == commit


def test_a_full_disk_leaves_nothing(
    base: Path, recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import errno

    import trainer.training.export

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(trainer.training.export, "write_manifest", full)
    out = tmp_path / "out"
    assert main(["import", recipe, "--model", str(base), "--out", str(out)]) == 1
    assert f"{out} cannot be written: No space left on device" in capsys.readouterr().err
    assert not list(tmp_path.glob("out*"))
