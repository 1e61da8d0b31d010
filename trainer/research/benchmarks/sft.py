"""SFT on the answers of a benchmark's training half, in one function: checks, data, model, TRL.

ViT and aligner are frozen, and the settings are those of the recipe's `sft_answer`, as in stage 1.2. The benchmarks
publish answers without reasoning, so the target is the bare answer (Direct mode).
"""

from __future__ import annotations

from pathlib import Path

from screening.checkpoint.manifest import Manifest, verify
from trainer.research.benchmarks.prompt import PROMPT_VERSION
from trainer.research.benchmarks.questions import Part, read_benchmark
from trainer.research.benchmarks.rows import answer_rows
from trainer.runs.earlier_runs import as_begun
from trainer.runs.run_directory import claim, occupy
from trainer.training.distributed import origin_entry, processes
from trainer.training.enough_data import refuse, sft_problem
from trainer.training.finetuning import STATES_NAME, train_to_end
from trainer.training.recipe import SftRecipe, load_recipe
from trainer.training.sft.rows import dataset
from trainer.training.sft.train import build_trainer
from trainer.training.tracking.store import Store


def train(recipe_name: str, checkpoint: Path, data: Path, out: Path, tracking: Store | None = None) -> Manifest:
    """Train and write OUT/checkpoint. The same settings continue a killed run.

    Args:
        data: directory of a split benchmark.
        tracking: MLflow store that gets a copy of the log; None for no copy.

    Raises:
        CheckpointError, DataError, RecipeError: an input cannot be used.
        LaunchError: the training was launched in an unsupported way.
        RunMismatch: OUT belongs to another run.
    """
    state = processes()
    recipe = load_recipe(recipe_name)
    settings = recipe.sft_answer
    manifest = verify(checkpoint)
    benchmark = read_benchmark(data, Part.TRAIN)
    origin = {
        "stage": f"{benchmark.name}-sft",
        "settings": settings.deciding,
        "parent": manifest.digest,
        "data": benchmark.digest,
        "prompt": PROMPT_VERSION,
        **origin_entry(state),
    }
    rows = answer_rows(benchmark.questions)
    refuse(sft_problem("sft_answer", settings, len(rows), state.num_processes))
    table = dataset(rows, data, manifest.image.size)
    with state.main_process_first():
        # An earlier version stored all settings.
        origin = as_begun(out, origin, lambda begun: SftRecipe.model_validate(begun).deciding)
        claim(out, origin)
        occupy(out)
    return train_to_end(
        build_trainer(checkpoint, table, settings, out / STATES_NAME),
        out,
        checkpoint=checkpoint,
        parent=manifest,
        origin=origin,
        data={"digest": benchmark.digest, "samples": len(benchmark.questions)},
        recipe=recipe,
        tracking=tracking,
    )
