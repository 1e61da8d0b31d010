"""`hcm-grpo --after RUN`: a warm start from the last state of a finished run whose epochs are this run's first ones.

Variants that differ only in their last epochs (paper, table 7) share the first ones, which are then trained once. The
result is the same as that of training each variant from its start. This holds only for a learning rate that does not
depend on the length of the curriculum, and if the first epochs end with a whole step; anything else is refused.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trainer.runs.run_directory import ORIGIN_NAME, RunMismatch
from trainer.training.finetuning import STATES_NAME
from trainer.training.hard_cases.cases import Cases, HardCasesError
from trainer.training.hard_cases.curriculum import make_curriculum
from trainer.training.hard_cases.record import RECORD_NAME, HardCases
from trainer.training.recipe.stages import HcmGrpoRecipe
from trainer.training.saved_states import last_whole_checkpoint

_LENGTH = ("epochs", "last_epochs", "last_parts")
"""Settings in which the earlier run may differ."""
_INPUTS = ("parent", "data", "hard", "processes", "sharded")
"""Entries of `run.json`, besides the settings, in which it may not differ."""
_NAME_A_RUN = "Give --after the --out of a finished run of hcm-grpo of this version, or leave it out"


def find_warm_start(
    earlier: Path, *, origin: Mapping[str, Any], settings: HcmGrpoRecipe, ids: Sequence[str], cases: Cases
) -> Path:
    """Find the last state of an earlier run, and check that this run may start from it. Nothing is written.

    Args:
        earlier: run directory.
        origin: the content of this run's `run.json`.
        ids: the flat curriculum of this run.
        cases: the cases of this run.

    Raises:
        RunMismatch: the earlier run differs in more than its last epochs, or has not ended.
    """
    if settings.validation:
        raise RunMismatch(
            "--after cannot be combined with hcm_grpo.validation, because this run would not have the best weights of "
            "the earlier one. Leave out one of the two"
        )
    if settings.schedule != "constant" or settings.warmup_ratio:
        raise RunMismatch(
            "--after needs `schedule: constant` and `warmup_ratio: 0` in the recipe. Otherwise the learning rate of "
            "the first epochs depends on the number of all epochs"
        )
    there = _origin(earlier)
    if different := _different(there, origin):
        raise RunMismatch(
            f"--after {earlier}: this run cannot start from it, because {', '.join(different)} differ. Give this run "
            "the same as that one, or leave out --after"
        )
    if hard_in(earlier) != set(cases.hard):
        raise RunMismatch(
            f"--after {earlier}: this run cannot start from it, because it had other hard cases. Pass the --hard-cases "
            "of that run, or leave out --after"
        )
    first = _curriculum(earlier, there["settings"], cases, settings.seed)
    if list(ids[: len(first)]) != first:
        raise RunMismatch(
            f"--after {earlier}: this run's curriculum does not start with all epochs of that run. First train a run "
            "with this run's `epochs` and `last_epochs: 0`, and give that one to --after"
        )
    completions = settings.batch_size * settings.gradient_accumulation * origin["processes"]
    per_step = completions // settings.group_size
    if len(first) % per_step:
        raise RunMismatch(
            f"--after {earlier}: its {len(first)} questions are not divisible by the {per_step} questions of a step. "
            "Choose another batch_size or gradient_accumulation"
        )
    saved = last_whole_checkpoint(earlier / STATES_NAME, clean=False)
    if saved is None:
        raise RunMismatch(f"--after {earlier}: it has no saved state. Train it first, or leave out --after")
    if (done := int(saved.rpartition("-")[2]) * per_step) != len(first):
        raise RunMismatch(
            f"--after {earlier}: it has trained on {done} of its {len(first)} questions. Let it end first"
        )
    return Path(saved)


def copy_state(state: Path, states: Path) -> None:
    """Copy a state atomically into a run that has no state yet."""
    if last_whole_checkpoint(states):
        return
    part = states / ".warm-start.partial"
    shutil.rmtree(part, ignore_errors=True)
    shutil.copytree(state, part)
    part.rename(states / state.name)


def _origin(run: Path) -> dict[str, Any]:
    try:
        found = json.loads((run / ORIGIN_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunMismatch(f"{run} is not a run directory: {error}. {_NAME_A_RUN}") from error
    if not isinstance(found, dict) or found.get("stage") != "hcm-grpo" or not isinstance(found.get("settings"), dict):
        raise RunMismatch(f"{run} is not a run of hcm-grpo. {_NAME_A_RUN}")
    return found


def _different(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """Names of the inputs and settings that would change the first epochs."""
    inputs = [name for name in _INPUTS if there.get(name) != here.get(name)]
    names = there["settings"].keys() | here["settings"].keys()
    return inputs + sorted(
        name for name in names - set(_LENGTH) if there["settings"].get(name) != here["settings"].get(name)
    )


def hard_in(run: Path) -> set[str]:
    """Ids of the hard cases of a run of stage 2.

    Raises:
        RunMismatch: the run's record cannot be read.
    """
    try:
        return set(HardCases.model_validate_json((run / RECORD_NAME).read_bytes()).ids)
    except (OSError, ValueError) as error:
        raise RunMismatch(f"{run / RECORD_NAME} cannot be read: {error}. Name another run directory") from error


def _curriculum(run: Path, settings: Mapping[str, Any], cases: Cases, seed: int) -> list[str]:
    try:
        return make_curriculum(cases, **{name: settings[name] for name in _LENGTH}, seed=seed).ids
    except (HardCasesError, KeyError, TypeError) as error:
        raise RunMismatch(
            f"{run / ORIGIN_NAME} does not state the epochs of the run: {error}. {_NAME_A_RUN}"
        ) from error
