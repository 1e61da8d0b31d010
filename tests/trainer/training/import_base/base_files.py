"""A downloaded base model."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors.torch import load_file, save_file

WEIGHTS = "model.safetensors"

INDEX = "model.safetensors.index.json"


def _have_shards(base: Path) -> None:
    tensors = sorted(load_file(base / WEIGHTS).items())
    files = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    for file, part in zip(files, (tensors[::2], tensors[1::2]), strict=True):
        save_file(dict(part), base / file, {"format": "pt"})
    named = {name: files[place % 2] for place, (name, _) in enumerate(tensors)}
    (base / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": named}))
    (base / WEIGHTS).unlink()
