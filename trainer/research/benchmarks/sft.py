"""SFT on the answers of a benchmark's training half.

ViT and aligner are frozen and the settings are those of the recipe's `sft_answer`, as in stage 1.2. The benchmarks
publish answers without reasoning, so the target is the bare answer (Direct mode).
"""

from __future__ import annotations

from pathlib import Path

from screening.checkpoint.directory import verify
from screening.checkpoint.manifest import Manifest
from trainer.research.benchmarks.prompt import PROMPT_VERSION
from trainer.research.benchmarks.questions import Part, read_benchmark
from trainer.research.benchmarks.rows import answer_rows
from trainer.training.recipe.recipe import load_recipe
from trainer.training.sft.rows import dataset
from trainer.training.sft.train import train_on_rows
from trainer.training.tracking.store import Store


def train(recipe_name: str, checkpoint: Path, data: Path, out: Path, tracking: Store | None = None) -> Manifest:
    """Train and write OUT/checkpoint. A killed run with the same settings is continued.

    Args:
        data: a split benchmark.
        tracking: MLflow store that gets a copy of the log; None for none.

    Raises:
        CheckpointError, DataError, RecipeError: an input cannot be used.
        LaunchError, RunMismatch: see `trainer.training.sft.train.train_on_rows`.
    """
    recipe = load_recipe(recipe_name)
    manifest = verify(checkpoint)
    benchmark = read_benchmark(data, Part.TRAIN)
    return train_on_rows(
        dataset(answer_rows(benchmark.questions), data, manifest.image),
        out,
        recipe=recipe,
        section="sft_answer",
        checkpoint=checkpoint,
        parent=manifest,
        origin={"stage": f"{benchmark.name}-sft", "data": benchmark.digest, "prompt": PROMPT_VERSION},
        samples=len(benchmark.questions),
        tracking=tracking,
    )
