"""The stages that need a GPU: what a child process does. Arguments and results are JSON values.

Each function continues where a killed process stopped, because the stage that it calls does; nothing here keeps state.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.runs.sigterm import engine_ends_on_sigterm

if TYPE_CHECKING:
    from trainer.training.tracking.store import Store

Heavy = Callable[..., dict[str, Any]]


def sft(*, recipe: str, start: str, data: str, out: str, store: str, validation: str | None = None) -> dict[str, Any]:
    """Supervised fine-tuning on reasoned answers (stage 1.2 of the paper).

    Args:
        validation: data on which the model is scored while it trains, if the recipe asks for that.
    """
    from trainer.training.sft.train import train

    scored_on = Path(validation) if validation else None
    manifest = train("answer-driven", recipe, Path(start), Path(data), Path(out), None, _tracking(store), scored_on)
    return {"checkpoint": str(Path(out) / "checkpoint"), "digest": manifest.digest}


def hard_cases(*, checkpoint: str, data: str, out: str, batch: int) -> dict[str, Any]:
    """Which questions a model answers wrong."""
    from trainer.training.hard_cases.find import find_hard_cases

    with engine_ends_on_sigterm():
        cases = find_hard_cases(Path(checkpoint), Path(data), Path(out), batch=batch)
    return {"directory": out, "hard": sorted(cases.hard), "questions": len(cases.all)}


def hcm_grpo(
    *,
    recipe: str,
    start: str,
    data: str,
    found: str,
    found_by: str,
    out: str,
    store: str,
    validation: str | None = None,
) -> dict[str, Any]:
    """Reinforcement learning with hard cases mining (stage 2).

    Args:
        found: directory of `hard_cases`.
        found_by: digest of the model that found them.
        validation: as in `sft`.
    """
    from trainer.training.hcm_grpo.train import train

    manifest = train(
        recipe,
        Path(start),
        Path(data),
        Path(found),
        Path(out),
        _tracking(store),
        hard_cases_of=found_by,
        validation_data=Path(validation) if validation else None,
    )
    return {"checkpoint": str(Path(out) / "checkpoint"), "digest": manifest.digest}


def calibrate(
    *, checkpoint: str, data: str, out: str, modes: Sequence[str], batch: int, domain: str | None
) -> dict[str, Any]:
    """A copy of a trained checkpoint whose confidence is fitted on the validation part, in each mode that allows it.

    What the data do not allow is left out and noted, because the trainings before it took hours. The gate judges the
    result.
    """
    from screening.answer import Mode
    from screening.checkpoint.manifest import read_manifest
    from screening.runtime.atomic_write import replacing_directory
    from trainer.evaluation.calibrate.command import calibrate as fit
    from trainer.evaluation.calibrate.evidence import CalibrationError
    from trainer.evaluation.domain.command import describe
    from trainer.evaluation.domain.errors import DomainFitError
    from trainer.evaluation.evaluate.by_checkpoint import evaluate

    evaluations = []
    with engine_ends_on_sigterm():
        for mode in modes:
            evaluations.append(Path(out) / f"validation-{mode}")
            evaluate(Path(checkpoint), Path(data), evaluations[-1], mode=Mode(mode), batch=batch)
        notes, target = [], Path(out) / "checkpoint"
        with replacing_directory(target) as copy:
            shutil.copytree(checkpoint, copy)
            for mode, evaluation in zip(modes, evaluations, strict=True):
                try:
                    fit(copy, [evaluation])
                except CalibrationError as error:
                    notes.append(f"mode {mode} is not calibrated: {error}")
            if domain:
                try:
                    describe(copy, Path(data), domain)
                except DomainFitError as error:
                    notes.append(f"no domain: {error}")
    return {"checkpoint": str(target), "digest": read_manifest(target).digest, "note": "; ".join(notes)}


def evaluate_both(
    *, candidate: str, production: str | None, data: str, out: str, shared: str, modes: Sequence[str], batch: int
) -> dict[str, Any]:
    """Evaluate the candidate in every mode, and production in the gate's mode, on the frozen test set.

    Args:
        shared: directory of evaluations that later runs can reuse.
    """
    from screening.answer import Mode
    from trainer.evaluation.evaluate.by_checkpoint import evaluate
    from trainer.release.card import write_card

    candidates = [Path(out) / f"candidate-{mode}" for mode in modes]
    of_production = Path(shared) / f"production-{modes[0]}" if production else None
    with engine_ends_on_sigterm():
        for mode, directory in zip(modes, candidates, strict=True):
            evaluate(Path(candidate), Path(data), directory, mode=Mode(mode), batch=batch)
        if production and of_production:
            of_production.parent.mkdir(parents=True, exist_ok=True)
            evaluate(Path(production), Path(data), of_production, mode=Mode(modes[0]), batch=batch)
    write_card(Path(candidate), candidates)
    return {"candidate": str(candidates[0]), "production": str(of_production) if of_production else None}


def publish(*, checkpoint: str, store: str) -> dict[str, Any]:
    """Copy a checkpoint into the store and verify the copy; it is not registered yet."""
    from trainer.release.publish.command import publish as put

    with engine_ends_on_sigterm():
        return {"directory": str(put(Path(checkpoint), Path(store)))}


HEAVY: Mapping[str, Heavy] = {
    "sft": sft,
    "hard-cases": hard_cases,
    "hcm-grpo": hcm_grpo,
    "calibrate": calibrate,
    "evaluate": evaluate_both,
    "publish": publish,
}
"""Stage → what its child process does."""
TRAININGS = frozenset({"sft", "hcm-grpo"})
"""Stages that several processes run together."""


def _tracking(store: str) -> Store | None:
    """Where trainings are tracked: the registry of the configuration, which the parent names in the environment."""
    from trainer.training.tracking.store import choose_store

    return choose_store(None, Path(store))
