"""What can be known of a checkpoint's weights before an engine touches them.

Run on a directory whose files were compared with its manifest (`screening.checkpoint.manifest.verify`). Names, shapes
and types of the tensors are compared with those that the manifest names, and with those of the checkpoint that is
served: an engine does not notice most differences, least of all one that takes up weights in place.
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
"""Loading one of these runs the code in it."""
_INDEX = ".safetensors.index.json"


def read_tensors(directory: Path, manifest: Manifest) -> dict[str, Tensor]:
    """Every tensor of a checkpoint, from the headers of its weight files.

    Raises:
        CheckpointError: no weights, a pickle among the files, a damaged header, or a tensor in two files.
        CheckpointDamaged: the manifest says which tensors there are, and these are others.
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
            raise CheckpointError(f"{directory / index} does not name the tensors and the files that hold them")
    if manifest.tensors is not None and (difference := compare_tensors(manifest.tensors, tensors)):
        raise CheckpointDamaged(f"{directory} holds tensors that are not those of its manifest: {difference}")
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
    """Name of a tensor → file, as an index says, by which engines choose what they load; None where it is not one."""
    try:
        return json.loads(index.read_bytes())["weight_map"]
    except (ValueError, LookupError, TypeError, RecursionError):
        return None


def check_finite(directory: Path, manifest: Manifest) -> None:
    """Read every weight once. Run on files whose headers `read_tensors` has read.

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
"""Type → its bits as an integer, and those of the exponent: all set in NaN and infinity, and in nothing else. numpy has
no bfloat16."""


def _any_all_ones(bits: np.ndarray, exponent: int, chunk: int = 2**24) -> bool:
    mask = bits.dtype.type(exponent)
    return any(bool(((bits[i : i + chunk] & mask) == mask).any()) for i in range(0, len(bits), chunk))


def compare_tensors(old: Mapping[str, Tensor], new: Mapping[str, Tensor]) -> str | None:
    """The first difference between two checkpoints' tensors as a sentence; None when there is none."""
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
    """Name → sha256 of every file that an engine may read besides the weights."""
    return {name: file.sha256 for name, file in manifest.files.items() if not name.endswith((WEIGHTS, _INDEX))}


def changed_files(old: Manifest, new: Manifest) -> list[str]:
    """Files besides the weights that differ: configuration, tokenizer, processor, template.

    An engine reads them only when it starts, so with any of them changed, weights cannot be taken up in place.
    """

    before, after = besides_weights(old), besides_weights(new)
    return sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
