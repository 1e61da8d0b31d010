"""What both versions answered to the frozen test set: evaluations that exist, or made now."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from screening.answer import Mode
from screening.checkpoint.manifest import Manifest, verify
from screening.checkpoint.registry import Version
from screening.errors import CheckpointError, UserError
from trainer.evaluation.evaluate.result import Evaluation, read_evaluation


class EvidenceError(UserError):
    """An evaluation is not of this version, not whole or not on held-out data; the message says what to give."""


@dataclass(frozen=True, slots=True)
class TestSet:
    """How versions are asked."""

    data: Path
    mode: Mode
    batch: int


def whole(version: Version) -> Manifest:
    """The manifest of a version that services could take up.

    Raises:
        CheckpointError: its directory is not whole, is another checkpoint, or carries no probes.
    """
    manifest = verify(version.directory)
    if manifest.digest != version.digest:
        raise CheckpointError(f"{version.directory} is {manifest.digest}; version {version.number} is {version.digest}")
    if manifest.probes is None:
        raise CheckpointError(f"{version.directory} carries no probes; services refuse it. Publish it with --again")
    return manifest


def evaluation_of(version: Version, given: Path | None, test: TestSet, out: Path) -> Path:
    """The directory of a version's evaluation.

    Args:
        given: what `trainer evaluate` wrote; None evaluates now, into a folder of `out`, or goes on there.

    Raises:
        EvidenceError: the evaluation given is of something else, or of a part of the data.
        EvaluationError, DataError, CheckpointError: it cannot be read, or made.
    """
    directory = given or out / f"version-{version.number}"
    if given is None:
        from trainer.evaluation.evaluate.by_checkpoint import engine_ends_on_sigterm, evaluate

        with engine_ends_on_sigterm():
            evaluate(version.directory, test.data, directory, mode=test.mode, batch=test.batch)
    _check(read_evaluation(directory), directory, version, test)
    return directory


def check_unseen(manifest: Manifest, data: str) -> None:
    """See that nothing of a checkpoint was fitted on the test set, its confidence included.

    Args:
        data: digest of the test set.

    Raises:
        EvidenceError: it was.
    """
    if data in manifest.trained_on:
        raise EvidenceError("the candidate was trained on this data; give the frozen test set")
    if data in manifest.calibrated_on:
        raise EvidenceError("the candidate's confidence was fitted on this data; give the frozen test set")


def _check(evaluation: Evaluation, directory: Path, version: Version, test: TestSet) -> None:
    if (digest := evaluation.model.digest) != version.digest:
        raise EvidenceError(f"{directory} is an evaluation of {digest}; version {version.number} is {version.digest}")
    if evaluation.mode is not test.mode:
        raise EvidenceError(f"{directory} is an evaluation in mode {evaluation.mode}; the gate's is {test.mode}")
    if evaluation.data.evaluated < evaluation.data.samples:
        raise EvidenceError(f"{directory} is an evaluation of some samples only; run it without --limit")
