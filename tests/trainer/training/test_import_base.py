"""Importing a public base model: it becomes a checkpoint, and silent faults are corrected or refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file, save_file

from screening.checkpoint.manifest import verify
from screening.prompt import STANDARD
from trainer.__main__ import main

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 1876543210\n"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, small_checkpoint: Path) -> Path:
    """The small model as a base model: tied, tiling, and with an end token that the chat template does not write."""
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


@pytest.mark.slow
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

    arguments = ["sft", "--stage", "answer-driven", "--recipe", recipe, "--checkpoint", str(out)]
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


def _be_a_pointer(base: Path) -> None:
    (base / WEIGHTS).write_text(POINTER)


def _have_a_pointer_for_a_tokenizer(base: Path) -> None:
    (base / "tokenizer.json").write_text(POINTER)


def _truncate(base: Path) -> None:
    data = (base / WEIGHTS).read_bytes()
    (base / WEIGHTS).write_bytes(data[: len(data) // 2])


def _truncate_within_the_header(base: Path) -> None:
    (base / WEIGHTS).write_bytes((base / WEIGHTS).read_bytes()[:20])


def _empty(base: Path) -> None:
    (base / WEIGHTS).write_bytes(b"")


def _be_pickles(base: Path) -> None:
    (base / WEIGHTS).rename(base / "pytorch_model.bin")


def _have_no_weights(base: Path) -> None:
    (base / WEIGHTS).unlink()


def _miss_a_shard(base: Path) -> None:
    _have_shards(base)
    (base / "model-00002-of-00002.safetensors").unlink()


def _truncate_a_shard(base: Path) -> None:
    _have_shards(base)
    shard = base / "model-00002-of-00002.safetensors"
    shard.write_bytes(shard.read_bytes()[:-100])


def _have_an_index_that_is_cut(base: Path) -> None:
    _have_shards(base)
    index = base / INDEX
    index.write_bytes(index.read_bytes()[:50])


def _have_an_index_without_files(base: Path) -> None:
    _have_shards(base)
    (base / INDEX).write_text('{"weight_map": {}}')


def _lead_elsewhere(base: Path) -> None:
    _have_shards(base)
    (base / INDEX).write_text(json.dumps({"weight_map": {"x": "../base/model-00001-of-00002.safetensors"}}))


def _have_shards(base: Path) -> None:
    tensors = sorted(load_file(base / WEIGHTS).items())
    files = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    for file, part in zip(files, (tensors[::2], tensors[1::2]), strict=True):
        save_file(dict(part), base / file, {"format": "pt"})
    named = {name: files[place % 2] for place, (name, _) in enumerate(tensors)}
    (base / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": named}))
    (base / WEIGHTS).unlink()


def _be_nan(base: Path) -> None:
    _set(base, float("nan"))


def _be_infinite(base: Path) -> None:
    _set(base, float("-inf"))


def _overflow(base: Path) -> None:
    _set(base, 3.4e38)  # finite in float32, and rounded up to infinity in bfloat16


def _set(base: Path, value: float) -> None:
    tensors = load_file(base / WEIGHTS)
    name = next(name for name in tensors if "k_proj.weight" in name)
    tensors[name] = tensors[name].float()
    tensors[name][1, 1] = value
    save_file(tensors, base / WEIGHTS, {"format": "pt"})


def _have_another_shape(base: Path) -> None:
    tensors = load_file(base / WEIGHTS)
    name = next(name for name in tensors if "k_proj.weight" in name)
    tensors[name] = tensors[name][:, :-1].contiguous()
    save_file(tensors, base / WEIGHTS, {"format": "pt"})


def _without(*names: str) -> Callable[[Path], None]:
    def damage(base: Path) -> None:
        for name in names:
            (base / name).unlink(missing_ok=True)

    return damage


def _without_a_template(base: Path) -> None:
    (base / "chat_template.jinja").unlink(missing_ok=True)
    for name in ("tokenizer_config.json", "processor_config.json"):
        settings = json.loads((base / name).read_text())
        settings.pop("chat_template", None)
        (base / name).write_text(json.dumps(settings))


def _have_a_broken_template(base: Path) -> None:
    (base / "chat_template.jinja").write_text("{% for message in messages %}{{ message")


def _have_half_a_tokenizer(base: Path) -> None:
    path = base / "tokenizer.json"
    path.write_bytes(path.read_bytes()[:500])


def _be_another_format(base: Path) -> None:
    (base / WEIGHTS).unlink()
    (base / "model-Q4.gguf").write_bytes(b"GGUF")


def _be_quantized(dtype: str) -> Callable[[Path], None]:
    def damage(base: Path) -> None:
        import torch

        tensors = load_file(base / WEIGHTS)
        name = next(name for name in tensors if "k_proj.weight" in name)
        tensors[name] = tensors[name].to(getattr(torch, dtype))
        save_file(tensors, base / WEIGHTS, {"format": "pt"})

    return damage


def _with_config(text: str) -> Callable[[Path], None]:
    return lambda base: (base / "config.json").write_text(text) and None


def _say_it_is_quantized(base: Path) -> None:
    config = json.loads((base / "config.json").read_text()) | {"quantization_config": {"quant_method": "gptq"}}
    (base / "config.json").write_text(json.dumps(config))


def _link(name: str) -> Callable[[Path], None]:
    """The hub's cache after an interrupted download, or after it was cleared."""

    def damage(base: Path) -> None:
        (base / name).unlink()
        (base / name).symlink_to(f"../../blobs/{name}")

    return damage


