"""Inspection of a checkpoint's files without an engine. It finds what would fail in every engine.

An engine takes half a minute to fail on an empty `config.json`, and nothing is served meanwhile. The inspection has the
same libraries read the same files without weights: the configuration becomes a model of shapes, which must match the
weight files; tokenizer, chat template and processor turn a question into tokens and pixels, which must match the
manifest.

`trainer publish` calls `inspect`. The service runs this module as a subprocess
(service/engines/checkpoint_inspection.py), because a damaged file can make a library crash or fill the memory.
"""

from __future__ import annotations

import hashlib
import json
import resource
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from screening.checkpoint.manifest import ImageContract, Manifest, read_manifest
from screening.checkpoint.probes import Reading, probe_pictures
from screening.checkpoint.regular_file import read_small
from screening.checkpoint.weights import besides_weights
from screening.errors import CheckpointError
from screening.inference.architecture import check_architecture, quiet_transformers
from screening.inference.generation import prompt_text, tiling_arguments
from screening.prompt import PICTURES_PER_SAMPLE

REFUSED = 3
"""Exit status if the checkpoint is at fault. The reason is on standard output."""
MOST_MEMORY = 16 * 2**30
"""Maximum memory of the subprocess in bytes. A model of shapes takes some hundred MB."""
_QUANTIZED = ("quantization_config", "compression_config")
_QUANTIZING_FILES = ("hf_quant_config.json", "quantize_config.json", "quant_config.json")
"""Files that have the same meaning as these fields of `config.json`."""
_MOST_JSON_BYTES = 256 * 2**20


def inspect(directory: Path, manifest: Manifest) -> Reading:
    """Read everything but the weights as an engine would.

    Args:
        directory: the checkpoint; its files were compared with the manifest.

    Returns:
        How the checkpoint reads text. The caller records this, or compares it with what was recorded.

    Raises:
        CheckpointError: an engine could not load it, or would prepare questions differently from the manifest.
    """
    _check_json(directory, manifest)
    config = _read_config(directory)
    _check_unquantized(config, manifest)
    check_architecture(directory)
    _check_untied(config)
    _check_vision(config, manifest.image)
    with quiet_transformers():
        try:
            return _read(directory, manifest, config)
        except (CheckpointError, MemoryError):  # MemoryError may be the machine's fault.
            raise
        except Exception as error:  # The libraries raise exceptions of many classes.
            raise CheckpointError(
                f"{directory}: its tokenizer, template and processor cannot read a question: {_one_line(error)}"
            ) from error


def compare_reading(manifest: Manifest, found: Reading) -> None:
    """Compare how a checkpoint reads text with what was recorded when it was published.

    Raises:
        CheckpointError: they differ, or nothing was recorded.
    """
    wanted = manifest.probes.reading if manifest.probes else None
    if wanted is None:
        raise CheckpointError("the checkpoint's probes do not record how it reads text. Publish it again with --again")
    if wanted.vocabulary != found.vocabulary:
        raise CheckpointError("the checkpoint's tokenizer produces other tokens than at publishing")
    for mode, digest in found.prompts.items():
        if wanted.prompts.get(mode) != digest:
            raise CheckpointError(f"the checkpoint's prompt for {mode} produces other tokens than at publishing")
    if wanted.files is None:
        raise CheckpointError(
            "the checkpoint's probes do not record which files an engine reads. Publish it again with --again"
        )
    if wanted.files != found.files:  # last, because the other messages say more
        raise CheckpointError(
            "the checkpoint's config.json, or another file besides the weights, was changed after its probes were "
            "recorded. Publish it again with --again"
        )


def _check_json(directory: Path, manifest: Manifest) -> None:
    for name in sorted(name for name in manifest.files if name.endswith(".json")):
        try:
            content = json.loads(read_small(directory / name, _MOST_JSON_BYTES))
        except (ValueError, RecursionError) as error:
            raise CheckpointError(f"{directory / name} is not JSON: {_one_line(error)}") from error
        if name == "config.json" and not isinstance(content, dict):
            raise CheckpointError(f"{directory / name} is not a JSON object")


def _read_config(directory: Path) -> dict[str, Any]:
    try:
        config: dict[str, Any] = json.loads((directory / "config.json").read_bytes())
    except FileNotFoundError:
        raise CheckpointError(f"{directory} has no config.json") from None
    return config


def _check_untied(config: Mapping[str, Any]) -> None:
    """Check that the embeddings are not tied: an engine that reloads tied weights in place keeps the old head.

    Raises:
        CheckpointError: they are tied.
    """
    if config.get("tie_word_embeddings") or (config.get("text_config") or {}).get("tie_word_embeddings"):
        raise CheckpointError(
            "the checkpoint's config.json ties the embeddings, which cannot be swapped. `trainer import` unties them"
        )


def _check_unquantized(config: Mapping[str, Any], manifest: Manifest) -> None:
    """Check that the weights are not quantized: this project neither trains nor swaps such weights.

    Raises:
        CheckpointError: an engine would treat the weights as quantized.
    """
    parts = [config, *(part for name in ("text_config", "vision_config") if isinstance(part := config.get(name), dict))]
    if found := next((key for part in parts for key in _QUANTIZED if part.get(key) is not None), None):
        raise CheckpointError(f"the checkpoint's config.json has a {found}: quantized weights cannot be served")
    if found := next((name for name in _QUANTIZING_FILES if name in manifest.files), None):
        raise CheckpointError(f"the checkpoint holds {found}: quantized weights cannot be served")


