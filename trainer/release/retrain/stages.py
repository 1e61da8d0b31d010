"""The stages of a retraining, in order, and what decides each one's result.

A finished stage is skipped as long as its inputs are the same, so a killed run continues with the first unfinished
stage. Its directory carries the digest of its inputs: changed settings never use old files.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.release.promote.limits import read_limits
from trainer.release.retrain import releasing, work
from trainer.release.retrain.context import Context
from trainer.release.retrain.work import Result, finder, processes, recipe, trained, validation
from trainer.training.recipe.stages import HcmGrpoRecipe, SftRecipe


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage."""

    name: str
    inputs: Callable[[Context], Any]
    """The inputs that decide the result, as JSON values."""
    work: Callable[[Context, Path], Result]
    """Runs the stage in its own directory. It may be called again after a kill at any moment."""
    gpu: bool = False
    fenced: bool = False
    """Whether a stale run must not begin it."""


def _scored_on(context: Context, settings: SftRecipe | HcmGrpoRecipe | None) -> list[str]:
    """Digest of the data on which a training scores its model. Empty if it scores none."""
    part = validation(context, settings)
    return [part["digest"]] if part else []


STAGES: tuple[Stage, ...] = (
    Stage("decide", lambda context: context.run.id, work.decide),
    Stage("collect", lambda context: context.collector.describes, work.collect),
    Stage(
        "split",
        lambda context: [
            context.of("collect")["digest"],
            context.settings.data.shares.model_dump(),
            context.settings.data.seed,
        ],
        work.split,
    ),
    Stage(
        "sft",
        lambda context: [
            context.of("decide")["start"]["digest"],
            context.of("split")["parts"]["sft"]["digest"],
            recipe(context).sft_answer.deciding,
            processes(context),
            *_scored_on(context, recipe(context).sft_answer),
        ],
        work.sft,
        gpu=True,
    ),
    Stage(
        "hard-cases",
        lambda context: [
            finder(context)["digest"],
            context.of("split")["parts"]["questions"]["digest"],
            recipe(context).hcm_grpo is not None,
        ],
        work.hard_cases,
        gpu=True,
    ),
    Stage(
        "hcm-grpo",
        lambda context: [
            context.of("sft")["digest"],
            context.of("hard-cases").get("hard"),
            context.of("split")["parts"]["questions"]["digest"],
            settings.deciding if (settings := recipe(context).hcm_grpo) else None,
            processes(context),
            *_scored_on(context, settings),
        ],
        work.hcm_grpo,
        gpu=True,
    ),
    Stage(
        "calibrate",
        lambda context: [
            trained(context)["digest"],
            context.of("split")["parts"]["validation"]["digest"],
            context.settings.measuring.modes,
            context.settings.measuring.domain,
        ],
        work.calibrate,
        gpu=True,
    ),
    Stage(
        "evaluate",
        lambda context: [
            context.of("calibrate")["digest"],
            context.of("decide")["production"],
            context.of("split")["parts"]["test"]["digest"],
            context.settings.measuring.modes,
        ],
        work.evaluate,
        gpu=True,
    ),
    Stage(
        "publish",
        lambda context: [
            context.of("calibrate")["digest"],
            str(context.settings.registry.store),
            context.settings.registry.model,
        ],
        work.publish,
        gpu=True,
        fenced=True,
    ),
    Stage(
        "gate",
        lambda context: [
            context.of("publish"),
            context.of("evaluate"),
            read_limits(context.settings.measuring.limits).model_dump(),
        ],
        releasing.gate,
    ),
    Stage(
        "promote", lambda context: [context.of("publish"), context.of("gate")["passed"]], releasing.promote, fenced=True
    ),
    Stage(
        "confirm",
        lambda context: [context.of("calibrate")["digest"], context.settings.confirm.services],
        work.confirm,
    ),
)
"""In order. `gate` may end a run, and so may a production that others moved."""


def stage_directory(context: Context, stage: Stage, key: str) -> Path:
    """Where a stage writes."""
    return context.directory / f"{stage.name}-{key[:12]}"
