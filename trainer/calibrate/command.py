"""`python -m trainer calibrate`: fit confidence on validation answers and put the curves into the manifest.

Weights, files and probes stay. The digest changes with the calibration, since answers do: evaluations and hard cases of
the checkpoint as it was belong to the earlier digest. So this comes behind `hcm-grpo`, and before the evaluation whose
scores are published.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trainer.calibrate.evidence import Evidence
    from trainer.calibrate.fit import Choice


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--checkpoint", type=Path, required=True, metavar="DIR", help="whose manifest gets the curves")
    parser.add_argument(
        "--evaluations",
        type=Path,
        nargs="+",
        required=True,
        metavar="DIR",
        help="what `trainer evaluate` wrote for this checkpoint on validation data, in one mode or both",
    )


def run(args: argparse.Namespace) -> int:
    from screening.errors import CheckpointError
    from trainer.calibrate.evidence import CalibrationError
    from trainer.evaluate.errors import EvaluationError

    try:
        print(calibrate(args.checkpoint, args.evaluations))
    except (CalibrationError, CheckpointError, EvaluationError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def calibrate(checkpoint: Path, evaluations: Sequence[Path]) -> str:
    """Fit each mode that was evaluated; others keep what they have. Returns a report as Markdown.

    The same command again gives the same manifest.

    Raises:
        CheckpointError: the checkpoint is not whole or was changed.
        CalibrationError, EvaluationError: the evaluations cannot be used.
        OSError: the manifest cannot be written; it is as it was then.
    """
    from screening.checkpoint import store_manifest, verify
    from trainer.calibrate.evidence import CalibrationError, gather
    from trainer.calibrate.fit import choose

    manifest = verify(checkpoint)
    calibration, parts = dict(manifest.calibration), []
    for evidence in gather(evaluations, manifest):
        try:
            choice = choose(evidence.answers)
        except CalibrationError as error:
            raise CalibrationError(f"{evidence.mode}: {error}") from error
        calibration[evidence.mode] = choice.calibration.model_copy(update={"data": evidence.data})
        parts.append(_report(evidence, choice))
    after = manifest.model_copy(update={"calibration": {mode: calibration[mode] for mode in sorted(calibration)}})
    store_manifest(after, checkpoint)
    changed = f"Digest before: {manifest.digest}\nDigest now:    {after.digest}"
    return "\n\n".join([*parts, changed])


def _report(evidence: Evidence, choice: Choice) -> str:
    from trainer.evaluate.report import reliability_table, table
    from trainer.reliability import summarise

    right = [answer.right for answer in evidence.answers]
    before = summarise([answer.probability for answer in evidence.answers], right)
    after = summarise(choice.confidences, right)
    losses = [
        [name, f"{loss:.4f}", "*" if name == choice.calibration.method else ""] for name, loss in choice.losses.items()
    ]
    return "\n\n".join(
        [
            f"# {evidence.mode}: {choice.calibration.method}",
            f"{len(evidence.answers)} answers on {', '.join(evidence.data)}; {evidence.unknown} more without a "
            "probability.\n`calibrated`: each answer by a fit that has not seen it (cross-validation).",
            table(["method", "log-loss", ""], losses),
            reliability_table(before, after),
        ]
    )
