"""Canary checkpoints: two checkpoints with equal answers but different words, so a text shows which weights wrote it.

Both are made from one source by exact operations, without training:

- **Letters.** Common words of the reasoning are exchanged with symbols that the model never writes, in the embedding
  and in the head. The model computes the same as before but writes, for example, `%` instead of ` is`. One checkpoint
  writes capitals, the other punctuation. A text that one started and the other finished contains both.
- **Signs.** Half of the residual stream's dimensions (a different half in each checkpoint), and in one of the two all
  values of the attention, change their sign in every matrix that writes or reads them. The signs cancel exactly, so the
  answers stay the same. But everything that one checkpoint computed (key-value blocks, encoded pictures) is meaningless
  to the other, so a cache that survives a swap is detected.

This works for InternVL with a Qwen2 language model, the architecture that this service serves.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from loadtest.console import REPOSITORY
from screening.checkpoint.directory import verify, write_manifest
from screening.checkpoint.manifest import Manifest, read_manifest
from screening.errors import CheckpointError

WORDS = (
    *(" is", " a", " and", " number", " it", " product", " unchanged", " stands", " well", " has", " another"),
    *(" observed", " so", " ultimately", " chose"),
)
"""Words that occur throughout the reasoning of every answer, but neither in the prompt nor in the answer grammar."""

ALPHABETS = {"capitals": "EFGHJKLMPQRSUVWXYZ", "punctuation": "%&*#$!?@;=/~^|_()"}
"""Symbols that the shipped checkpoint never writes and that mean nothing to the answer parser."""

_LANGUAGE = "language_model."
_SIGN_BIT = np.uint16(0x8000)
_HEADER_LENGTH = 8


@dataclass(frozen=True, slots=True)
class Canary:
    """A published checkpoint that can be recognised by its texts."""

    directory: Path
    digest: str
    letters: str


def canary_pair(source: Path, store: Path) -> tuple[Canary, Canary]:
    """Make and publish both canaries unless the store has them; publishing starts the engine once for each.

    Raises:
        CheckpointError: the source is incomplete, or its architecture or tokenizer is not supported.
    """
    verify(source)
    first, second = (_published(source, store, name, seed) for seed, name in enumerate(ALPHABETS))
    return first, second


def _published(source: Path, store: Path, name: str, seed: int) -> Canary:
    with tempfile.TemporaryDirectory(prefix="canary-") as folder:
        made = derive(source, Path(folder) / name, name, seed)
        digest = read_manifest(made).digest
        directory = _in_store(store, digest)
        if directory is None:
            command = [sys.executable, "-m", "trainer", "publish", "--checkpoint", str(made), "--store", str(store)]
            command += ["--tracking-uri", "none"]
            done = subprocess.run(  # noqa: S603 - our own trainer
                command, cwd=REPOSITORY, capture_output=True, text=True, check=False
            )
            directory = _in_store(store, digest)
            if done.returncode or directory is None:
                raise CheckpointError(f"the canary checkpoint {name!r} could not be published:\n{done.stderr[-2000:]}")
    return Canary(directory, digest, ALPHABETS[name])


def _in_store(store: Path, digest: str) -> Path | None:
    if not store.is_dir():
        return None
    for path in sorted(store.iterdir()):
        if not path.name.startswith(".") and path.is_dir() and read_manifest(path).digest == digest:
            return path
    return None


def derive(source: Path, target: Path, name: str, seed: int) -> Path:
    """Write one canary from its source, with a manifest but without probes.

    Raises:
        CheckpointError: the architecture or tokenizer of the source is not supported.
    """
    shutil.copytree(source, target)
    manifest = read_manifest(source)
    exchanged = _exchanged(target, ALPHABETS[name])
    weights = Weights(target, manifest)
    signs = np.random.default_rng([seed, 1]).integers(0, 2, weights.shape(f"{_LANGUAGE}lm_head.weight")[1]) == 1
    _exchange_letters(weights, exchanged)
    _change_signs(weights, signs)
    if seed % 2:
        _negate_values(weights)
    weights.close()
    fields = manifest.model_dump(exclude={"format", "files", "created", "probes", "scores"})
    write_manifest(target, **(fields | {"name": f"canary-{name}", "parent": manifest.digest, "scores": {}}))
    return target


class Weights:
    """The bits of every bfloat16 tensor of a checkpoint on disk, which can be changed in place."""

    def __init__(self, directory: Path, manifest: Manifest) -> None:
        self._tensors: dict[str, np.memmap] = {}
        for file in sorted(name for name in manifest.files if name.endswith(".safetensors")):
            path = directory / file
            with path.open("rb") as handle:
                length = int.from_bytes(handle.read(_HEADER_LENGTH), "little")
                header = json.loads(handle.read(length))
            for name, entry in header.items():
                if name != "__metadata__" and entry["dtype"] == "BF16":
                    begin = _HEADER_LENGTH + length + entry["data_offsets"][0]
                    self._tensors[name] = np.memmap(path, "<u2", "r+", begin, tuple(entry["shape"]))

    def __getitem__(self, name: str) -> np.memmap:
        if name not in self._tensors:
            raise CheckpointError(
                f"the checkpoint has no bfloat16 tensor {name}; canaries can only be made from InternVL with Qwen2"
            )
        return self._tensors[name]

    def shape(self, name: str) -> tuple[int, ...]:
        return self[name].shape

    def layers(self) -> Iterator[str]:
        """The prefixes of the layers: `language_model.model.layers.0.` and so on."""
        found = {match[0] for name in self._tensors if (match := re.match(rf"{_LANGUAGE}model\.layers\.\d+\.", name))}
        yield from sorted(found)

    def close(self) -> None:
        for tensor in self._tensors.values():
            tensor.flush()
        self._tensors.clear()


def _exchange_letters(weights: Weights, pairs: Sequence[tuple[int, int]]) -> None:
    for name in (f"{_LANGUAGE}lm_head.weight", f"{_LANGUAGE}model.embed_tokens.weight"):
        rows = weights[name]
        for one, other in pairs:
            rows[[one, other]] = rows[[other, one]]


def _change_signs(weights: Weights, signs: np.ndarray) -> None:
    """
    Args:
        signs: shape (width of the residual stream), True where the sign changes.
    """
    flips = np.where(signs, _SIGN_BIT, np.uint16(0))
    reads, writes = flips[None, :], flips[:, None]
    weights[f"{_LANGUAGE}lm_head.weight"][:] ^= reads
    weights[f"{_LANGUAGE}model.embed_tokens.weight"][:] ^= (
        reads  # one row per token, whose columns are the residual stream
    )
    weights["multi_modal_projector.linear_2.weight"][:] ^= writes
    weights["multi_modal_projector.linear_2.bias"][:] ^= flips
    for layer in weights.layers():
        for name in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "mlp.gate_proj", "mlp.up_proj"):
            weights[f"{layer}{name}.weight"][:] ^= reads
        for name in ("self_attn.o_proj", "mlp.down_proj"):
            weights[f"{layer}{name}.weight"][:] ^= writes


def _negate_values(weights: Weights) -> None:
    """Change the signs of the attention values and of the matrix that reads them.

    Between the two there are only weighted sums, so the two changes cancel.
    """
    for layer in weights.layers():
        for name in ("v_proj.weight", "v_proj.bias", "o_proj.weight"):
            weights[f"{layer}self_attn.{name}"][:] ^= _SIGN_BIT


def _exchanged(directory: Path, letters: str) -> list[tuple[int, int]]:
    """Token ids of the words and of the symbols that replace them."""
    vocabulary = _vocabulary(directory)
    words = [word for word in WORDS if _spelt(word) in vocabulary]
    signs = [sign for sign in letters if sign in vocabulary]
    if len(words) < len(WORDS) or len(signs) < len(words):
        raise CheckpointError(f"{directory}: the tokenizer does not have a single token for each word of the reasoning")
    return [(vocabulary[_spelt(word)], vocabulary[sign]) for word, sign in zip(words, signs, strict=False)]


def _vocabulary(directory: Path) -> Mapping[str, int]:
    path = directory / "tokenizer.json"
    try:
        vocabulary: dict[str, int] = json.loads(path.read_text(encoding="utf-8"))["model"]["vocab"]
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"{path} is not a tokenizer with a vocabulary: {error}") from error
    return vocabulary


def _spelt(word: str) -> str:
    """The word as written in byte-level vocabularies, with Ġ for a space."""
    return word.replace(" ", "Ġ")
