"""Checks the files of a downloaded base model, and finds out its name and revision.

All checks run before anything is loaded: transformers fills missing tensors with random numbers, and reports of a
partly downloaded file only that its header is too large.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from screening.errors import UserError
from screening.runtime.digests import file_sha256, json_digest

CONFIG = "config.json"
ADAPTERS = "adapter_config.json"
"""File with which peft marks a directory that holds adapters."""
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
OTHER_FORMATS = ("*.gguf", "*.onnx", "*.h5", "*.msgpack", "*.npz")
DTYPES = frozenset({"F64", "F32", "F16", "BF16"})
"""Number formats that can be rounded to bfloat16. Tensors in other formats are quantized."""
WANTED = ("*.json", "*.safetensors", "*.txt", "*.jinja", "*.model")
"""Files that are downloaded from the hub and read."""

_NEEDED = {
    "configuration": (CONFIG,),
    "tokenizer": ("tokenizer.json", "vocab.json"),
    "configuration of the tokenizer": ("tokenizer_config.json",),
    "processor": ("processor_config.json", "preprocessor_config.json"),
}
"""Part of a model → files of which at least one must exist."""
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_POINTER = b"version https://git-lfs.github.com/spec/"
_COMMIT = re.compile(r"[0-9a-f]{40}")


class BaseModelError(UserError):
    """The base model is missing, incomplete, or cannot be trained here; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Source:
    """A base model whose files are complete."""

    directory: Path
    name: str
    """Name on the hub if that is known; else the name of the directory."""
    commit: str | None
    """Downloaded revision, if the download recorded it."""
    weights: tuple[Path, ...]
    dtypes: tuple[str, ...]
    """Number formats of the tensors, as the weight files name them."""

    def record(self) -> dict[str, Any]:
        """The facts that a manifest keeps, as JSON values. Reads every file once."""
        files = {path.name: file_sha256(path) for path in sorted(_wanted(self.directory))}
        return {"name": self.name, "commit": self.commit, "files": json_digest(files), "dtypes": list(self.dtypes)}


def find_source(source: str) -> Source:
    """Find a base model in a directory or on the hub, and check its files.

    Args:
        source: directory, or name on the hub, from which the model is then downloaded into the hub's cache.

    Raises:
        BaseModelError: see the class.
        OSError: a file cannot be read.
    """
    directory = _directory(source)
    refuse_adapters(directory)
    _check_files(directory)
    weights = _weights(directory)
    _check_trainable(directory)
    dtypes = sorted({dtype for path in weights for dtype in _dtypes(path)})
    return Source(directory, _name(directory), _commit(directory), weights, tuple(dtypes))


def _directory(source: str) -> Path:
    path = Path(source).expanduser()
    if path.is_dir():
        return path
    if path.exists():
        raise BaseModelError(f"{path} is a file. Give the directory of the downloaded model")
    if not _HUB_NAME.fullmatch(source):
        raise BaseModelError(f"{path} does not exist. Give the directory of a downloaded model")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(source, allow_patterns=list(WANTED)))
    except Exception as error:  # the hub's client, its HTTP library and the network raise many kinds of errors
        raise BaseModelError(
            f"{source} is not a directory, and the hub did not provide it ({type(error).__name__}). Download the model "
            f"(`hf download {source} --local-dir DIR`) and give --model DIR"
        ) from error


def refuse_adapters(directory: Path) -> None:
    """Refuse a model with adapters beside its weights, which transformers would load if peft is installed.

    Raises:
        BaseModelError: the directory holds adapters.
    """
    if (directory / ADAPTERS).exists():
        raise BaseModelError(
            f"{directory} holds adapters ({ADAPTERS}), but a training starts from whole weights. Merge them into the "
            "weights first (peft: `merge_and_unload`, then `save_pretrained`)"
        )


def _check_trainable(directory: Path) -> None:
    config = read_json(directory / CONFIG)
    kind = config.get("model_type") if isinstance(config, dict) else None
    if kind != "internvl":
        raise BaseModelError(
            f"{directory / CONFIG} names the model type {kind!r}, not 'internvl'. The trainer needs the Hugging Face "
            "format (repositories whose name ends in -hf)"
        )
    if config.get("quantization_config"):
        raise BaseModelError(f"{directory} is a quantized model. Take the original with floating-point weights")


