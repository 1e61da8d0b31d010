"""Ways to break a published checkpoint. Each function damages a complete copy.

`(described)` means that the manifest is true of the broken files and sealed, as if the fault had happened before
publishing: neither hashes nor the seal can detect it. `(hashed again)` means that only the hashes are: seal and probes
are old.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from screening.checkpoint.directory import write_manifest
from screening.checkpoint.manifest import MANIFEST_NAME, ImageContract, Manifest, read_manifest, store_manifest
from screening.checkpoint.seal import sealed

WEIGHTS = "model.safetensors"
Weights = dict[str, torch.Tensor]


def describe(directory: Path, parent: Manifest, **changes: Any) -> Manifest:
    """Write the manifest of files that were changed, with the rest of another one, and seal it."""
    manifest = sealed(hash_again(directory, parent, **changes))
    store_manifest(manifest, directory)
    return manifest


def hash_again(directory: Path, parent: Manifest, **changes: Any) -> Manifest:
    """The same with the old seal, as a tool does that knows only the hashes."""
    fields = parent.model_dump(exclude={"files", "created", "format", "tensors"}) | changes
    return write_manifest(directory, **fields)


def rewrite(directory: Path, change: Callable[[Weights], None], **fields: Any) -> None:
    """Other weights, and a manifest that is true of them, with the probes of the old ones."""
    weights = load_file(directory / WEIGHTS)
    change(weights)
    save_file(weights, directory / WEIGHTS, metadata={"format": "pt"})
    describe(directory, read_manifest(directory), **fields)


def _flip(path: Path, place: int, bit: int = 1) -> None:
    with path.open("r+b") as handle:
        handle.seek(place, 2)
        byte = handle.read(1)[0]
        handle.seek(place, 2)
        handle.write(bytes([byte ^ bit]))


def _first(weights: Weights, ending: str) -> str:
    return next(name for name in sorted(weights) if name.endswith(ending))


def _drop(directory: Path, ending: str) -> None:
    def drop(weights: Weights) -> None:
        del weights[_first(weights, ending)]

    rewrite(directory, drop)


def no_such_directory(two: Path) -> None:
    shutil.rmtree(two)


def no_manifest_yet(two: Path) -> None:
    (two / MANIFEST_NAME).unlink()


def truncated_file(two: Path) -> None:
    content = (two / WEIGHTS).read_bytes()
    (two / WEIGHTS).write_bytes(content[: len(content) // 2])


def truncated_file_described(two: Path) -> None:
    truncated_file(two)
    describe(two, read_manifest(two))


def truncated_second_shard_described(two: Path) -> None:
    weights = load_file(two / WEIGHTS)
    names = sorted(weights)
    shards = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file, part in shards.items():
        save_file({name: weights[name] for name in part}, two / file, metadata={"format": "pt"})
    index = {name: file for file, part in shards.items() for name in part}
    (two / f"{WEIGHTS}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    (two / WEIGHTS).unlink()
    last = two / "model-00002-of-00002.safetensors"
    last.write_bytes(last.read_bytes()[:-64])
    describe(two, read_manifest(two))


def no_weight_file_described(two: Path) -> None:
    (two / WEIGHTS).unlink()
    describe(two, read_manifest(two))


def flipped_bit_on_disk(two: Path) -> None:
    _flip(two / WEIGHTS, -4)


def flipped_exponent_described(two: Path) -> None:
    def flip(weights: Weights) -> None:
        bits = weights[_first(weights, "o_proj.weight")].view(torch.int16)
        bits[0, 0] ^= 1 << 14  # the top bit of the exponent

    rewrite(two, flip)


def manifest_of_another(two: Path) -> None:
    shutil.copy(two.parent / "one" / MANIFEST_NAME, two)


def link_to_a_file_outside(two: Path) -> None:
    outside = two.parent.parent / f"outside-{two.name}.json"
    (two / "tokenizer.json").rename(outside)
    (two / "tokenizer.json").symlink_to(outside)


def directory_that_is_a_link_out(two: Path) -> None:
    outside = two.parent.parent / f"outside-{two.name}"
    two.rename(outside)
    two.symlink_to(outside)


def pickle_described(two: Path) -> None:
    (two / "training_args.bin").write_bytes(b"\x80\x04.")
    describe(two, read_manifest(two))


def file_that_is_not_listed(two: Path) -> None:
    (two / "notes.txt").write_text("by hand")


def not_a_number_described(two: Path) -> None:
    def spoil(weights: Weights) -> None:
        weights[_first(weights, "norm.weight")][0] = float("nan")

    rewrite(two, spoil)


def unknown_tensor_described(two: Path) -> None:
    rewrite(two, lambda weights: weights.update(extra=torch.zeros(3)))


def part_of_a_fused_tensor_missing_described(two: Path) -> None:
    _drop(two, "k_proj.weight")


def tensor_missing_described(two: Path) -> None:
    _drop(two, "mlp.down_proj.weight")


def head_missing_described(two: Path) -> None:
    _drop(two, "lm_head.weight")


def other_shape_described(two: Path) -> None:
    def cut(weights: Weights) -> None:
        name = _first(weights, "mlp.up_proj.weight")
        weights[name] = weights[name][:-8].clone()

    rewrite(two, cut)


def other_shape_of_the_head_described(two: Path) -> None:
    def cut(weights: Weights) -> None:
        name = _first(weights, "lm_head.weight")
        weights[name] = weights[name][:-8].clone()

    rewrite(two, cut)


def swapped_tensors_described(two: Path) -> None:
    def swap(weights: Weights) -> None:
        names = [name for name in sorted(weights) if name.endswith("mlp.up_proj.weight")]
        weights[names[0]], weights[names[1]] = weights[names[1]].clone(), weights[names[0]].clone()

    rewrite(two, swap)


def other_prompt_described(two: Path) -> None:
    manifest = read_manifest(two)
    prompt = manifest.prompt.model_copy(update={"cot": manifest.prompt.cot + " Answer.", "version": "other"})
    describe(two, manifest, prompt=prompt)


def no_probes(two: Path) -> None:
    describe(two, read_manifest(two), probes=None)


def _configure(two: Path, change: Callable[[dict[str, Any]], None], file: str = "config.json") -> None:
    path = two / file
    config = json.loads(path.read_text())
    change(config)
    path.write_text(json.dumps(config))


def tied_embeddings_described(two: Path) -> None:
    def tie(config: dict[str, Any]) -> None:
        config["tie_word_embeddings"] = config["text_config"]["tie_word_embeddings"] = True

    _configure(two, tie)
    head_missing_described(two)


def other_architecture_described(two: Path) -> None:
    def deepen(config: dict[str, Any]) -> None:
        config["text_config"]["num_hidden_layers"] += 1
        config["text_config"]["layer_types"] += ["full_attention"]

    _configure(two, deepen)
    describe(two, read_manifest(two))


def other_tokenizer_described(two: Path) -> None:
    path = two / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    ids = tokenizer["model"]["vocab"]
    usual, other = (word for word in list(ids)[100:102])
    ids[usual], ids[other] = ids[other], ids[usual]
    letters = [letter for letter in "ABCD" if letter in ids]
    ids[letters[0]], ids[letters[1]] = ids[letters[1]], ids[letters[0]]
    path.write_text(json.dumps(tokenizer))
    describe(two, read_manifest(two))


def _hashed_again(change: Callable[[Weights], None]) -> Callable[[Path], None]:
    def damage(two: Path) -> None:
        weights = load_file(two / WEIGHTS)
        change(weights)
        save_file(weights, two / WEIGHTS, metadata={"format": "pt"})
        hash_again(two, read_manifest(two))

    return damage


def _flip_sign(weights: Weights) -> None:
    weights[_first(weights, "o_proj.weight")][0, 0] *= -1


def _flip_low_bit(weights: Weights) -> None:
    weights[_first(weights, "attention.q_proj.weight")].view(torch.int16)[0, 0] ^= 1


def _swap_vit_biases(weights: Weights) -> None:
    one, other = (f"vision_tower.encoder.layer.{layer}.mlp.fc2.bias" for layer in (0, 1))
    weights[one], weights[other] = weights[other].clone(), weights[one].clone()


sign_hashed_again = _hashed_again(_flip_sign)
low_bit_hashed_again = _hashed_again(_flip_low_bit)
vit_biases_hashed_again = _hashed_again(_swap_vit_biases)


def sign_described(two: Path) -> None:
    rewrite(two, _flip_sign)


def low_bit_described(two: Path) -> None:
    rewrite(two, _flip_low_bit)


def vit_biases_described(two: Path) -> None:
    rewrite(two, _swap_vit_biases)


def exchange_words(two: Path) -> None:
    path = two / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    ids = tokenizer["model"]["vocab"]
    usual, other = list(ids)[400:402]
    ids[usual], ids[other] = ids[other], ids[usual]
    path.write_text(json.dumps(tokenizer))


def words_hashed_again(two: Path) -> None:
    exchange_words(two)
    hash_again(two, read_manifest(two))


def words_described(two: Path) -> None:
    exchange_words(two)
    describe(two, read_manifest(two))


def _said(change: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
    def damage(two: Path) -> None:
        manifest = json.loads((two / MANIFEST_NAME).read_text())
        change(manifest)
        (two / MANIFEST_NAME).write_text(json.dumps(manifest))

    return damage


absurd_tolerance = _said(lambda manifest: manifest["probes"].update(tolerance=1e9))
higher_tolerance = _said(lambda manifest: manifest["probes"].update(tolerance=1.0))
falling_calibration = _said(lambda manifest: manifest["calibration"]["cot"]["option"].update(slope=-1))
absurd_shift = _said(lambda manifest: manifest["calibration"]["cot"]["shifts"].update(A=1e308))
other_shift = _said(lambda manifest: manifest["calibration"]["cot"]["shifts"].update(A=3.0))
no_picture_size = _said(lambda manifest: manifest["image"].update(size=0))
absurd_picture_size = _said(lambda manifest: manifest["image"].update(size=100_000))


def other_picture_size_described(two: Path) -> None:
    describe(two, read_manifest(two), image=ImageContract(size=256, tokens_per_picture=16))


def other_picture_tokens_described(two: Path) -> None:
    describe(two, read_manifest(two), image=ImageContract(size=128, tokens_per_picture=15))


def manifest_is_a_fifo(two: Path) -> None:
    (two / MANIFEST_NAME).unlink()
    os.mkfifo(two / MANIFEST_NAME)


def weights_are_a_fifo(two: Path) -> None:
    (two / WEIGHTS).unlink()
    os.mkfifo(two / WEIGHTS)


def manifest_of_a_terabyte(two: Path) -> None:
    with (two / MANIFEST_NAME).open("wb") as handle:
        handle.truncate(2**40)  # a sparse file


def empty_configuration_described(two: Path) -> None:
    (two / "config.json").write_text("{}")
    describe(two, read_manifest(two))


def no_json_described(two: Path) -> None:
    (two / "config.json").write_text("{")
    describe(two, read_manifest(two))


def wider_described(two: Path) -> None:
    _configure(two, lambda config: config["text_config"].update(hidden_size=512))
    describe(two, read_manifest(two))


def _configured(change: Callable[[dict[str, Any]], None], file: str = "config.json") -> Callable[[Path], None]:
    def damage(two: Path) -> None:
        _configure(two, change, file)
        describe(two, read_manifest(two))

    return damage


unknown_architecture_described = _configured(lambda config: config.update(architectures=["NoSuchModel"]))
quantized_described = _configured(lambda config: config.update(quantization_config={"quant_method": "fp8"}))
number_format_described = _configured(lambda config: config.update(dtype="float16"))
other_mean_described = _configured(
    lambda config: config["image_processor"].update(image_mean=[0.0, 0.0, 0.0]), "processor_config.json"
)


def short_index_described(two: Path) -> None:
    (two / f"{WEIGHTS}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": {}}))
    describe(two, read_manifest(two))


def _without(name: str) -> Callable[[Path], None]:
    def damage(two: Path) -> None:
        (two / name).unlink()
        describe(two, read_manifest(two))

    return damage


no_tokenizer_described = _without("tokenizer.json")
no_processor_described = _without("processor_config.json")
no_template_described = _without("chat_template.jinja")


DAMAGES: dict[Callable[[Path], None], str] = {
    no_such_directory: "no such directory",
    no_manifest_yet: "half copied: the manifest is not there yet",
    truncated_file: "truncated file",
    flipped_bit_on_disk: "one bit flipped in one weight, on disk",
    manifest_of_another: "manifest of another checkpoint",
    file_that_is_not_listed: "a file that the manifest does not list",
    link_to_a_file_outside: "a file is a link out of the store",
    directory_that_is_a_link_out: "the directory is a link out of the store",
    truncated_file_described: "truncated file (described)",
    truncated_second_shard_described: "second shard truncated (described)",
    no_weight_file_described: "no weight file (described)",
    pickle_described: "a pickle among the files (described)",
    not_a_number_described: "NaN weights (described)",
    no_probes: "no probes",
    unknown_tensor_described: "unknown extra tensor (described)",
    part_of_a_fused_tensor_missing_described: "one of the fused q/k/v missing (described)",
    tensor_missing_described: "another tensor missing (described)",
    head_missing_described: "`lm_head` missing (described)",
    other_shape_described: "wrong shape in the MLP (described)",
    other_shape_of_the_head_described: "wrong shape of `lm_head` (described)",
    flipped_exponent_described: "one bit flipped in one weight (described)",
    swapped_tensors_described: "two tensors of equal shape swapped (described)",
    other_prompt_described: "other prompt with old weights (described)",
    tied_embeddings_described: "tied embeddings (described)",
    other_tokenizer_described: "other tokenizer (described)",
    other_architecture_described: "configuration of another architecture (described)",
    vit_biases_hashed_again: "two biases of the ViT swapped (hashed again)",
    low_bit_hashed_again: "the lowest bit of one weight flipped (hashed again)",
    sign_hashed_again: "the sign of one weight flipped (hashed again)",
    vit_biases_described: "two biases of the ViT swapped (described)",
    low_bit_described: "the lowest bit of one weight flipped (described)",
    sign_described: "the sign of one weight flipped (described)",
    words_hashed_again: "two words of the vocabulary exchanged (hashed again)",
    words_described: "two words of the vocabulary exchanged (described)",
    absurd_tolerance: "tolerance of the probes 1e9",
    higher_tolerance: "tolerance of the probes 1.0",
    falling_calibration: "calibration with a slope of -1",
    absurd_shift: "calibration with a shift of 1e308",
    other_shift: "calibration with a shift of 3",
    no_picture_size: "picture size 0",
    absurd_picture_size: "picture size 100000",
    other_picture_size_described: "picture size 256, and the model takes 128 (described)",
    other_picture_tokens_described: "15 tokens per picture, and the model has 16 (described)",
    empty_configuration_described: "empty configuration (described)",
    no_json_described: "configuration that is not JSON (described)",
    wider_described: "configuration of twice the width (described)",
    unknown_architecture_described: "architecture that no engine knows (described)",
    quantized_described: "weights declared as quantized (described)",
    number_format_described: "another number format (described)",
    other_mean_described: "another mean of the pixels (described)",
    short_index_described: "an index that leaves tensors out (described)",
    no_tokenizer_described: "no tokenizer (described)",
    no_processor_described: "no processor (described)",
    no_template_described: "no chat template (described)",
    manifest_is_a_fifo: "manifest is a FIFO",
    weights_are_a_fifo: "weights are a FIFO",
    manifest_of_a_terabyte: "manifest of a terabyte",
}
"""Each damage and its name in docs/decisions/broken-checkpoints.md."""
