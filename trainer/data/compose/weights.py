"""Folders of model weights: only local ones, only safetensors, no code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from screening.runtime.digests import file_sha256, json_digest
from trainer.data.compose.failures import ComposeError

_INDEX = "model_index.json"
"""The file that names the parts of a pipeline."""
_HARMLESS = frozenset({".safetensors", ".json", ".txt", ".model", ".jinja", ".md", ".png", ".jpg", ".jpeg", ".webp"})
"""Types of files that a folder may contain. Pickles (.bin, .pt, .ckpt, …) and code (.py, .so, …) can run programs."""
_LIBRARIES = frozenset({None, "diffusers", "transformers", "flux", "flux2"})
"""Where the parts of a pipeline may come from. diffusers imports whatever its index names."""
_NO_SUFFIX = frozenset({"LICENSE", "LICENCE", "NOTICE"})


def check_weights(folder: Path | None, option: str, pipeline: str) -> Path:
    """Check that a folder holds a pipeline in diffusers' layout and nothing that could run a program.

    Args:
        option: the option that names the folder, for messages.
        pipeline: name of the expected class of diffusers.

    Raises:
        ComposeError: the folder is missing, has other contents, or contains code or pickles.
    """
    if folder is None:
        raise ComposeError(f"{option} is missing; name the folder with the downloaded weights")
    if not (folder / _INDEX).is_file():
        raise ComposeError(f"{option}: {folder} has no {_INDEX}; name a local folder in diffusers' layout")
    for path in _files(folder):
        if path.suffix.lower() not in _HARMLESS and path.name.upper() not in _NO_SUFFIX:
            raise ComposeError(
                f"{option}: {folder} contains {path.relative_to(folder)}, which may be code or a pickle. Remove it; "
                "only safetensors, JSON and text files are loaded"
            )
    index = read_json(folder / _INDEX)
    if (named := index.get("_class_name")) != pipeline:
        raise ComposeError(f"{option}: {folder} contains {named}, and {pipeline} is needed")
    for part, value in index.items():
        if isinstance(value, list) and value[0] not in _LIBRARIES:
            raise ComposeError(
                f"{option}: {folder / 'model_index.json'}: {part} is from {value[0]}, which is not loaded"
            )
    return folder


def weights_digest(folder: Path) -> str:
    """Digest over the names and bytes of all files that are loaded. It reads every weight once.

    The weights of the whole model in one file, which lie beside the index of some downloads, are not loaded.
    """
    loaded = [path for path in _files(folder) if path.parent != folder or path.name == _INDEX]
    return json_digest({path.relative_to(folder).as_posix(): file_sha256(path) for path in loaded})


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object of a weights folder.

    Raises:
        ComposeError: the file is missing or is not a JSON object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ComposeError(f"{path} cannot be read: {error}") from error
    if not isinstance(value, dict):
        raise ComposeError(f"{path} is not a JSON object")
    return value


def _files(folder: Path) -> list[Path]:
    """All files of a folder, without those of version control and download caches."""
    found = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return [path for path in found if not any(part.startswith(".") for part in path.relative_to(folder).parts)]