def _check_files(directory: Path) -> None:
    for path in sorted(path for pattern in WANTED for path in directory.glob(pattern)):
        if path.is_symlink() and not path.exists():
            raise BaseModelError(
                f"{path} is a link to {path.readlink()}, which does not exist: the download was interrupted or its "
                "cache was cleared. Download the model again"
            )
    for path in sorted(_wanted(directory)):
        with path.open("rb") as handle:
            if handle.read(len(_POINTER)) == _POINTER:
                raise BaseModelError(
                    f"{path} is a Git LFS pointer, not the file itself. Run `git lfs install && git lfs pull` in "
                    f"{directory}, or download the model with `hf download`"
                )
        if path.suffix == ".json":
            read_json(path)
    for part, names in _NEEDED.items():
        if not any((directory / name).is_file() for name in names):
            raise BaseModelError(
                f"{directory} has no {part} ({' or '.join(names)}). Download all of the model, for example with "
                "`hf download NAME --local-dir DIR`"
            )


def _weights(directory: Path) -> tuple[Path, ...]:
    """The weight files that the model consists of."""
    if (directory / WEIGHTS).is_file():
        return (directory / WEIGHTS,)
    if (directory / INDEX).is_file():
        return _shards(directory)
    if pickles := sorted(path.name for pattern in PICKLES for path in directory.glob(pattern)):
        raise BaseModelError(
            f"{directory} has its weights only as a pickle ({pickles[0]}), which can run code when it is loaded. Take "
            f"a revision of the model with {WEIGHTS}"
        )
    if others := sorted(path.name for pattern in OTHER_FORMATS for path in directory.glob(pattern)):
        raise BaseModelError(
            f"{directory} has its weights only in another format ({others[0]}). Take a revision with {WEIGHTS}"
        )
    raise BaseModelError(f"{directory} has no weights ({WEIGHTS}, or {INDEX} and its files). Download all of the model")


def _shards(directory: Path) -> tuple[Path, ...]:
    index = read_json(directory / INDEX)
    named = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(named, dict) or not named or not all(isinstance(name, str) for name in named.values()):
        raise BaseModelError(f"{directory / INDEX} names no weight files. Download it again")
    files = sorted(set(named.values()))
    for name in files:
        if Path(name).name != name or not (directory / name).is_file():
            raise BaseModelError(f"{directory / INDEX} names {name}, which does not exist. Download all of the model")
    return tuple(directory / name for name in files)


def _dtypes(path: Path) -> set[str]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as weights:
            dtypes = {name: weights.get_slice(name).get_dtype() for name in weights.keys()}  # noqa: SIM118 - no mapping
    except SafetensorError as error:
        raise BaseModelError(
            f"{path} ({path.stat().st_size:,} bytes) is truncated or damaged: {error}. Download it again"
        ) from error
    if quantized := next((name for name, dtype in dtypes.items() if dtype not in DTYPES), None):
        raise BaseModelError(
            f"{path} holds {quantized} as {dtypes[quantized]}: the weights are quantized, or not a model's. Take the "
            "original with floating-point weights"
        )
    return set(dtypes.values())


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        BaseModelError: it is not JSON, for example because it is truncated.
    """
    try:
        return json.loads(path.read_bytes())
    except ValueError as error:
        raise BaseModelError(f"{path} is not JSON: {error}. Download it again") from error


def _wanted(directory: Path) -> Iterator[Path]:
    return (path for pattern in WANTED for path in directory.glob(pattern) if path.is_file())


def _name(directory: Path) -> str:
    """The model's name. In the hub's cache, a snapshot of `Owner/Model` is in models--Owner--Model/snapshots/COMMIT."""
    if directory.parent.name == "snapshots" and directory.parent.parent.name.startswith("models--"):
        return directory.parent.parent.name.removeprefix("models--").replace("--", "/", 1)
    return directory.resolve().name


def _commit(directory: Path) -> str | None:
    """The revision that the hub's cache, `hf download --local-dir` or git recorded; None if there is no record."""
    if directory.parent.name == "snapshots":
        return directory.name
    noted = directory / ".cache" / "huggingface" / "download" / f"{CONFIG}.metadata"
    head = directory / ".git" / "HEAD"
    for path in (noted, head, directory / ".git" / _text(head).removeprefix("ref: ")):
        if _COMMIT.fullmatch(found := _text(path)):
            return found
    return None


def _text(path: Path) -> str:
    """The first line of a small file; empty if it cannot be read."""
    try:
        return path.read_text(encoding="utf-8").partition("\n")[0].strip()
    except (OSError, UnicodeDecodeError):
        return ""