def _check_vision(config: Mapping[str, Any], image: ImageContract) -> None:
    """Compare the manifest's picture size with the vision tower's.

    A configuration with other field names passes here; `_check_question` checks its pixels.

    Raises:
        CheckpointError: they differ.
    """
    vision = config.get("vision_config") or {}
    size, patch = _side(vision.get("image_size")), _side(vision.get("patch_size"))
    if size is not None and size != image.size:
        raise CheckpointError(f"image.size is {image.size} in the checkpoint's manifest and {size} in its config.json")
    ratio = config.get("downsample_ratio")
    if size and patch and isinstance(ratio, float) and 0 < ratio <= 1:
        tokens = round((size // patch * ratio) ** 2)
        if tokens != image.tokens_per_picture:
            raise CheckpointError(
                f"image.tokens_per_picture is {image.tokens_per_picture} in the checkpoint's manifest; "
                f"its config.json gives {tokens}"
            )


def _side(value: object) -> int | None:
    """Return the side of a square that is given as 128 or [128, 128]."""
    if isinstance(value, list) and value and all(one == value[0] for one in value):
        value = value[0]
    return value if isinstance(value, int) else None


def _read(directory: Path, manifest: Manifest, config: Mapping[str, Any]) -> Reading:
    from transformers import AutoProcessor, AutoTokenizer

    local: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    tokenizer: Any = AutoTokenizer.from_pretrained(directory, **local)
    processor: Any = AutoProcessor.from_pretrained(directory, **local)
    text_config = config.get("text_config") or config
    rows, last = text_config.get("vocab_size"), max(tokenizer.get_vocab().values())
    if rows is not None and last >= rows:
        raise CheckpointError(
            f"{directory}: its tokenizer has the token {last}, and vocab_size in its config.json is {rows}"
        )
    prompts = {}
    for mode, locate in manifest.prompt.forms:
        text = prompt_text(tokenizer, manifest.prompt, mode, locate)
        ids = _check_question(processor, text, manifest, config)
        limit = manifest.decoding.max_tokens(mode, locate)
        positions = text_config.get("max_position_embeddings")
        if positions is not None and len(ids) + limit > positions:
            raise CheckpointError(
                f"{directory}: a question of {len(ids)} tokens and an answer of {limit} (decoding.max_tokens_"
                f"{'locate' if locate else mode}) exceed the {positions} positions of its config.json. Take fewer "
                "tiles, a shorter prompt or answer"
            )
        if not locate:  # one text per mode shows whether tokenizer and template give the same tokens
            prompts[mode] = _digest(ids)
    files = _digest(sorted(besides_weights(manifest).items()))
    return Reading(vocabulary=_vocabulary(tokenizer), prompts=prompts, files=files)


def _check_question(processor: Any, text: str, manifest: Manifest, config: Mapping[str, Any]) -> list[int]:
    """Prepare one question as the engine's processor does, and return its tokens, those of the pictures included.

    Its pictures have as many tiles as possible, so no question has more tokens.
    """
    image = manifest.image
    pictures = list(probe_pictures(0, image.size, image.max_patches))
    made = processor(text=[text], images=pictures, return_tensors="pt", **tiling_arguments(manifest))
    ids: list[int] = made["input_ids"][0].tolist()
    pixels = list(made["pixel_values"].shape)
    if pixels[-2:] != [image.size, image.size]:
        raise CheckpointError(
            f"image.size is {image.size} in the checkpoint's manifest; its processor gives {pixels[-2]} x {pixels[-1]} "
            "pixels"
        )
    tiles, token = pixels[0], config.get("image_token_id")
    if tiles != PICTURES_PER_SAMPLE * image.most_tiles:
        raise CheckpointError(f"the checkpoint's processor cuts {PICTURES_PER_SAMPLE} pictures into {tiles} tiles")
    if token is not None and ids.count(token) != tiles * image.tokens_per_picture:
        raise CheckpointError(
            f"image.tokens_per_picture is {image.tokens_per_picture} in the checkpoint's manifest; its processor "
            f"writes {ids.count(token)} tokens for {tiles} tiles"
        )
    # Trainings do not tell the processor how to cut.
    alone = processor(text=[text], images=pictures, return_tensors="pt")
    if alone["input_ids"][0].tolist() != ids or not alone["pixel_values"].equal(made["pixel_values"]):
        raise CheckpointError(
            f"image.max_patches is {image.max_patches} in the checkpoint's manifest; its processor_config.json, which "
            "trainings use, cuts pictures differently. Import the base model again"
        )
    return ids


def _vocabulary(tokenizer: Any) -> str:
    """Return a digest of each token's name and text, and of the tokens of a text that holds all of them.

    It changes if any two entries or merges change places.
    """
    count = 1 + max(tokenizer.get_vocab().values())
    names = tokenizer.convert_ids_to_tokens(range(count))
    pieces = [tokenizer.decode([token]) for token in range(count)]
    ids = tokenizer.encode("\n".join(pieces), add_special_tokens=False)
    return _digest([names, pieces, ids])


def _digest(value: object) -> str:
    return "sha256:" + hashlib.sha256(json.dumps(value).encode()).hexdigest()


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"[:500]


def main(directory: Path) -> int:
    """Inspect a checkpoint, and compare how it reads text with what its probes recorded."""
    resource.setrlimit(resource.RLIMIT_DATA, (MOST_MEMORY, MOST_MEMORY))
    try:
        manifest = read_manifest(directory)
        compare_reading(manifest, inspect(directory, manifest))
    except CheckpointError as error:
        print(str(error))
        return REFUSED
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
