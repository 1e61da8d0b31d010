"""SFT on the answers of a benchmark's training half, read top to bottom: check, data, model, TRL, export.

ViT and aligner are frozen and the settings are those of the recipe's `sft_answer`, as in stage 1.2. The benchmarks
publish answers without reasoning, so the target is the bare answer (Direct mode).
"""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from screening.checkpoint import Manifest, verify
from trainer.benchmarks.out_directory import claim_out
from trainer.benchmarks.prompt import PROMPT_VERSION
from trainer.benchmarks.questions import Part, read_benchmark
from trainer.benchmarks.rows import answer_rows
from trainer.export import export_successor
from trainer.finetuning import freeze_vision, last_whole_checkpoint
from trainer.recipe import load_recipe
from trainer.run_directory import occupy
from trainer.sft.rows import dataset
from trainer.sft.train import StrictSFTTrainer, arguments
from trainer.tracking.callbacks import LogFile
from trainer.tracking.store import Store
from trainer.tracking.tracker import track


def train(recipe_name: str, checkpoint: Path, data: Path, out: Path, tracking: Store | None = None) -> Manifest:
    """Train and write OUT/checkpoint. A killed run with the same settings is continued.

    Args:
        data: a split benchmark.
        tracking: where MLflow gets a copy of the log; None for nowhere.

    Raises:
        CheckpointError, DataError, RecipeError: an input cannot be used.
        RunMismatch: OUT holds something else.
    """
    recipe = load_recipe(recipe_name)
    settings = recipe.sft_answer
    manifest = verify(checkpoint)
    benchmark = read_benchmark(data, Part.TRAIN)
    stage = f"{benchmark.name}-sft"
    origin = {
        "stage": stage,
        "settings": settings.model_dump(mode="json"),
        "parent": manifest.digest,
        "data": benchmark.digest,
        "prompt": PROMPT_VERSION,
    }
    claim_out(out, origin)
    occupy(out)

    processor = AutoProcessor.from_pretrained(checkpoint)
    model = AutoModelForImageTextToText.from_pretrained(checkpoint, dtype=torch.float32)
    freeze_vision(model)
    trainer = StrictSFTTrainer(
        model=model,
        processing_class=processor,
        train_dataset=dataset(answer_rows(benchmark.questions), data, manifest.image.size),
        args=arguments(settings, out / "trl"),
    )
    with track(tracking, out, origin) as tracker:
        trainer.add_callback(LogFile(out, tracker))
        trainer.train(resume_from_checkpoint=last_whole_checkpoint(out / "trl"))
        written = export_successor(
            out / "checkpoint",
            model,
            processor,
            manifest,
            stage=stage,
            data={"digest": benchmark.digest, "samples": len(benchmark.questions)},
            recipe=recipe.model_dump(mode="json"),
        )
        tracker.checkpoint = written.digest
    return written
