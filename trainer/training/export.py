"""Writing a checkpoint: weights in bfloat16, processor and tokenizer in Hugging Face format, then the manifest."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from screening.checkpoint.manifest import Manifest, write_manifest

if TYPE_CHECKING:
    from transformers import PreTrainedModel, ProcessorMixin


def export(directory: Path, model: PreTrainedModel, processor: ProcessorMixin, **manifest: Any) -> Manifest:
    """Write a whole checkpoint beside `directory` and put it there by one rename; one that is there is replaced.

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
    except BaseException:  # a full disk, or Ctrl-C: half a checkpoint would hold the room that is short
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
        stage: becomes the version, and the name under which `data` joins the parent's.
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
    """What a checkpoint was trained on, one stage more. A second round of a stage is numbered: none is forgotten."""
    name, number = stage, 1
    while name in data and data[name] != of_stage:
        number += 1
        name = f"{stage} {number}"
    return {**data, name: of_stage}


def save(directory: Path, model: PreTrainedModel, processor: ProcessorMixin) -> None:
    """Write weights, config, tokenizer and processor; the model in memory stays as it is."""
    import torch

    # A copy: rounding the model in place would round the weights that training goes on with.
    copy.deepcopy(model).to("cpu", torch.bfloat16).save_pretrained(directory)
    processor.save_pretrained(directory)
    for path in directory.iterdir():
        path.chmod(0o644)  # weights are written readable by their owner only; the service runs as somebody else
