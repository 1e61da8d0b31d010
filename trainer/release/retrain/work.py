"""What each stage does. Each function may be called again after a kill at any moment; docs/retraining.md describes
them.

Arguments are the call's context and the stage's own directory; the result is JSON values for later stages.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trainer.data.split.assign import PAPER_SIZES, shares_of
from trainer.data.split.divide import divide
from trainer.data.split.gather import gather
from trainer.release.retrain import confirm as services
from trainer.release.retrain import releasing
from trainer.release.retrain.collect import snapshot
from trainer.release.retrain.context import EVALUATIONS_NAME, PARTS, Context
from trainer.release.retrain.errors import BadInput
from trainer.release.retrain.heavy import TRAININGS
from trainer.release.retrain.reasoning import with_reasoning
from trainer.training.distributed import on_one_machine
from trainer.training.enough_data import grpo_problem, sft_problem
from trainer.training.recipe.recipe import Recipe, load_recipe
from trainer.training.recipe.stages import HcmGrpoRecipe, SftRecipe
from trainer.training.tracking.store import ENVIRONMENT

Result = dict[str, Any]


def decide(context: Context, _out: Path) -> Result:
    """Fix what production is and where training starts, for the whole run."""
    return releasing.start_of(context)


def collect(context: Context, out: Path) -> Result:
    """Store the samples that are labelled now."""
    return snapshot(context.collector, context.divided, out)


def split(context: Context, out: Path) -> Result:
    """Divide by product; the test set of the first run stays. Then write the reasoning that fine-tuning needs."""
    collected = Path(context.of("collect")["directory"])
    if context.of("collect").get("gone") and context.divided.exists():
        shutil.rmtree(context.divided)  # erased samples leave all parts, the frozen test set included
    shares = context.settings.data.shares
    weights = {PARTS[part]: weight for part, weight in shares.model_dump().items()}
    division = divide(
        [collected],
        context.divided,
        shares_of([_whole(weights[split]) for split in PAPER_SIZES]),
        context.settings.data.seed,
    )
    parts = {
        part: {
            "directory": str(context.divided / split),
            "digest": division.splits[split].digest,
            "samples": division.splits[split].samples,
            "products": division.splits[split].products,
        }
        for part, split in PARTS.items()
    }
    if empty := sorted(part for part, one in parts.items() if not one["samples"]):
        raise BadInput(f"the part {empty[0]} holds no sample; give more products, or raise data.shares.{empty[0]}")
    reasoned = with_reasoning(gather([context.divided / PARTS["sft"]])[0], out / "sft")
    parts["sft"] |= reasoned
    if problem := _too_little(context, parts):
        raise BadInput(problem)
    return {"parts": parts, "held_back": division.held_back, "left_out": len(division.left_out)}


def _too_little(context: Context, parts: Mapping[str, Result]) -> str | None:
    """Why a training of the recipe would refuse these parts, which it would do only after hours; None if none does."""
    chosen, together = recipe(context), processes(context)
    if not chosen.sft_answer.captions and (
        problem := sft_problem("sft_answer", chosen.sft_answer, parts["sft"]["samples"], together)
    ):
        return problem
    asked = parts["questions"]["samples"]
    # How many questions are hard is not known yet.
    return grpo_problem(chosen.hcm_grpo, asked, max(1, asked // 2), together) if chosen.hcm_grpo else None


def sft(context: Context, out: Path) -> Result:
    """Fine-tune the start."""
    part, scored_on = context.of("split")["parts"]["sft"], validation(context, recipe(context).sft_answer)
    return _executed(
        context,
        "sft",
        recipe=context.settings.training.recipe,
        start=context.of("decide")["start"]["directory"],
        data=part["directory"],
        out=str(out),
        store=str(context.settings.registry.store),
        validation=scored_on and scored_on["directory"],
    )


def hard_cases(context: Context, out: Path) -> Result:
    """Find the questions that the model in production answers wrong."""
    if not recipe(context).hcm_grpo:
        return {"skipped": "the recipe has no stage 2"}
    return _executed(
        context,
        "hard-cases",
        checkpoint=finder(context)["directory"],
        data=context.of("split")["parts"]["questions"]["directory"],
        out=str(out),
        batch=context.settings.measuring.batch,
    )


def hcm_grpo(context: Context, out: Path) -> Result:
    """Train on the questions, with the hard ones repeated; skipped if there are none to mine."""
    settings, found = recipe(context).hcm_grpo, context.of("hard-cases")
    if settings is None:
        return {"skipped": "the recipe has no stage 2"}
    if not found["hard"] and {"hard", "random"} & set(settings.last_parts) and settings.last_epochs:
        return {"skipped": f"no question of {found['questions']} is hard for the model in production"}
    scored_on = validation(context, settings)
    return _executed(
        context,
        "hcm-grpo",
        recipe=context.settings.training.recipe,
        start=context.of("sft")["checkpoint"],
        data=context.of("split")["parts"]["questions"]["directory"],
        found=found["directory"],
        found_by=finder(context)["digest"],
        out=str(out),
        store=str(context.settings.registry.store),
        validation=scored_on and scored_on["directory"],
    )


def calibrate(context: Context, out: Path) -> Result:
    """Fit the confidence of what was trained."""
    measuring = context.settings.measuring
    return _executed(
        context,
        "calibrate",
        checkpoint=trained(context)["checkpoint"],
        data=context.of("split")["parts"]["validation"]["directory"],
        out=str(out),
        modes=list(measuring.modes),
        batch=measuring.batch,
        domain=measuring.domain,
    )


def evaluate(context: Context, out: Path) -> Result:
    """Score the new model and the one in production on the frozen test set."""
    measuring, test = context.settings.measuring, context.of("split")["parts"]["test"]
    production = context.of("decide")["production"]
    shared = "none" if production is None else f"{_short(production['digest'])}-{_short(test['digest'])}"
    return _executed(
        context,
        "evaluate",
        candidate=context.of("calibrate")["checkpoint"],
        production=production and production["directory"],
        data=test["directory"],
        out=str(out),
        shared=str(context.settings.work / EVALUATIONS_NAME / shared),
        modes=list(measuring.modes),
        batch=measuring.batch,
    )


def publish(context: Context, _out: Path) -> Result:
    """Copy the model into the store, and register it unless a later run has begun."""
    settings = context.settings
    copied = _executed(
        context, "publish", checkpoint=context.of("calibrate")["checkpoint"], store=str(settings.registry.store)
    )
    return releasing.publish(context, Path(copied["directory"]))


def confirm(context: Context, _out: Path) -> Result:
    """Wait for the services, unless production was moved after the promotion."""
    settings = context.settings.confirm
    if not settings.services:
        return {"skipped": "confirm.services names none"}
    digest, now = context.of("calibrate")["digest"], releasing.production_now(context)
    if now is None or now.digest != digest:
        raise releasing.Superseded(
            f"production is {f'version {now.number}' if now else 'nothing'} now, after the promotion"
        )
    return services.confirm(settings, digest, context.tell)


def _executed(context: Context, stage: str, **arguments: Any) -> Result:
    training = context.settings.training
    launch: tuple[str, ...] = ()
    if stage in TRAININGS and training.processes * training.nodes > 1:
        launch = _launch_options(context)
    environment = {ENVIRONMENT: context.registry.uri}  # not in the order, which would keep its password on disk
    return context.execute(stage, arguments, context.directory / "orders", launch, environment)


def _launch_options(context: Context) -> tuple[str, ...]:
    """Options of torchrun for a training, except the rank of a machine."""
    training = context.settings.training
    if training.nodes == 1:
        return on_one_machine(training.processes)
    host, _, port = str(training.rendezvous).rpartition(":")
    options = ("--nnodes", str(training.nodes), "--nproc-per-node", str(training.processes))
    return (*options, "--master-addr", host, "--master-port", port)


def recipe(context: Context) -> Recipe:
    """The recipe of the trainings."""
    return load_recipe(context.settings.training.recipe)


def validation(context: Context, settings: SftRecipe | HcmGrpoRecipe | None) -> Result | None:
    """The part on which a training scores its model; None if its section of the recipe does not ask for that."""
    return dict(context.of("split")["parts"]["validation"]) if settings and settings.validation else None


def finder(context: Context) -> Result:
    """The model that finds the hard cases: production, or the fine-tuned one if nothing is in production."""
    if found := context.of("decide")["production"]:
        return dict(found)
    tuned = context.of("sft")
    return {"directory": tuned["checkpoint"], "digest": tuned["digest"]}


def trained(context: Context) -> Result:
    """The checkpoint that the trainings ended with."""
    last = context.of("hcm-grpo")
    return context.of("sft") if "skipped" in last else last


def processes(context: Context) -> int:
    """Number of training processes on all machines: it decides the batch."""
    return context.settings.training.processes * context.settings.training.nodes


def _short(digest: str) -> str:
    return digest.removeprefix("sha256:")[:12]


def _whole(weight: float) -> int:
    """Weights as whole numbers, which avoid rounding errors such as 0.1499999 for 0.15."""
    return round(weight * 1_000_000)
