"""The stages of a retraining, in order: what decides each one's result, and what it does.

A stage that is done is skipped as long as its inputs are the same, so a run that was killed goes on with the first
stage that is not done. Its directory carries the digest of its inputs: changed settings never meet old files.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.data.split.assign import Split, shares_of
from trainer.data.split.divide import divide
from trainer.data.split.gather import gather
from trainer.release.promote.limits import read_limits
from trainer.release.retrain.collect import snapshot
from trainer.release.retrain.confirm import confirm
from trainer.release.retrain.context import EVALUATIONS_NAME, PARTS, Context
from trainer.release.retrain.errors import BadInput
from trainer.release.retrain.heavy import TRAININGS
from trainer.release.retrain.reasoning import with_reasoning
from trainer.release.retrain.releasing import Superseded, gate, production_now, promote, publish, start_of
from trainer.training.recipe import Recipe, load_recipe
from trainer.training.tracking.store import ENVIRONMENT

Result = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage."""

    name: str
    inputs: Callable[[Context], Any]
    """What decides the result, as JSON values."""
    work: Callable[[Context, Path], Result]
    """Does it, in the directory of its own. It may be given again after a kill at any moment."""
    gpu: bool = False
    fenced: bool = False
    """Whether a stale run must not begin it."""


def _decide(context: Context, _out: Path) -> Result:
    return start_of(context)


def _collect(context: Context, out: Path) -> Result:
    return snapshot(context.collector.directories(), context.divided, out)


