"""Checks of a checkpoint's weights that need no engine.

They run on a directory whose files were compared with its manifest (`screening.checkpoint.directory.verify`). They
compare names, shapes and types of the tensors with those in the manifest, and with those of the served checkpoint. An
engine does not notice most differences, least of all when it reloads weights in place.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from screening.checkpoint.manifest import Manifest, Tensor
from screening.errors import CheckpointDamaged, CheckpointError, CheckpointUnavailable

WEIGHTS = ".safetensors"
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib")
"""File types that run code when they are loaded."""
_INDEX = ".safetensors.index.json"


def read_tensors(directory: Path, manifest: Manifest) -> dict[str, Tensor]:
    """Return every tensor of a checkpoint, from the headers of its weight files.

    Raises:
        CheckpointError: there are no weights, there is a pickle, a header is damaged, or a tensor is in two files.
        CheckpointDamaged: the tensors are not those that the manifest lists.
        CheckpointUnavailable: a file cannot be read.
    """
    if pickles := sorted(name for name in manifest.files if name.lower().endswith(PICKLES)):
        raise CheckpointError(f"{directory} holds {', '.join(pickles)}: a pickle runs code when it is loaded")
    files = sorted(name for name in manifest.files if name.endswith(WEIGHTS))
    if not files:
        raise CheckpointError(f"{directory} holds no weights ({WEIGHTS})")
    tensors: dict[str, Tensor] = {}
    places: dict[str, str] = {}
    for file in files:
        for name, tensor in _header(directory / file).items():
            if name in tensors:
                raise CheckpointError(f"{directory}: the tensor {name} is in two files")
            tensors[name], places[name] = tensor, file
    for index in (name for name in manifest.files if name.endswith(_INDEX)):
        if _indexed(directory / index) != places:
            raise CheckpointError(f"{directory / index} does not list the tensors with the files that hold them")
    if manifest.tensors is not None and (difference := compare_tensors(manifest.tensors, tensors)):
        raise CheckpointDamaged(f"{directory} holds other tensors than its manifest lists: {difference}")
    return tensors


def _header(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as weights:
            parts = {name: weights.get_slice(name) for name in weights.keys()}  # noqa: SIM118 - not a mapping
            return {name: Tensor(part.get_dtype(), tuple(part.get_shape())) for name, part in parts.items()}
    except SafetensorError as error:
        raise CheckpointError(f"{path} is damaged: {error}") from error
    except OSError as error:
        raise CheckpointUnavailable(f"{path} cannot be read: {error}") from error


def _indexed(index: Path) -> object:
    """Return the index's map from tensors to files, by which engines choose what they load; None if it has none."""
    try:
        return json.loads(index.read_bytes())["weight_map"]
    except (ValueError, LookupError, TypeError, RecursionError):
        return None


def check_finite(directory: Path, manifest: Manifest) -> None:
    """Read every weight once, after `read_tensors` has checked the headers.

    Raises:
        CheckpointError: a weight is NaN or infinite.
    """
    for file in sorted(name for name in manifest.files if name.endswith(WEIGHTS)):
        path = directory / file
        with path.open("rb") as handle:
            start = int.from_bytes(handle.read(8), "little")
            header = json.loads(handle.read(start))
        for name, entry in header.items():
            if name != "__metadata__" and entry["dtype"] in _EXPONENTS:
                dtype, exponent = _EXPONENTS[entry["dtype"]]
                begin, end = entry["data_offsets"]
                count = (end - begin) // np.dtype(dtype).itemsize
                if count and _any_all_ones(np.memmap(path, dtype, "r", 8 + start + begin, (count,)), exponent):
                    raise CheckpointError(f"{path}: {name} holds values that are not finite")


_EXPONENTS: dict[str, tuple[str, int]] = {
    "BF16": ("<u2", 0x7F80),
    "F16": ("<u2", 0x7C00),
    "F32": ("<u4", 0x7F80_0000),
    "F64": ("<u8", 0x7FF0_0000_0000_0000),
}
"""Type → an integer type of the same size, and the bits of the exponent. They are all set in NaN and infinity, and in
no other value. Integers are used because numpy lacks bfloat16."""


def _any_all_ones(bits: np.ndarray, exponent: int, chunk: int = 2**24) -> bool:
    mask = bits.dtype.type(exponent)
    return any(bool(((bits[i : i + chunk] & mask) == mask).any()) for i in range(0, len(bits), chunk))


def compare_tensors(old: Mapping[str, Tensor], new: Mapping[str, Tensor]) -> str | None:
    """Return the first difference between two checkpoints' tensors as text; None if there is none."""
    if missing := sorted(old.keys() - new.keys()):
        return f"{len(missing)} tensors are missing, the first is {missing[0]}"
    if added := sorted(new.keys() - old.keys()):
        return f"{len(added)} tensors are unknown, the first is {added[0]}"
    for name, tensor in old.items():
        if tensor != new[name]:
            found = new[name]
            return f"{name} is {found.dtype} {list(found.shape)}, not {tensor.dtype} {list(tensor.shape)}"
    return None


def besides_weights(manifest: Manifest) -> dict[str, str]:
    """Return the SHA-256 of every file besides the weights that an engine may read, by name."""
    return {name: file.sha256 for name, file in manifest.files.items() if not name.endswith((WEIGHTS, _INDEX))}


def changed_for_engine(old: Manifest, new: Manifest) -> list[str]:
    """Return what differs of all that an engine reads only at its start: the files besides the weights (configuration,
    tokenizer, processor, template), and how pictures are cut into tiles, which is an engine argument.

    If anything differs, the weights cannot be reloaded in place.
    """
    before, after = besides_weights(old), besides_weights(new)
    changed = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
    return changed or (["image"] if old.image != new.image else [])
