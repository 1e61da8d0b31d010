"""The stages that use the registry: finding the production model, publish, gate and promote.

Each stage may be repeated after a kill: a digest that is registered keeps its version, and an alias that was moved
already is not moved again.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from screening.answer import Mode
from screening.checkpoint.manifest import read_manifest
from screening.checkpoint.registry import PRODUCTION, Version
from trainer.release.promote.evidence import TestSet, whole
from trainer.release.promote.limits import read_limits
from trainer.release.promote.measure import Evaluations, flips_directory, measure, summary
from trainer.release.promote.moves import move, user_and_machine
from trainer.release.promote.report import GATE_NAME, Gate
from trainer.release.promote.standing import Standing, read_standing
from trainer.release.publish.register import register
from trainer.release.retrain.context import Context
from trainer.release.retrain.errors import NO_START, BadInput, RegistryTrouble, RetrainError

Result = dict[str, Any]


class Superseded(RetrainError):
    """Others moved production during the run, so measurements against the old model say nothing about the new one."""


def start_of(context: Context) -> Result:
    """The model in production and the checkpoint that training starts from, fixed for the whole run.

    Raises:
        BadInput: there is nothing to start from.
        RegistryTrouble: it is not certain what is in production.
        CheckpointError: the production checkpoint is incomplete or was changed.
        RegistryError: the registry does not answer.
    """
    training = context.settings.training
    version = production_now(context)
    production = version and _named(version.directory, version.digest) | {"version": version.number}
    if version:
        whole(version)
    if production and training.start == "production":
        return {"production": production, "start": production}
    if training.base is None:
        raise BadInput(NO_START)
    return {"production": production, "start": _named(training.base, read_manifest(training.base).digest)}


def production_now(context: Context) -> Version | None:
    """The version in production, with its directory in the store of the settings.

    Raises:
        RegistryTrouble: alias and history disagree.
        RegistryError: the registry does not answer.
    """
    if context.registry.missing:
        return None
    standing = _standing(context)
    if doubt := standing.doubt():
        raise RegistryTrouble(f"{doubt}. Look at `python -m trainer history`, then promote the right version by hand")
    return standing.version


def publish(context: Context, directory: Path) -> Result:
    """Register a published directory, unless a later run has begun."""
    context.check_token()
    version = register(context.registry, directory, read_manifest(directory))
    return {"version": version.number, "digest": version.digest, "directory": str(version.directory)}


def gate(context: Context, out: Path) -> Result:
    """Compare the candidate with production, using the existing evaluations."""
    candidate, standing = _candidate(context), _standing(context)
    production = standing.version
    _see_that_production_stayed(context, production)
    found, measuring = context.of("evaluate"), context.settings.measuring
    made = measure(
        candidate,
        production,
        whole(candidate),
        test=TestSet(
            Path(context.of("split")["parts"]["test"]["directory"]), Mode(measuring.modes[0]), measuring.batch
        ),
        limits=read_limits(measuring.limits),
        out=out,
        given=Evaluations(Path(found["candidate"]), found["production"] and Path(found["production"])),
    )
    flips = str(out / flips_directory(production, candidate) / "flips.html") if production else None
    return {"passed": made.passed, "failed": list(made.failed), "directory": str(out), "flips": flips}


def promote(context: Context, _out: Path) -> Result:
    """Move the alias `production`, once.

    Raises:
        Superseded: others moved it meanwhile, or back after this run had moved it.
        Stale: a later run has begun.
        MoveError, RegistryError: the alias cannot be moved.
    """
    candidate, standing = _candidate(context), _standing(context)
    history, last = standing.history, standing.history.last
    reason = f"retraining {context.run.id}: {context.run.reason}"
    if standing.alias == candidate.number:
        return {"before": last.before if last else None, "after": candidate.number}
    if last and last.digest == candidate.digest and standing.alias == last.before and not history.obscured:
        context.check_token()  # killed after recording the move
        context.registry.point(PRODUCTION, candidate.number)
        return {"before": last.before, "after": candidate.number}
    _see_that_production_stayed(context, standing.version)
    _see_that_it_was_not_moved_back(standing, candidate, reason)
    _see_that_it_is_certain(standing, candidate)
    directory = Path(context.of("gate")["directory"])
    measured = Gate.model_validate_json((directory / GATE_NAME).read_bytes())
    made = move(
        context.registry,
        standing.alias,
        candidate,
        "promote",
        by=user_and_machine(),
        reason=reason,
        gate=summary(measured, directory),
        guard=context.check_token,
    )
    return {"before": made.before, "after": made.after}


def _standing(context: Context) -> Standing:
    return read_standing(context.registry, context.settings.registry.store)


def _candidate(context: Context) -> Version:
    number = int(context.of("publish")["version"])
    version = context.registry.version(number)
    if version is None:
        raise RegistryTrouble(
            f"version {number}, which this run published, was deleted; remove its stage from the state"
        )
    return version.in_store(context.settings.registry.store)


def _see_that_production_stayed(context: Context, now: Version | None) -> None:
    """Check that production is what the run started from."""
    then = context.of("decide")["production"]
    if (then and then["digest"]) == (now and now.digest):
        return
    before = f"version {then['version']}" if then else "nothing"
    raise Superseded(f"production was {before} when the run began and is {_said(now)} now")


def _see_that_it_was_not_moved_back(standing: Standing, candidate: Version, reason: str) -> None:
    """Check that this run has not moved production before: a call that ends before it records this leaves the note."""
    ours = ("promote", candidate.digest, reason)
    if any((one.kind, one.digest, one.reason) == ours for one in standing.history.moves):
        raise Superseded(
            f"this run promoted version {candidate.number}, and production is {_said(standing.version)} now"
        )


def _see_that_it_is_certain(standing: Standing, candidate: Version) -> None:
    if doubt := standing.doubt(candidate):
        raise RegistryTrouble(f"{doubt}. Look at `python -m trainer history`")


def _said(version: Version | None) -> str:
    return f"version {version.number}" if version else "nothing"


def _named(directory: Path, digest: str) -> Result:
    return {"directory": str(directory), "digest": digest}
