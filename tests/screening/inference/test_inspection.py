"""The inspection finds faults that would fail in any engine, without weights and without an engine."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from screening.checkpoint.manifest import (
    Decoding,
    ImageContract,
    Manifest,
    read_manifest,
    store_manifest,
    write_manifest,
)
from screening.checkpoint.probes import Reading
from screening.checkpoint.seal import sealed
from screening.errors import CheckpointError
from screening.inference.inspection import REFUSED, compare_reading, inspect, main
from screening.prompt import COMPACT

pytestmark = pytest.mark.slow

Change = Callable[[dict[str, Any]], object]


@pytest.fixture(scope="module")
def reading(tiny_checkpoint: Path) -> Reading:
    return inspect(tiny_checkpoint, read_manifest(tiny_checkpoint))


@pytest.fixture
def copy(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    return shutil.copytree(tiny_checkpoint, tmp_path / "copy")


@pytest.fixture
def manifest(tiny_checkpoint: Path) -> Manifest:
    return read_manifest(tiny_checkpoint)


def edit(directory: Path, name: str, change: Change) -> None:
    content = json.loads((directory / name).read_text())
    change(content)
    (directory / name).write_text(json.dumps(content))


def test_the_shipped_checkpoint_reads_text_as_its_probes_say(reading: Reading, manifest: Manifest) -> None:
    compare_reading(manifest, reading)


def test_a_checkpoint_that_does_not_say_how_it_reads_text_is_not_served(reading: Reading, manifest: Manifest) -> None:
    assert manifest.probes is not None
    silent = manifest.model_copy(update={"probes": manifest.probes.model_copy(update={"reading": None})})
    with pytest.raises(CheckpointError, match="do not record how it reads text"):
        compare_reading(silent, reading)


def text(**changes: Any) -> Change:
    return lambda config: config["text_config"].update(changes)


def vision(**changes: Any) -> Change:
    return lambda config: config["vision_config"].update(changes)


CONFIGURATIONS: dict[str, tuple[Change, str]] = {
    "empty": (lambda config: config.clear(), "config.json"),
    "unknown model": (lambda config: config.update(model_type="unheard-of"), "no model can be built"),
    "a layer more": (text(num_hidden_layers=6, layer_types=["full_attention"] * 6), r"lacks \d+ tensors"),
    "a layer less": (text(num_hidden_layers=4, layer_types=["full_attention"] * 4), "unknown to its architecture"),
    "a vision layer more": (vision(num_hidden_layers=7), r"lacks \d+ tensors"),
    "wider": (text(hidden_size=512), "its architecture has"),
    "wider vision": (vision(hidden_size=384), "its architecture has"),
    "smaller vocabulary": (text(vocab_size=760), "its architecture has"),
    "no width": (text(hidden_size=0), "config.json|its architecture has"),
    "negative layers": (text(num_hidden_layers=-1), "config.json|unknown to its architecture"),
    "words for numbers": (text(hidden_size="wide"), "config.json"),
    "larger pictures": (vision(image_size=[256, 256]), "config.json|its architecture has"),
    "other patches": (vision(patch_size=[32, 32]), "config.json|its architecture has"),
    "tied embeddings": (text(tie_word_embeddings=True), "ties the embeddings"),
    "architecture unknown to engines": (lambda config: config.update(architectures=["NoSuchModel"]), "architectures"),
    "architecture of another model": (
        lambda config: config.update(architectures=["Qwen2ForCausalLM"]),
        "architectures",
    ),
    "two architectures": (lambda config: config["architectures"].append("LlamaForCausalLM"), "architectures"),
    "no architecture": (lambda config: config.pop("architectures"), "architectures"),
    "quantized": (lambda config: config.update(quantization_config={"quant_method": "fp8"}), "quantized weights"),
    "quantized by AWQ": (
        lambda config: config.update(quantization_config={"quant_method": "awq"}),
        "quantized weights",
    ),
    "quantized text": (text(quantization_config={"quant_method": "fp8"}), "quantized weights"),
    "compressed": (lambda config: config.update(compression_config={}), "quantized weights"),
    "few positions": (text(max_position_embeddings=300), "exceed the 300 positions"),
}


@pytest.mark.parametrize("what", CONFIGURATIONS)
def test_a_configuration_that_is_not_the_weights_is_refused(what: str, copy: Path, manifest: Manifest) -> None:
    change, reason = CONFIGURATIONS[what]
    edit(copy, "config.json", change)
    with pytest.raises(CheckpointError, match=reason):
        inspect(copy, manifest)


def processor(**changes: Any) -> Change:
    return lambda config: config["image_processor"].update(changes)


UNSEEN: dict[str, tuple[str, Change]] = {
    "number format": ("config.json", lambda config: config.update(dtype="float16")),
    "number format of the text": ("config.json", text(dtype="float16")),
    "no number format": ("config.json", lambda config: config.pop("dtype")),
    "activation": ("config.json", text(hidden_act="relu")),
    "rotary positions": ("config.json", text(rope_parameters={"rope_theta": 1.0, "rope_type": "default"})),
    "attention of a window": ("config.json", text(use_sliding_window=True, sliding_window=4)),
    "vision heads": ("config.json", vision(num_attention_heads=1)),
    "vision layer": ("config.json", lambda config: config.update(vision_feature_layer=99)),
    "mean of pixels": ("processor_config.json", processor(image_mean=[0.0, 0.0, 0.0])),
    "no normalisation": ("processor_config.json", processor(do_normalize=False)),
    "scale of pixels": ("processor_config.json", processor(rescale_factor=1.0)),
    "stop token": ("generation_config.json", lambda config: config.update(eos_token_id=3)),
    "special tokens": (
        "tokenizer.json",
        lambda content: [one.update(special=False) for one in content["added_tokens"]],
    ),
    "merges ignored": ("tokenizer.json", lambda content: content["model"].update(ignore_merges=True)),
    "normaliser": ("tokenizer.json", lambda content: content.update(normalizer={"type": "NFKC"})),
    "class of the tokenizer": ("tokenizer_config.json", lambda content: content.update(tokenizer_class="Bogus")),
    "second template": ("tokenizer_config.json", lambda content: content.update(chat_template="hello")),
}
"""Changes after which shapes and the tokens of text are what they were."""


def with_tiles(manifest: Manifest, tiles: int) -> Manifest:
    return manifest.model_copy(update={"image": manifest.image.model_copy(update={"max_patches": tiles})})


def test_the_processor_must_cut_the_tiles_that_the_manifest_states(copy: Path, manifest: Manifest) -> None:
    """A service tells the processor how many tiles to cut. A training does not, and takes the number from its file."""
    with pytest.raises(
        CheckpointError, match=r"image\.max_patches is 4 in the checkpoint's manifest; its processor_config\.json"
    ):
        inspect(copy, with_tiles(manifest, 4))
    edit(copy, "processor_config.json", processor(max_patches=4))
    inspect(copy, with_tiles(manifest, 4))


def test_the_longest_question_is_the_one_with_the_most_tiles(copy: Path, manifest: Manifest) -> None:
    edit(copy, "processor_config.json", processor(max_patches=4))
    edit(copy, "config.json", text(max_position_embeddings=860))
    inspect(copy, with_tiles(manifest, 1))
    with pytest.raises(CheckpointError, match=r"exceed the 860 positions of its config\.json\. Take fewer tiles"):
        inspect(copy, with_tiles(manifest, 4))


def listed(directory: Path, manifest: Manifest) -> Manifest:
    """The manifest with what lies there; probes and the rest stay."""
    fields = manifest.model_dump(exclude={"files", "created", "format", "tensors"})
    return write_manifest(directory, **fields)


@pytest.mark.parametrize("what", UNSEEN)
def test_a_changed_file_with_the_probes_of_before_is_found_without_an_engine(what: str, copy, manifest) -> None:
    name, change = UNSEEN[what]
    edit(copy, name, change)
    with pytest.raises(CheckpointError, match=r"another file besides the weights|tokenizer"):
        compare_reading(manifest, inspect(copy, listed(copy, manifest)))


@pytest.mark.parametrize(
    "name", ["preprocessor_config.json", "modeling_other.py", "params.json", "adapter_config.json", "x.gguf"]
)
def test_a_file_that_was_added_is_found_without_an_engine(name: str, copy: Path, manifest: Manifest) -> None:
    (copy / name).write_text("{}")
    refused = r"another file besides the weights|cannot read a question|no model can be built"
    with pytest.raises(CheckpointError, match=refused):
        compare_reading(manifest, inspect(copy, listed(copy, manifest)))


@pytest.mark.parametrize("name", ["hf_quant_config.json", "quantize_config.json"])
def test_a_file_that_asks_for_quantized_weights_is_refused(name: str, copy: Path, manifest: Manifest) -> None:
    (copy / name).write_text("{}")
    with pytest.raises(CheckpointError, match=f"{name}: quantized weights"):
        inspect(copy, listed(copy, manifest))


def test_probes_that_do_not_say_which_files_an_engine_reads_are_refused(reading: Reading, manifest: Manifest) -> None:
    assert manifest.probes is not None
    probes = manifest.probes.model_copy(update={"reading": reading.model_copy(update={"files": None})})
    with pytest.raises(CheckpointError, match="do not record which files"):
        compare_reading(manifest.model_copy(update={"probes": probes}), reading)


@pytest.mark.parametrize(
    "name",
    ["config.json", "tokenizer.json", "tokenizer_config.json", "processor_config.json", "generation_config.json"],
)
@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 100_000])
def test_a_file_that_is_not_json_is_refused_by_name(name: str, content: bytes, copy: Path, manifest: Manifest) -> None:
    (copy / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=f"{name} is not JSON"):
        inspect(copy, manifest)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "processor_config.json", "chat_template.jinja"])
def test_a_file_that_is_missing_is_noticed(name: str, copy: Path, manifest: Manifest) -> None:
    (copy / name).unlink()
    files = {other: entry for other, entry in manifest.files.items() if other != name}
    with pytest.raises(CheckpointError):
        compare_reading(manifest, inspect(copy, manifest.model_copy(update={"files": files})))


@pytest.mark.parametrize("name", ["tokenizer.json", "processor_config.json", "tokenizer_config.json"])
def test_an_empty_object_in_the_place_of_a_file_is_noticed(name: str, copy: Path, manifest: Manifest) -> None:
    (copy / name).write_text("{}")
    with pytest.raises(CheckpointError):
        compare_reading(manifest, inspect(copy, manifest))


@pytest.mark.parametrize("template", ["", "{{ 1 / 0 }}", "{% for", "{{ messages[7] }}", "hello"])
def test_a_template_that_asks_something_else_is_refused(template: str, copy: Path, manifest: Manifest) -> None:
    (copy / "chat_template.jinja").write_text(template)
    with pytest.raises(CheckpointError):
        compare_reading(manifest, inspect(copy, manifest))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"image": ImageContract(size=64, tokens_per_picture=16)}, "image.size is 64"),
        ({"image": ImageContract(size=2048, tokens_per_picture=16)}, "image.size is 2048"),
        ({"image": ImageContract(size=128, tokens_per_picture=15)}, "image.tokens_per_picture is 15"),
        ({"image": ImageContract(size=128, tokens_per_picture=256)}, "image.tokens_per_picture is 256"),
        ({"decoding": Decoding(max_tokens_cot=1024)}, "max_tokens_cot"),
        ({"decoding": Decoding(max_tokens_direct=1024)}, "max_tokens_direct"),
    ],
)
def test_a_manifest_that_contradicts_the_model_is_refused(
    changes: dict[str, Any], reason: str, tiny_checkpoint: Path, manifest: Manifest
) -> None:
    with pytest.raises(CheckpointError, match=reason):
        inspect(tiny_checkpoint, manifest.model_copy(update=changes))


def exchange(first: int, second: int) -> Change:
    def change(tokenizer: dict[str, Any]) -> None:
        ids = tokenizer["model"]["vocab"]
        one, other = (next(word for word, number in ids.items() if number == wanted) for wanted in (first, second))
        ids[one], ids[other] = ids[other], ids[one]

    return change


def reverse_merges(tokenizer: dict[str, Any]) -> None:
    tokenizer["model"]["merges"].reverse()


@pytest.mark.parametrize(
    "change",
    [exchange(100, 101), exchange(300, 700), exchange(400, 401), reverse_merges],
    ids=["two bytes", "two words", "two neighbours", "merges"],
)
def test_entries_of_the_vocabulary_that_change_places_are_noticed(
    change: Change, copy: Path, manifest: Manifest
) -> None:
    edit(copy, "tokenizer.json", change)
    with pytest.raises(CheckpointError, match="tokenizer"):
        compare_reading(manifest, inspect(copy, manifest))


def test_another_prompt_is_noticed(tiny_checkpoint: Path, manifest: Manifest) -> None:
    prompt = COMPACT.model_copy(update={"direct": COMPACT.direct + " "})
    with pytest.raises(CheckpointError, match="prompt for direct"):
        compare_reading(manifest, inspect(tiny_checkpoint, manifest.model_copy(update={"prompt": prompt})))


def test_the_inspection_program_reports_the_fault(copy: Path, capsys: pytest.CaptureFixture[str], monkeypatch) -> None:
    monkeypatch.setattr("resource.setrlimit", lambda *_: None)  # it would limit the tests that follow
    assert main(copy) == 0
    manifest = sealed(read_manifest(copy).model_copy(update={"image": ImageContract(size=64, tokens_per_picture=16)}))
    store_manifest(manifest, copy)
    assert main(copy) == REFUSED
    assert "image.size is 64" in capsys.readouterr().out
