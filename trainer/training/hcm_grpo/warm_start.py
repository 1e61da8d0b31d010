"""`hcm-grpo --after RUN`: a course that begins like a finished run goes on from that run's last state.

Variants that differ in their last epochs only (paper, table 7) then share the first ones: they are trained once, and
the result is the same as that of training each variant from its start. That holds only for a learning rate that does
not depend on the length of the course, and for a beginning that ends with a whole step; anything else is refused.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trainer.runs.run_directory import ORIGIN_NAME, RunMismatch
from trainer.training.finetuning import STATES_NAME
from trainer.training.hard_cases import HardCasesError, lay_course
from trainer.training.hard_cases.cases import Cases
from trainer.training.hard_cases.record import RECORD_NAME, HardCases
from trainer.training.recipe import HcmGrpoRecipe
from trainer.training.saved_states import last_whole_checkpoint

_LENGTH = ("epochs", "last_epochs", "last_parts")
"""Settings in which the two runs may differ."""


def state_of_beginning(
    earlier: Path, *, origin: Mapping[str, Any], settings: HcmGrpoRecipe, ids: Sequence[str], cases: Cases
) -> Path:
    """The last state of an earlier run, if that run is a beginning of this one. Nothing is written.

    Args:
        earlier: run directory.
        origin: what `run.json` of this run holds.
        ids: this run's flat course.
        cases: of this run.

    Raises:
        RunMismatch: the earlier run is not a beginning of this one, or not at its end.
    """
    if settings.schedule != "constant" or settings.warmup_ratio:
        raise RunMismatch(
            "a run can go on after another only with `schedule: constant` and `warmup_ratio: 0`: otherwise the "
            "learning rate of the first epochs depends on how many follow"
        )
    there = _origin(earlier)
    if different := _different(there, origin):
        raise RunMismatch(f"{earlier} is not a beginning of this run: {', '.join(different)} differ")
    if hard_in(earlier) != set(cases.hard):
        raise RunMismatch(f"{earlier} is not a beginning of this run: other samples are hard there")
    begun = _course(earlier, there["settings"], cases, settings.seed)
    if list(ids[: len(begun)]) != begun:
        raise RunMismatch(f"the course of {earlier} is not how this one begins")
    processes = origin.get("processes", 1)
    per_step = settings.batch_size * settings.gradient_accumulation * processes // settings.group_size
    if len(begun) % per_step:
        raise RunMismatch(
            f"the {len(begun)} questions of {earlier} do not end with a whole step of {per_step}: choose a batch of "
            "which they are a multiple"
        )
    saved = last_whole_checkpoint(earlier / STATES_NAME, clean=False)
    if saved is None:
        raise RunMismatch(f"{earlier} has no saved state: train it, or leave --after out")
    if (done := int(saved.rpartition("-")[2]) * per_step) != len(begun):
        raise RunMismatch(f"{earlier} has trained {done} of its {len(begun)} questions: let it end first")
    return Path(saved)


def take_over(state: Path, states: Path) -> None:
    """Copy a state among those of a run that has none of its own, whole or not at all."""
    if last_whole_checkpoint(states):
        return
    part = states / ".taken-over"
    shutil.rmtree(part, ignore_errors=True)
    shutil.copytree(state, part)
    part.rename(states / state.name)


def _origin(run: Path) -> dict[str, Any]:
    try:
        found = json.loads((run / ORIGIN_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunMismatch(f"{run} holds no run: {error}") from error
    if not isinstance(found, dict) or found.get("stage") != "hcm-grpo" or not isinstance(found.get("settings"), dict):
        raise RunMismatch(f"{run} is not a run of hcm-grpo")
    return found


def _different(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """Names of what would make the beginning another."""
    inputs = [name for name in ("parent", "data", "hard", "processes") if there.get(name) != here.get(name)]
    names = there["settings"].keys() | here["settings"].keys()
    return inputs + sorted(
        name for name in names - set(_LENGTH) if there["settings"].get(name) != here["settings"].get(name)
    )


def hard_in(run: Path) -> set[str]:
    """Ids of the samples that are hard in a run of stage 2.

    Raises:
        RunMismatch: it does not say.
    """
    try:
        return set(HardCases.model_validate_json((run / RECORD_NAME).read_bytes()).ids)
    except (OSError, ValueError) as error:
        raise RunMismatch(f"{run / RECORD_NAME} cannot be read: {error}") from error


def _course(run: Path, settings: Mapping[str, Any], cases: Cases, seed: int) -> list[str]:
    try:
        return lay_course(cases, **{name: settings[name] for name in _LENGTH}, seed=seed).ids
    except (HardCasesError, KeyError, TypeError) as error:
        raise RunMismatch(f"{run / ORIGIN_NAME} does not say which epochs it had: {error}") from error