def _have_an_empty_config(base: Path) -> None:
    (base / "config.json").write_text("{}")


def _have_a_config_that_is_text(base: Path) -> None:
    (base / "config.json").write_text("<html>Not found</html>")


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (_drop_a_tensor, "Missing or unknown tensors"),
        (_be_another_model, "type 'qwen2'"),
        (_have_special_tags, "loses tags"),
        (_have_other_picture_lengths, "7 tokens"),
        (_be_a_pointer, "is a Git LFS pointer"),
        (_have_a_pointer_for_a_tokenizer, "tokenizer.json is a Git LFS pointer"),
        (_truncate, "is truncated or damaged"),
        (_truncate_within_the_header, "is truncated or damaged"),
        (_empty, "is truncated or damaged"),
        (_be_pickles, "only as a pickle (pytorch_model.bin)"),
        (_have_no_weights, "has no weights"),
        (_miss_a_shard, "names model-00002-of-00002.safetensors, which does not exist"),
        (_truncate_a_shard, "model-00002-of-00002.safetensors"),
        (_have_an_index_that_is_cut, "is not JSON"),
        (_have_an_index_without_files, "names no weight files"),
        (_lead_elsewhere, "which does not exist"),
        (_be_nan, "values that are not finite"),
        (_be_infinite, "values that are not finite"),
        (_overflow, "values that are not finite"),
        (_have_another_shape, "k_proj.weight"),
        (_without("tokenizer.json", "vocab.json"), "has no tokenizer"),
        (_without("processor_config.json", "preprocessor_config.json"), "has no processor"),
        (_without("config.json"), "has no configuration"),
        (_without_a_template, "has no chat template"),
        (_have_a_broken_template, "chat template cannot be rendered"),
        (_have_half_a_tokenizer, "tokenizer.json is not JSON"),
        (_be_another_format, "only in another format (model-Q4.gguf)"),
        *((_be_quantized(dtype), "the weights are quantized") for dtype in ("int8", "float8_e4m3fn", "int64", "bool")),
        (_say_it_is_quantized, "is a quantized model"),
        *((_with_config(text), "names the model type None") for text in ("[]", "null", "3", '"x"')),
        (_with_config('{"model_type": "internvl_chat", "auto_map": {"AutoConfig": "a.B"}}'), "ends in -hf"),
        *((_link(name), f"{name} is a link to ../../blobs/") for name in ("config.json", "tokenizer.json", WEIGHTS)),
        (_link("tokenizer_config.json"), "the download was interrupted"),
        (_without("tokenizer_config.json"), "has no configuration of the tokenizer"),
        (_have_an_empty_config, "config.json"),
        (_have_a_config_that_is_text, "config.json is not JSON"),
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
    error = capsys.readouterr().err
    (line,) = [line for line in error.splitlines() if line.startswith("error: ")]
    assert said in line and "Traceback" not in error
    assert error.rstrip().endswith(line), "the message is one line"
    assert not list(tmp_path.glob("out*"))


def test_missing_files_are_reported(recipe: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    assert main(["import", recipe, "--model", str(tmp_path / "empty"), "--out", str(tmp_path / "out")]) == 2
    assert "hf download" in capsys.readouterr().err
    assert main(["import", "tiny", "--out", str(tmp_path / "out")]) == 2
    assert "has no `base`" in capsys.readouterr().err
    assert main(["import", recipe, "--out", str(tmp_path)]) == 2
    assert "name a new directory" in capsys.readouterr().err


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


def test_a_model_that_is_not_there_is_named(
    recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import huggingface_hub

    def offline(*_: object, **__: object) -> str:
        raise ConnectionError("no network")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    (tmp_path / "file").write_text("x")
    for model, said in (
        (str(tmp_path / "missing"), "does not exist"),
        (str(tmp_path / "file"), "is a file"),
        ("Someone/Nowhere-hf", "is not a directory, and the hub did not provide it"),
    ):
        assert main(["import", recipe, "--model", model, "--out", str(tmp_path / "out")]) == 2
        error = capsys.readouterr().err
        assert said in error and error.count("\n") == 1
    assert not list(tmp_path.glob("out*"))
