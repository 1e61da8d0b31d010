"""One SFT stage, read top to bottom: check, data, model, TRL."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoModelForImageTextToText, AutoProcessor
from trl import SFTConfig, SFTTrainer

from screening.checkpoint.manifest import Manifest, verify
from trainer.data_directory import data_digest, read_samples
from trainer.runs.run_directory import claim, occupy
from trainer.training.distributed import origin_entry, processes
from trainer.training.enough_data import refuse, sft_problem
from trainer.training.finetuning import STATES_NAME, StrictResume, freeze_vision, train_to_end
from trainer.training.recipe import SftRecipe, load_recipe
from trainer.training.sft.agreement import see_that_reasoning_agrees
from trainer.training.sft.rows import caption_rows, dataset, screening_rows
from trainer.training.tracking.store import Store


class StrictSFTTrainer(StrictResume, SFTTrainer):
    """SFTTrainer that resumes from the weights it saved, and goes on counting tokens."""

    def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
        # TRL counts from 0 in every process. The state is saved, and nobody else counts in this field of it.
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
) -> Manifest:
    """Train one stage and write OUT/checkpoint. A killed run with the same settings is continued.

    Args:
        tracking: where MLflow gets a copy of the log; None for nowhere.

    Raises:
        CheckpointError, DataError, RecipeError: an input cannot be used.
        LaunchError: the training was not started as it has to be.
        RunMismatch: OUT holds something else, or a run with other settings.
    """
    state = processes()
    recipe = load_recipe(recipe_name)
    settings = recipe.sft_weak if stage == "weak" else recipe.sft_answer
    manifest = verify(checkpoint)
    samples = read_samples(data)
    used = samples[:limit]
    see_that_reasoning_agrees(used, strict=stage == "answer-driven")
    rows = screening_rows(used, manifest.prompt, direct_share=settings.direct_share, seed=settings.seed)
    if settings.captions:
        rows += caption_rows(used, most=settings.captions_per_sample, seed=settings.seed)
    name = "sft_weak" if stage == "weak" else "sft_answer"
    refuse(sft_problem(name, settings, len(rows), state.num_processes))
    table = dataset(rows, data, manifest.image.size)
    origin = {
        "stage": f"sft-{stage}",
        "settings": settings.deciding,
        "parent": manifest.digest,
        "data": data_digest(data, samples),
        "limit": limit,
        **origin_entry(state),
    }
    with state.main_process_first():
        if state.is_main_process:
            claim(out, origin)
            occupy(out)

    return train_to_end(
        build_trainer(checkpoint, table, settings, out / STATES_NAME),
        out,
        checkpoint=checkpoint,
        parent=manifest,
        origin=origin,
        data={"digest": origin["data"], "samples": len(used)},
        recipe=recipe,
        tracking=tracking,
    )


def build_trainer(checkpoint: Path, rows: Dataset, settings: SftRecipe, output: Path) -> StrictSFTTrainer:
    """The model, its ViT and aligner frozen.

    Args:
        rows: as `trainer.training.sft.rows` makes them.
        output: for TRL's saved states.
    """
    model = AutoModelForImageTextToText.from_pretrained(checkpoint, dtype=torch.float32)
    freeze_vision(model)
    return StrictSFTTrainer(
        model=model,
        processing_class=AutoProcessor.from_pretrained(checkpoint),
        train_dataset=rows,
        args=arguments(settings, output),
    )


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
        lr_scheduler_type="cosine",
        max_length=None,  # the default of 1024 cuts image tokens or whole answers without a word
        completion_only_loss=True,
        bf16=True,
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
        dataloader_persistent_workers=True,
    )
