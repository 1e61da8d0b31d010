"""Writes a checkpoint: weights in bfloat16, processor and tokenizer in Hugging Face format, and the manifest."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from screening.checkpoint.directory import write_manifest
from screening.checkpoint.manifest import Decoding, Manifest
from screening.checkpoint.weights import besides_weights
from screening.prompt import Prompt, locating
from screening.runtime.atomic_write import replacing_directory
from trainer.training.recipe.stages import BOX_TOKENS

if TYPE_CHECKING:
    from transformers import PreTrainedModel, ProcessorMixin


def export(directory: Path, model: PreTrainedModel, processor: ProcessorMixin, **manifest: Any) -> Manifest:
    """Write a checkpoint next to `directory` and move it there by one rename; an existing one is replaced.

    Args:
        manifest: the fields of `screening.checkpoint.manifest.Manifest` except `files` and `created`.
    """
    with replacing_directory(directory) as temporary:
        save(temporary, model, processor)
        return write_manifest(temporary, **manifest)


def export_successor(
    directory: Path,
    model: PreTrainedModel,
    start: Path,
    parent: Manifest,
    *,
    stage: str,
    data: dict[str, Any],
    recipe: dict[str, Any],
    contract: Mapping[str, Any] = MappingProxyType({}),
) -> Manifest:
    """`export` a checkpoint that was trained from another one and keeps its contract.

    Only the weights are new. All other files are copied, because transformers also writes how it has loaded them, and a
    service whose engine would read a changed file has to restart the engine instead of loading the weights in place.

    Args:
        start: directory of the checkpoint that the training started from.
        parent: its manifest.
        stage: becomes the version, and the name of `data` among the parent's data.
        contract: fields of the manifest in which it differs from the parent: `prompt`, `decoding`.
    """
    with replacing_directory(directory) as temporary:
        _save_model(temporary, model)
        for name in besides_weights(parent):
            (temporary / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(start / name, temporary / name)
        kept = {"prompt": parent.prompt, "decoding": parent.decoding, **contract}
        return write_manifest(
            temporary,
            name=parent.name,
            version=stage,
            base=parent.base,
            parent=parent.digest,
            dimensions=parent.dimensions,
            image=parent.image,
            data=with_stage(parent.data, stage, data),
            recipe=recipe,
            **kept,
        )


def able_to_locate(prompt: Prompt, decoding: Decoding) -> dict[str, Any]:
    """The fields of a manifest by which a service can ask where the issues are."""
    most = decoding.max_tokens_locate or decoding.max_tokens_cot + BOX_TOKENS
    return {"prompt": locating(prompt), "decoding": decoding.model_copy(update={"max_tokens_locate": most})}


def with_stage(data: dict[str, Any], stage: str, of_stage: Any) -> dict[str, Any]:
    """Add a stage to the data that a checkpoint was trained on. A repeated stage gets a number, so both are kept."""
    name, number = stage, 1
    while name in data and data[name] != of_stage:
        number += 1
        name = f"{stage} {number}"
    return {**data, name: of_stage}


def save(directory: Path, model: PreTrainedModel, processor: ProcessorMixin) -> None:
    """Write weights, config, tokenizer and processor without changing the model in memory."""
    processor.save_pretrained(directory)
    _save_model(directory, model)


def _save_model(directory: Path, model: PreTrainedModel) -> None:
    import torch

    # A copy is rounded, because the training may continue with the float32 weights.
    copy.deepcopy(model).to("cpu", torch.bfloat16).save_pretrained(directory)
    for path in directory.iterdir():
        # safetensors makes files that only their owner can read, but the service runs as another user.
        path.chmod(0o644)
