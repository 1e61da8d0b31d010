"""Stage 2 on the training half of a benchmark, read top to bottom: check, hard cases, course, model, TRL.

The objective and its settings are those of `trainer.training.hcm_grpo`; the questions and the rewards are the
benchmark's.
"""

from __future__ import annotations

import json
from pathlib import Path

from screening.answer import Mode
from screening.checkpoint.manifest import Manifest, verify
from screening.runtime.atomic_write import write_atomically
from trainer.research.benchmarks.evaluate import read_judged
from trainer.research.benchmarks.prompt import PROMPT_VERSION
from trainer.research.benchmarks.questions import Part, read_benchmark
from trainer.research.benchmarks.reward import reward_functions
from trainer.research.benchmarks.rows import rollout_rows
from trainer.runs.run_directory import RunMismatch, claim, occupy
from trainer.training.distributed import origin_entry, processes
from trainer.training.enough_data import groups_problem, grpo_problem, refuse
from trainer.training.finetuning import STATES_NAME, train_to_end
from trainer.training.hard_cases import Cases, lay_course
from trainer.training.hcm_grpo.train import build_trainer
from trainer.training.recipe import RecipeError, load_recipe
from trainer.training.sft.rows import dataset
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
        tracking: where MLflow gets a copy of the log; None for nowhere.

    Raises:
        CheckpointError, DataError, RecipeError, EvaluationError, HardCasesError, LogError: an input cannot be used.
        LaunchError: the training was not started as it has to be.
        RunMismatch: OUT holds something else, or `predictions` an evaluation of something else.
    """
    state = processes()
    recipe = load_recipe(recipe_name)
    if recipe.hcm_grpo is None:
        raise RecipeError(f"recipe {recipe.name!r} has no section `hcm_grpo`")
    settings = recipe.hcm_grpo
    refuse(groups_problem(settings))
    manifest = verify(checkpoint)
    benchmark = read_benchmark(data, Part.TRAIN)
    judged = read_judged(predictions, manifest, benchmark, mode)
    hard = tuple(one.question.id for one in judged if not one.right)
    refuse(grpo_problem(settings, len(judged), len(hard), state.num_processes))
    course = lay_course(
        Cases(tuple(question.id for question in benchmark.questions), hard),
        epochs=settings.epochs,
        last_epochs=settings.last_epochs,
        last_parts=settings.last_parts,
        seed=settings.seed,
    )
    origin = {
        "stage": f"{benchmark.name}-hcm-grpo",
        "settings": settings.deciding,
        "parent": manifest.digest,
        "data": benchmark.digest,
        "mode": mode.value,
        "prompt": PROMPT_VERSION,
        "hard": len(hard),
        **origin_entry(state),
    }
    with state.main_process_first():
        claim(out, origin)
        occupy(out)
        if state.is_main_process:
            _keep(out / "hard-cases.json", json.dumps({"hard": hard, "of": len(judged)}, indent=1) + "\n")
    state.print(f"{len(hard)} of {len(judged)} questions are hard")

    by_id = {question.id: question for question in benchmark.questions}
    rows = rollout_rows((by_id[i] for i in course.ids), mode)
    table, rewards = dataset(rows, data, manifest.image.size), reward_functions(by_id, mode)
    return train_to_end(
        build_trainer(checkpoint, table, rewards, settings, out / STATES_NAME),
        out,
        checkpoint=checkpoint,
        parent=manifest,
        origin=origin,
        data={"digest": benchmark.digest, "samples": len(judged), "hard": len(hard)},
        recipe=recipe,
        tracking=tracking,
    )


def _keep(path: Path, record: str) -> None:
    """Write down which cases are hard, and refuse to go on with a run whose course has others: as many may be.

    Raises:
        RunMismatch: the run that is there was begun with others.
    """
    if path.exists() and path.read_text(encoding="utf-8") != record:
        raise RunMismatch(f"{path.parent} was begun with other hard cases; name another directory, or give it those")
    write_atomically(path, record)
