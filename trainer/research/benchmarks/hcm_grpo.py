"""Stage 2 on the training half of a benchmark.

The objective and its settings are those of `trainer.training.hcm_grpo`; the questions and the rewards are the
benchmark's.
"""

from __future__ import annotations

from pathlib import Path

from screening.answer import Mode
from screening.checkpoint.directory import verify
from screening.checkpoint.manifest import Manifest
from trainer.research.benchmarks.evaluate import read_judged
from trainer.research.benchmarks.prompt import PROMPT_VERSION
from trainer.research.benchmarks.questions import Part, read_benchmark
from trainer.research.benchmarks.reward import reward_functions
from trainer.research.benchmarks.rows import rollout_rows
from trainer.training.enough_data import groups_problem, refuse
from trainer.training.hard_cases.cases import Cases
from trainer.training.hcm_grpo.train import train_on_questions
from trainer.training.recipe.recipe import load_recipe
from trainer.training.tracking.store import Store


def train(
    recipe_name: str,
    checkpoint: Path,
    data: Path,
    predictions: Path,
    out: Path,
    mode: Mode,
    tracking: Store | None = None,
) -> Manifest:
    """Train stage 2 and write OUT/checkpoint. A killed run with the same settings is continued.

    Args:
        data: a split benchmark.
        predictions: an evaluation of `checkpoint` on the training half in the same mode.
        tracking: MLflow store that gets a copy of the log; None for none.

    Raises:
        CheckpointError, DataError, RecipeError, EvaluationError, HardCasesError, LogError: an input cannot be used.
        LaunchError, RunMismatch: see `trainer.training.hcm_grpo.train.train_on_questions`. RunMismatch also if
            `predictions` holds an evaluation of something else.
    """
    recipe = load_recipe(recipe_name)
    refuse(groups_problem(recipe.stage_2))
    manifest = verify(checkpoint)
    benchmark = read_benchmark(data, Part.TRAIN)
    by_id = {question.id: question for question in benchmark.questions}
    judged = read_judged(predictions, manifest, benchmark, mode)
    hard = tuple(one.question.id for one in judged if not one.right)
    return train_on_questions(
        Cases(tuple(by_id), hard),
        lambda ids: rollout_rows((by_id[i] for i in ids), mode),
        reward_functions(by_id, mode),
        data,
        out,
        recipe=recipe,
        checkpoint=checkpoint,
        parent=manifest,
        origin={
            "stage": f"{benchmark.name}-hcm-grpo",
            "data": benchmark.digest,
            "mode": mode.value,
            "prompt": PROMPT_VERSION,
        },
        found_by=manifest.digest,
        tracking=tracking,
    )
