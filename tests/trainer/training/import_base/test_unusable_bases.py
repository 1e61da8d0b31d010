"""Bases that cannot be trained are refused with a reason."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from tests.trainer.training.import_base.base_files import INDEX, WEIGHTS, _have_shards
from trainer.__main__ import main

pytestmark = pytest.mark.slow

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 1876543210\n"


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


def _have_adapters(base: Path) -> None:
    (base / "adapter_config.json").write_text("{}")


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
        (_have_adapters, "holds adapters (adapter_config.json)"),
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
