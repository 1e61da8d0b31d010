"""Code around TRL's trainers that SFT and HCM-GRPO share: freezing, training to the end, and resuming."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from accelerate.utils import is_peft_model
from torch.distributed.fsdp import FSDPModule
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    PreTrainedModel,
    Trainer,
    TrainerCallback,
    TrainerState,
    TrainingArguments,
)

from screening.checkpoint.manifest import Manifest, verify
from screening.errors import CheckpointDamaged
from trainer.training.distributed import LaunchError, done_by_first, processes, told_by_first
from trainer.training.efficiency import check_available
from trainer.training.export import export_successor
from trainer.training.lora.model import load_adapters, merged
from trainer.training.recipe.recipe import Recipe, RecipeError
from trainer.training.recipe.stages import HcmGrpoRecipe, SftRecipe
from trainer.training.saved_states import SavedStates, agreed_state
from trainer.training.sharding import check_sharding, gathered, load_weights, prepare_sharding
from trainer.training.tracking.callbacks import LogFile, logged
from trainer.training.tracking.store import Store
from trainer.training.tracking.tracker import Tracker, track
from trainer.training.validation.data import Validation
from trainer.training.validation.scoring import Scorer
from trainer.training.validation.training import Validated, add_validation, load_best, stopped_early

STATES_NAME = "trl"
"""Folder of a run directory with the saved states from which a run resumes."""


class StrictResume(Validated, SavedStates):
    """Mixin for trainers: resume from the weights that were saved, from states that are whole.

    transformers saves keys in hub format and loads them with `strict=False`, so that a resumed run would silently
    continue from the initial weights.
    """

    model: Any

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: torch.nn.Module | None = None) -> None:
        target = model if model is not None else self.model
        if is_peft_model(target):
            load_adapters(target, resume_from_checkpoint)
            return
        saved = AutoModelForImageTextToText.from_pretrained(resume_from_checkpoint, dtype=target.dtype)
        load_weights(target, saved.state_dict())


class OwnIntervals(TrainerCallback):
    """Saves and logs as often as this process was told, also when it continues from a saved state.

    transformers takes these numbers of steps from the state.
    """

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, *_: Any, **__: Any) -> None:
        state.compute_steps(args, state.max_steps)


def check_machine(section: str, settings: SftRecipe | HcmGrpoRecipe) -> None:
    """Check that this machine and the launched processes can run a stage. A stage checks it before it reads its data.

    Args:
        section: section of the recipe, for messages.

    Raises:
        LaunchError: the training was not launched correctly.
        RecipeError: a package or a GPU is missing, or a setting cannot be combined with FSDP.
    """
    check_available(section, settings)
    check_sharding(section, settings)


def train_to_end(
    trainer: Trainer,
    out: Path,
    *,
    checkpoint: Path,
    parent: Manifest,
    origin: Mapping[str, Any],
    data: dict[str, Any],
    recipe: Recipe,
    tracking: Store | None,
    validation: Validation | None = None,
    contract: Mapping[str, Any] = MappingProxyType({}),
) -> Manifest:
    """Train, resuming from the newest complete state if there is one, and write OUT/checkpoint.

    A finished checkpoint is kept, because it may have been calibrated and scored since. Its log is sent to the store.

    Args:
        checkpoint: the checkpoint that the training starts from.
        parent: its manifest.
        origin: the record with which `out` was claimed; its `stage` becomes the version.
        data: facts about the training data, for the manifest.
        tracking: MLflow store that gets a copy of the log; None for none.
        validation: samples by whose score the weights are chosen; None for the last weights.
        contract: fields of the manifest in which the checkpoint differs from its parent.

    Raises:
        CheckpointUnavailable: OUT/checkpoint exists and cannot be read.
        LaunchError: the training was launched with DeepSpeed.
        RecipeError: the training took no step, changed no weight or ended in values that are not finite. Then no
            checkpoint is written.
    """
    if trainer.is_deepspeed_enabled:
        raise LaunchError("a training cannot use DeepSpeed. Launch without it, or with FSDP2 to divide the model")
    state = processes()
    with track(tracking, out, origin) as tracker:
        if finished := done_by_first(lambda: finished_checkpoint(out, origin["stage"], parent), state):
            tracker.checkpoint = finished.digest
            tracker.record(logged(out))
            state.print(
                f"Already written to {out / 'checkpoint'}: {finished.name} {finished.version}, {finished.digest}"
            )
            return finished
        trainer.add_callback(OwnIntervals())
        trainer.add_callback(LogFile(out, tracker))
        if validation:
            processor = AutoProcessor.from_pretrained(checkpoint)
            batch = trainer.args.per_device_train_batch_size
            add_validation(trainer, Scorer(validation, parent, processor, batch=batch))
        prepare_sharding(trainer)
        _train(trainer, out, validation, tracker)
        if validation:
            data = {**data, "validation": load_best(trainer, validation, state)}
        model = trained_model(trainer, checkpoint)
        # In every process, so that none waits for one that has raised.
        check_weights_changed(model, checkpoint, steps=trainer.state.global_step)
        written = None
        if state.is_main_process:
            made = export_successor(
                out / "checkpoint",
                model,
                checkpoint,
                parent,
                stage=origin["stage"],
                data=data,
                recipe=recipe.model_dump(mode="json"),
                contract=contract,
            )
            tracker.checkpoint = made.digest
            written = made.model_dump_json()
            print(f"Written to {out / 'checkpoint'}: {made.name} {made.version}, {made.digest}")
        # The others may not see the directory yet.
        return Manifest.model_validate_json(str(told_by_first(written, state)))


def finished_checkpoint(out: Path, stage: str, parent: Manifest) -> Manifest | None:
    """The manifest of the checkpoint that an earlier process of this run wrote; None if it has to be written.

    Args:
        out: run directory, which belongs to this run.
        stage: stage of the run.
        parent: manifest of the checkpoint from which the run starts.

    Raises:
        CheckpointUnavailable: the checkpoint exists and cannot be read.
    """
    directory = out / "checkpoint"
    if not directory.exists():
        return None
    try:
        found = verify(directory)
    except CheckpointDamaged as error:
        print(f"warning: {error}. The checkpoint is written again, without calibration and scores", file=sys.stderr)
        return None
    return found if (found.version, found.parent) == (stage, parent.digest) else None


def _train(trainer: Trainer, out: Path, validation: Validation | None, tracker: Tracker) -> None:
    """Train from the newest complete state. Nothing is trained if that state ended the training early."""
    resumed = agreed_state(Path(trainer.args.output_dir), processes())
    if validation and (ended := stopped_early(resumed, validation.settings)):
        trainer.state = ended
        tracker.record(logged(out) or ended.log_history)
    else:
        trainer.train(resume_from_checkpoint=resumed)


def trained_model(trainer: Trainer, start: Path) -> PreTrainedModel:
    """The model that was trained, whole. One with adapters is merged with the checkpoint from which it started."""
    model = trainer.accelerator.unwrap_model(trainer.model)
    if isinstance(model, FSDPModule):
        return gathered(model, start)
    return merged(model, start) if is_peft_model(model) else model


def check_weights_changed(model: PreTrainedModel, start: Path, *, steps: int) -> None:
    """Check that training changed the weights, compared in bfloat16 as a checkpoint holds them.

    Args:
        start: checkpoint from which the training started.
        steps: number of optimizer steps that were taken.

    Raises:
        RecipeError: see `train_to_end`.
    """
    if not steps:
        raise RecipeError("the training took no step, so there is no new checkpoint. Give more data or smaller batches")
    now = model.state_dict()
    if broken := next((name for name, tensor in now.items() if not torch.isfinite(tensor).all()), None):
        raise RecipeError(f"the training diverged: {broken} holds values that are not finite. Lower learning_rate")
    before = type(model).from_pretrained(start, dtype=torch.bfloat16).state_dict()
    if all(torch.equal(tensor, now[name].to("cpu", torch.bfloat16)) for name, tensor in before.items()):
        raise RecipeError(
            f"{steps} steps changed no weight, so there is no new checkpoint. Raise learning_rate, "
            "or look into the log: stage 2 learns nothing if all completions of each group earn the same reward"
        )
