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

from trainer.finetuning import last_whole_checkpoint
from trainer.hard_cases import lay_course
from trainer.hard_cases.cases import Cases
from trainer.recipe import HcmGrpoRecipe
from trainer.run_directory import ORIGIN_NAME, RunMismatch

_LENGTH = ("epochs", "last_epochs", "last_parts")
"""Settings in which the two runs may differ."""


def take_over(
    earlier: Path, states: Path, *, origin: Mapping[str, Any], settings: HcmGrpoRecipe, ids: Sequence[str], cases: Cases
) -> None:
    """Put the last state of an earlier run among the states of this one, unless this one has states of its own.

    Args:
        earlier: run directory.
        states: where TRL keeps this run's states.
        origin: what `run.json` of this run holds.
        ids: this run's flat course.
        cases: hard and easy ones, of both runs.

    Raises:
        RunMismatch: the earlier run is not a beginning of this one.
    """
    if last_whole_checkpoint(states):
        return
    if settings.schedule != "constant" or settings.warmup_ratio:
        raise RunMismatch(
            "a run can go on after another only with `schedule: constant` and `warmup_ratio: 0`: otherwise the "
            "learning rate of the first epochs depends on how many follow"
        )
    there = _origin(earlier)
    if different := _different(there, origin):
        raise RunMismatch(f"{earlier} is not a beginning of this run: {', '.join(different)} differ")
    course = {name: there["settings"][name] for name in _LENGTH}
    begun = lay_course(cases, **course, seed=settings.seed).ids
    per_step = settings.batch_size * settings.gradient_accumulation // settings.group_size
    saved = last_whole_checkpoint(earlier / "trl")
    step = int(saved.rpartition("-")[2]) if saved else 0
    if saved is None or step * per_step != len(begun):
        raise RunMismatch(
            f"{earlier} has trained {step * per_step} of its {len(begun)} questions, {per_step} in a step: let it end, "
            "and choose a batch of which its questions are a multiple"
        )
    if list(ids[: len(begun)]) != begun:
        raise RunMismatch(f"the course of {earlier} is not how this one begins")
    part = states / ".taken-over"
    shutil.rmtree(part, ignore_errors=True)
    shutil.copytree(saved, part)
    part.rename(states / Path(saved).name)


def _origin(run: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads((run / ORIGIN_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunMismatch(f"{run} holds no run: {error}") from error
    if found.get("stage") != "hcm-grpo":
        raise RunMismatch(f"{run} is not a run of hcm-grpo")
    return found


def _different(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """Names of what would make the beginning another."""
    inputs = [name for name in ("parent", "data", "hard") if there[name] != here[name]]
    names = there["settings"].keys() | here["settings"].keys()
    return inputs + sorted(
        name for name in names - set(_LENGTH) if there["settings"].get(name) != here["settings"].get(name)
    )
