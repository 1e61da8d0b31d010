"""Writes a checkpoint: weights in bfloat16, processor and tokenizer in Hugging Face format, and the manifest."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from screening.checkpoint.manifest import Manifest, write_manifest

if TYPE_CHECKING:
    from transformers import PreTrainedModel, ProcessorMixin


def export(directory: Path, model: PreTrainedModel, processor: ProcessorMixin, **manifest: Any) -> Manifest:
    """Write a checkpoint next to `directory` and move it there by one rename; an existing one is replaced.

    Args:
        manifest: the fields of `screening.checkpoint.manifest.Manifest` except `files` and `created`.
    """
    temporary = directory.with_name(f"{directory.name}.partial")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        save(temporary, model, processor)
        written = write_manifest(temporary, **manifest)
        shutil.rmtree(directory, ignore_errors=True)
        temporary.rename(directory)
    except BaseException:  # a full disk, or Ctrl-C: an incomplete checkpoint would occupy space
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return written


def export_successor(
    directory: Path,
    model: PreTrainedModel,
    processor: ProcessorMixin,
    parent: Manifest,
    *,
    stage: str,
    data: dict[str, Any],
    recipe: dict[str, Any],
) -> Manifest:
    """`export` a checkpoint that was trained from another one and keeps its contract.

    Args:
        stage: becomes the version, and the name of `data` among the parent's data.
    """
    return export(
        directory,
        model,
        processor,
        name=parent.name,
        version=stage,
        base=parent.base,
        parent=parent.digest,
        prompt=parent.prompt,
        dimensions=parent.dimensions,
        image=parent.image,
        decoding=parent.decoding,
        data=with_stage(parent.data, stage, data),
        recipe=recipe,
    )


def with_stage(data: dict[str, Any], stage: str, of_stage: Any) -> dict[str, Any]:
    """Add a stage to the data that a checkpoint was trained on. A repeated stage gets a number, so both are kept."""
    name, number = stage, 1
    while name in data and data[name] != of_stage:
        number += 1
        name = f"{stage} {number}"
    return {**data, name: of_stage}


def save(directory: Path, model: PreTrainedModel, processor: ProcessorMixin) -> None:
    """Write weights, config, tokenizer and processor without changing the model in memory."""
    import torch

    # A copy is rounded, because the training may continue with the float32 weights.
    copy.deepcopy(model).to("cpu", torch.bfloat16).save_pretrained(directory)
    processor.save_pretrained(directory)
    for path in directory.iterdir():
        # safetensors makes files that only their owner can read, but the service runs as another user.
        path.chmod(0o644)
