"""Finds or makes the evaluations of both versions on the frozen test set."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from screening.answer import Mode
from screening.checkpoint.directory import verify
from screening.checkpoint.manifest import Manifest, read_manifest
from screening.checkpoint.registry import Version
from screening.checkpoint.seal import check_seal
from screening.errors import CheckpointError, UserError
from screening.task import DIMENSIONS, Dimension
from trainer.evaluation.evaluate.result import Evaluation, read_evaluation
from trainer.runs.sigterm import engine_ends_on_sigterm


class EvidenceError(UserError):
    """An evaluation is of another version, incomplete, or on data that was used for training or calibration."""


@dataclass(frozen=True, slots=True)
class TestSet:
    """The frozen test set, and how versions are asked about it."""

    data: Path
    mode: Mode
    batch: int


def whole(version: Version) -> Manifest:
    """The manifest of a version that services can load.

    Raises:
        CheckpointError: the directory is incomplete, holds another checkpoint, has no probes, or was changed after it
            was published.
    """
    manifest = verify(version.directory)
    if manifest.digest != version.digest:
        raise CheckpointError(
            f"{version.directory} has the digest {manifest.digest}, but version {version.number} has {version.digest}"
        )
    if manifest.probes is None:
        raise CheckpointError(f"{version.directory} has no probes, so services refuse it. Publish it with --again")
    try:
        check_seal(manifest)
    except CheckpointError as error:
        raise CheckpointError(f"{version.directory}: {error}") from error
    return manifest


def loses_places(production: Version, manifest: Manifest) -> bool | None:
    """Whether the version in production can say where issues are, and the candidate with this manifest cannot.

    None if the candidate cannot and production's manifest cannot be read. This must not stop a promotion, because a
    lost or damaged production version may be the reason for it.
    """
    if manifest.prompt.locate is not None:
        return False
    before = _manifest_of(production)
    return None if before is None else before.prompt.locate is not None


def lost_dimensions(production: Version, manifest: Manifest) -> tuple[Dimension, ...] | None:
    """The dimensions that the version in production was trained on, and the candidate with this manifest was not.

    None if there may be some and production's manifest cannot be read, for the reason that `loses_places` names.
    """
    missing = [dimension for dimension in DIMENSIONS if dimension not in manifest.dimensions]
    if not missing:
        return ()
    before = _manifest_of(production)
    return None if before is None else tuple(dimension for dimension in missing if dimension in before.dimensions)


def _manifest_of(version: Version) -> Manifest | None:
    """The manifest of a version; None if it cannot be read."""
    try:
        return read_manifest(version.directory)
    except CheckpointError:
        return None


def evaluation_of(version: Version, given: Path | None, test: TestSet, out: Path) -> Path:
    """The directory of a version's evaluation.

    Args:
        given: what `trainer evaluate` wrote; None evaluates now into a folder of `out`, or continues there.

    Raises:
        EvidenceError: the given evaluation is of another version, in another mode, or of a part of the data.
        EvaluationError, DataError, CheckpointError, RunMismatch: the evaluation cannot be read or made.
    """
    directory = given or out / f"version-{version.number}"
    if given is None:
        from trainer.evaluation.evaluate.by_checkpoint import evaluate

        with engine_ends_on_sigterm():
            evaluate(version.directory, test.data, directory, mode=test.mode, batch=test.batch)
    _check(read_evaluation(directory), directory, version, test)
    return directory


def check_unseen(manifest: Manifest, data: str) -> None:
    """Check that neither the weights nor the confidence nor the domain of a checkpoint were fitted or chosen on the
    test set.

    Args:
        data: digest of the test set.

    Raises:
        EvidenceError: one of them was.
    """
    if data in manifest.trained_on:
        raise EvidenceError("the candidate was trained on the data of --data. Give the frozen test set")
    if data in manifest.selected_on:
        raise EvidenceError("the candidate's weights were chosen on the data of --data. Give the frozen test set")
    if data in manifest.calibrated_on:
        raise EvidenceError(
            "the candidate's confidence or its domain was fitted on the data of --data. Give the frozen test set"
        )


def _check(evaluation: Evaluation, directory: Path, version: Version, test: TestSet) -> None:
    if (digest := evaluation.model.digest) != version.digest:
        raise EvidenceError(
            f"{directory} is an evaluation of {digest}, but version {version.number} has the digest {version.digest}"
        )
    if evaluation.locate:
        raise EvidenceError(f"{directory} is an evaluation with --locate. Give one without it")
    if evaluation.mode is not test.mode:
        raise EvidenceError(f"{directory} is an evaluation in mode {evaluation.mode}, and --mode is {test.mode}")
    if evaluation.data.evaluated < evaluation.data.samples:
        raise EvidenceError(f"{directory} is an evaluation of a part of the samples. Run it without --limit")