def _split(context: Context, out: Path) -> Result:
    """Divide by product; the test set of the first run stays. Then write the reasoning that fine-tuning needs."""
    collected = Path(context.of("collect")["directory"])
    shares = context.settings.data.shares
    weights = {PARTS[part]: weight for part, weight in shares.model_dump().items()}
    division = divide(
        [collected],
        context.divided,
        shares_of([_whole(weights[split]) for split in Split]),
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
    return {"parts": parts, "held_back": division.held_back, "left_out": len(division.left_out)}


def _sft(context: Context, out: Path) -> Result:
    part = context.of("split")["parts"]["sft"]
    return _executed(
        context,
        "sft",
        recipe=context.settings.training.recipe,
        start=context.of("decide")["start"]["directory"],
        data=part["directory"],
        out=str(out),
        store=str(context.settings.registry.store),
    )


def _hard_cases(context: Context, out: Path) -> Result:
    if not _recipe(context).hcm_grpo:
        return {"skipped": "the recipe has no stage 2"}
    return _executed(
        context,
        "hard-cases",
        checkpoint=_finder(context)["directory"],
        data=context.of("split")["parts"]["questions"]["directory"],
        out=str(out),
        batch=context.settings.measuring.batch,
    )


def _hcm_grpo(context: Context, out: Path) -> Result:
    settings, found = _recipe(context).hcm_grpo, context.of("hard-cases")
    if settings is None:
        return {"skipped": "the recipe has no stage 2"}
    if not found["hard"] and {"hard", "random"} & set(settings.last_parts) and settings.last_epochs:
        return {"skipped": f"no question of {found['questions']} is hard for the model in production"}
    return _executed(
        context,
        "hcm-grpo",
        recipe=context.settings.training.recipe,
        start=context.of("sft")["checkpoint"],
        data=context.of("split")["parts"]["questions"]["directory"],
        found=found["directory"],
        found_by=_finder(context)["digest"],
        out=str(out),
        store=str(context.settings.registry.store),
    )


def _calibrate(context: Context, out: Path) -> Result:
    measuring = context.settings.measuring
    return _executed(
        context,
        "calibrate",
        checkpoint=_trained(context)["checkpoint"],
        data=context.of("split")["parts"]["validation"]["directory"],
        out=str(out),
        modes=list(measuring.modes),
        batch=measuring.batch,
        domain=measuring.domain,
    )


def _evaluate(context: Context, out: Path) -> Result:
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


def _publish(context: Context, _out: Path) -> Result:
    settings = context.settings
    copied = _executed(
        context, "publish", checkpoint=context.of("calibrate")["checkpoint"], store=str(settings.registry.store)
    )
    return publish(context, Path(copied["directory"]))


def _confirm(context: Context, _out: Path) -> Result:
    settings = context.settings.confirm
    if not settings.services:
        return {"skipped": "confirm.services names none"}
    digest, now = context.of("calibrate")["digest"], production_now(context)
    if now is None or now.digest != digest:
        raise Superseded(f"production is {f'version {now.number}' if now else 'nothing'} now, after the promotion")
    return confirm(settings, digest, context.tell)


STAGES: tuple[Stage, ...] = (
    Stage("decide", lambda context: context.run.id, _decide),
    Stage("collect", lambda context: context.collector.describes, _collect),
    Stage(
        "split",
        lambda context: [
            context.of("collect")["digest"],
            context.settings.data.shares.model_dump(),
            context.settings.data.seed,
        ],
        _split,
    ),
    Stage(
        "sft",
        lambda context: [
            context.of("decide")["start"]["digest"],
            context.of("split")["parts"]["sft"]["digest"],
            _recipe(context).sft_answer.deciding,
            _processes(context),
        ],
        _sft,
        gpu=True,
    ),
    Stage(
        "hard-cases",
        lambda context: [
            _finder(context)["digest"],
            context.of("split")["parts"]["questions"]["digest"],
            _recipe(context).hcm_grpo is not None,
        ],
        _hard_cases,
        gpu=True,
    ),
    Stage(
        "hcm-grpo",
        lambda context: [
            context.of("sft")["digest"],
            context.of("hard-cases").get("hard"),
            context.of("split")["parts"]["questions"]["digest"],
            settings.deciding if (settings := _recipe(context).hcm_grpo) else None,
            _processes(context),
        ],
        _hcm_grpo,
        gpu=True,
    ),
    Stage(
        "calibrate",
        lambda context: [
            _trained(context)["digest"],
            context.of("split")["parts"]["validation"]["digest"],
            context.settings.measuring.modes,
            context.settings.measuring.domain,
        ],
        _calibrate,
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
        _evaluate,
        gpu=True,
    ),
    Stage(
        "publish",
        lambda context: [
            context.of("calibrate")["digest"],
            str(context.settings.registry.store),
            context.settings.registry.model,
        ],
        _publish,
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
        gate,
    ),
    Stage("promote", lambda context: [context.of("publish"), context.of("gate")["passed"]], promote, fenced=True),
    Stage(
        "confirm",
        lambda context: [context.of("calibrate")["digest"], context.settings.confirm.services],
        _confirm,
    ),
)
"""In order. `gate` may end a run, and so may a production that others moved."""


def stage_directory(context: Context, stage: Stage, key: str) -> Path:
    """Where a stage writes."""
    return context.directory / f"{stage.name}-{key[:12]}"


def _executed(context: Context, stage: str, **arguments: Any) -> Result:
    training = context.settings.training
    launch: tuple[str, ...] = ()
    if stage in TRAININGS and training.processes * training.nodes > 1:
        launch = _launch_options(context)
    environment = {ENVIRONMENT: context.registry.uri}  # not in the order, which would keep its password on disk
    return context.execute(stage, arguments, context.directory / "orders", launch, environment)


def _launch_options(context: Context) -> tuple[str, ...]:
    """Options of torchrun for a training, but for the rank of a machine."""
    training = context.settings.training
    options = ("--nnodes", str(training.nodes), "--nproc-per-node", str(training.processes))
    if training.nodes == 1:
        return (*options, "--standalone")
    host, _, port = str(training.rendezvous).rpartition(":")
    return (*options, "--master-addr", host, "--master-port", port)


def _recipe(context: Context) -> Recipe:
    return load_recipe(context.settings.training.recipe)


def _finder(context: Context) -> Result:
    """The model that finds the hard cases: production, or the fine-tuned one where nothing is in production."""
    if found := context.of("decide")["production"]:
        return dict(found)
    trained = context.of("sft")
    return {"directory": trained["checkpoint"], "digest": trained["digest"]}


def _trained(context: Context) -> Result:
    """What the trainings ended with."""
    last = context.of("hcm-grpo")
    return context.of("sft") if "skipped" in last else last


def _processes(context: Context) -> int:
    return context.settings.training.processes * context.settings.training.nodes


def _short(digest: str) -> str:
    return digest.removeprefix("sha256:")[:12]


def _whole(weight: float) -> int:
    """Weights as whole numbers, in which 0.15 is not 0.1499999."""
    return round(weight * 1_000_000)
