"""Trains one SFT stage. Read it top to bottom: checks, data, model, TRL."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import torch
from datasets import Dataset
from transformers import AutoProcessor
from trl import SFTConfig, SFTTrainer

from screening.answer import Mode
from screening.checkpoint.directory import verify
from screening.checkpoint.manifest import Manifest
from screening.runtime.environment import shorten_socket_paths
from trainer.data_directory import DataError, data_digest, read_frame, read_samples
from trainer.records import licences_of, pseudo_labels_of
from trainer.runs.run_directory import claim, occupy
from trainer.training.distributed import done_by_first, processes
from trainer.training.efficiency import OPTIM
from trainer.training.enough_data import captions_problem, refuse, sft_problem
from trainer.training.export import able_to_locate
from trainer.training.finetuning import STATES_NAME, StrictResume, check_machine, train_to_end
from trainer.training.freezing import freeze_vision
from trainer.training.lora.model import adapter_config, check_lora, load_for_training, prepare
from trainer.training.number_format import computed_in
from trainer.training.positions import check_places
from trainer.training.recipe.recipe import Recipe, load_recipe
from trainer.training.recipe.stages import SftRecipe
from trainer.training.sft.agreement import check_dimensions, check_reasoning
from trainer.training.sft.answer_length import check_lengths
from trainer.training.sft.rows import caption_rows, dataset, screening_rows
from trainer.training.sharding import is_sharded
from trainer.training.tracking.store import Store
from trainer.training.validation.data import Validation, check_given, read_validation

Section = Literal["sft_weak", "sft_answer"]


class StrictSFTTrainer(StrictResume, SFTTrainer):
    """SFTTrainer that resumes from the weights it saved and continues its count of tokens."""

    def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
        # TRL counts from 0 in every process. The trainer's state is saved, and nothing else uses this field of it.
        self._total_train_tokens = self.state.num_input_tokens_seen
        result = super().compute_loss(*args, **kwargs)
        self.state.num_input_tokens_seen = self._total_train_tokens
        return result


def train(
    stage: str,
    recipe_name: str,
    checkpoint: Path,
    data: Path,
    out: Path,
    limit: int | None,
    tracking: Store | None = None,
    validation_data: Path | None = None,
) -> Manifest:
    """Train stage 1.1 (`weak`) or 1.2 (`answer-driven`) and write OUT/checkpoint.

    Args:
        tracking: MLflow store that gets a copy of the log; None for none.
        validation_data: data directory for `trainer.training.validation`; None for none.

    Raises:
        CheckpointError, DataError, RecipeError: an input cannot be used.
        LaunchError, RunMismatch: see `train_on_rows`.
    """
    recipe = load_recipe(recipe_name)
    section: Section = "sft_weak" if stage == "weak" else "sft_answer"
    settings: SftRecipe = getattr(recipe, section)
    check_machine(section, settings)
    manifest = verify(checkpoint)
    recipe.refuse_other_prompt(manifest.prompt)
    recipe.refuse_other_tiles(manifest.image)
    recipe.refuse_other_length(manifest.decoding)
    inputs = _read_inputs(section, settings, checkpoint, manifest, data, limit, validation_data)
    return train_on_rows(
        inputs.rows,
        out,
        recipe=recipe,
        section=section,
        checkpoint=checkpoint,
        parent=manifest,
        origin={"stage": f"sft-{stage}", "data": inputs.digest, "limit": limit},
        samples=inputs.samples,
        facts=inputs.facts,
        tracking=tracking,
        validation=inputs.validation,
    )


@dataclass(frozen=True, slots=True)
class _Inputs:
    """What a stage needs of its data. The samples themselves, about 20 KB each, are not kept."""

    rows: Dataset
    digest: str
    samples: int
    facts: Mapping[str, Any]
    validation: Validation | None


def _read_inputs(
    section: Section,
    settings: SftRecipe,
    checkpoint: Path,
    manifest: Manifest,
    data: Path,
    limit: int | None,
    validation_data: Path | None,
) -> _Inputs:
    samples = read_samples(data)
    used = samples[:limit]
    strict = section == "sft_answer"

    def check() -> str:
        check_reasoning(used, strict=strict)
        check_dimensions(used, manifest.dimensions)
        return data_digest(data, samples)

    digest = done_by_first(check, processes())
    validation = read_validation(
        validation_data,
        settings.validation,
        section,
        training=samples,
        data=data,
        parent=manifest,
        seed=settings.seed,
        mode=Mode.DIRECT if settings.direct_share == 1 else Mode.COT,
    )
    rows = screening_rows(
        used,
        manifest.prompt,
        direct_share=settings.direct_share,
        seed=settings.seed,
        locate=settings.locate,
        frame_of=lambda file: read_frame(data, file, manifest.image),
    )
    able = able_to_locate(manifest.prompt, manifest.decoding) if settings.locate else {}
    decoding = able.get("decoding", manifest.decoding)
    done_by_first(lambda: check_lengths(used, rows, decoding, checkpoint, strict=strict), processes())
    if settings.captions:
        described = caption_rows(used, most=settings.captions_per_sample, seed=settings.seed)
        if problem := captions_problem(section, settings, len(described)):
            raise DataError(problem)
        rows += described
    table = dataset(rows, data, manifest.image)
    return _Inputs(table, digest, len(used), {**licences_of(used), **pseudo_labels_of(used)}, validation)


def train_on_rows(
    rows: Dataset,
    out: Path,
    *,
    recipe: Recipe,
    section: Section,
    checkpoint: Path,
    parent: Manifest,
    origin: Mapping[str, Any],
    samples: int,
    facts: Mapping[str, Any] = MappingProxyType({}),
    tracking: Store | None = None,
    validation: Validation | None = None,
) -> Manifest:
    """Train on rows and write OUT/checkpoint. A killed run with the same settings is continued.

    Args:
        rows: as `trainer.training.sft.rows` makes them.
        section: section of the recipe whose settings are used.
        checkpoint: the checkpoint to start from.
        parent: its manifest.
        origin: stage, data digest and whatever else decides the rows, for `run.json`.
        samples: number of samples of the rows, for the manifest.
        facts: further facts about the data, for the manifest.
        validation: samples by whose score the weights are chosen; None for the last weights.

    Raises:
        RecipeError: there are fewer rows than one step takes, a package or a GPU that the recipe needs is missing, or
            the recipe asks for a validation and there is none.
        LaunchError: the training was not launched correctly.
        RunMismatch: OUT holds something else, or a run with other settings.
    """
    state = processes()
    settings: SftRecipe = getattr(recipe, section)
    refuse(sft_problem(section, settings, len(rows), state.num_processes))
    check_given(section, settings.validation, validation)
    check_machine(section, settings)
    check_lora(checkpoint, settings.lora, vision=False)
    if settings.locate:
        check_places(section, checkpoint, parent)
    origin = {**origin, "settings": settings.deciding, "parent": parent.digest, "processes": state.num_processes}
    if is_sharded():
        origin["sharded"] = True
    if validation:
        origin["validation"] = validation.digest
    with state.main_process_first():
        if state.is_main_process:
            claim(out, origin)
            occupy(out)
    return train_to_end(
        build_trainer(checkpoint, rows, settings, out / STATES_NAME),
        out,
        checkpoint=checkpoint,
        parent=parent,
        origin=origin,
        data={"digest": origin["data"], "samples": samples, **facts},
        recipe=recipe,
        tracking=tracking,
        validation=validation,
        contract=able_to_locate(parent.prompt, parent.decoding) if settings.locate else {},
    )


def build_trainer(checkpoint: Path, rows: Dataset, settings: SftRecipe, output: Path) -> StrictSFTTrainer:
    """Build the trainer of a model whose ViT and aligner are frozen. With LoRA, all weights but the adapters are.

    Args:
        rows: as `trainer.training.sft.rows` makes them.
        output: directory of TRL's saved states.
    """
    shorten_socket_paths()
    model = load_for_training(checkpoint, settings.lora, settings.attention)
    freeze_vision(model)
    trainer = StrictSFTTrainer(
        model=model,
        peft_config=adapter_config(model, settings.lora, vision=False),
        processing_class=AutoProcessor.from_pretrained(checkpoint),
        train_dataset=rows,
        args=arguments(settings, output),
    )
    if settings.lora:
        prepare(trainer.model)
    return trainer


def arguments(settings: SftRecipe, output: Path) -> SFTConfig:
    """TRL's settings for one stage."""
    return SFTConfig(
        output_dir=str(output),
        num_train_epochs=settings.epochs,
        per_device_train_batch_size=settings.batch_size,
        gradient_accumulation_steps=settings.gradient_accumulation,
        learning_rate=settings.learning_rate,
        warmup_steps=settings.warmup_ratio,
        weight_decay=settings.weight_decay,
        optim=OPTIM[settings.optimizer],
        lr_scheduler_type="cosine",
        max_length=None,  # the default of 1024 silently cuts image tokens or whole answers
        completion_only_loss=True,
        bf16=computed_in() is torch.bfloat16,
        gradient_checkpointing=settings.gradient_checkpointing,
        use_cpu=not torch.cuda.is_available(),
        remove_unused_columns=False,
        save_strategy="steps",
        save_steps=settings.save_steps,
        logging_steps=10,
        report_to="none",
        seed=settings.seed,
        data_seed=settings.seed,
        dataloader_num_workers=1,
        # Starting workers draws a random number, and persistent workers start only in the first epoch. A resumed run
        # would draw another time, and its dropout would differ from that of an unbroken run.
        dataloader_persistent_workers=not (settings.lora and settings.lora.dropout),
    )
