"""`python -m trainer calibrate`: fits confidence to validation answers and writes the curves into the manifest.

Weights, files and probes stay. The probes do not depend on the calibration, so an intact seal is renewed. The digest
changes, because answers do: earlier evaluations and hard cases belong to the earlier digest, and the command removes
scores and card. So run it after `hcm-grpo` and before the evaluation whose scores are published.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from screening.calibration import UNCALIBRATED, Calibration
from screening.confidence import choose
from screening.task import OPTIONS
from trainer.runs.arguments import add_directory

if TYPE_CHECKING:
    from trainer.evaluation.calibrate.evidence import Evidence, ReadAnswer
    from trainer.evaluation.calibrate.fit import Choice


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_directory(parser, "--checkpoint", "checkpoint to calibrate; its manifest is changed")
    parser.add_argument(
        "--evaluations",
        type=Path,
        nargs="+",
        required=True,
        metavar="DIR",
        help="directories that `trainer evaluate` wrote for this checkpoint on validation data, in one mode or both",
    )


def run(args: argparse.Namespace) -> int:
    print(calibrate(args.checkpoint, args.evaluations))
    return 0


def calibrate(checkpoint: Path, evaluations: Sequence[Path]) -> str:
    """Fit each mode that was evaluated; the other mode keeps its calibration. Returns a report as Markdown.

    The same inputs give the same manifest.

    Raises:
        CheckpointError: the checkpoint is incomplete or was changed.
        CalibrationError, EvaluationError: the evaluations cannot be used.
        OSError: the manifest cannot be written, and is unchanged.
    """
    from screening.checkpoint.directory import verify
    from screening.checkpoint.seal import is_sealed, sealed
    from trainer.evaluation.calibrate.evidence import CalibrationError, gather
    from trainer.evaluation.calibrate.fit import calibrate as fit
    from trainer.evaluation.changed_manifest import store_changed

    manifest = verify(checkpoint)
    calibration, parts = dict(manifest.calibration), []
    for evidence in gather(evaluations, manifest):
        try:
            choice = fit(evidence.answers)
        except CalibrationError as error:
            raise CalibrationError(f"{evidence.mode}: {error}") from error
        calibration[evidence.mode] = choice.calibration.model_copy(update={"data": evidence.data})
        parts.append(_report(evidence, choice))
    after = manifest.model_copy(update={"calibration": {mode: calibration[mode] for mode in sorted(calibration)}})
    after = sealed(after) if is_sealed(manifest) else after
    return "\n\n".join([*parts, store_changed(manifest, after, checkpoint)])


def _report(evidence: Evidence, choice: Choice) -> str:
    from trainer.evaluation.evaluate.report import reliability_table
    from trainer.evaluation.reliability import summarise
    from trainer.runs.markdown import table

    plain, shifted = ([answer.answered(c) for answer in evidence.answers] for c in (UNCALIBRATED, choice.calibration))
    before = summarise([answer.probability for answer in plain], [answer.right for answer in plain])
    after = summarise(choice.confidences, [answer.right for answer in shifted])
    positions = [
        [
            option,
            f"{getattr(choice.calibration.shifts, option):+.2f}",
            *(f"{100 * share[option]:.1f}" for share in _chosen(evidence.answers, choice.calibration)),
        ]
        for option in OPTIONS
    ]
    losses = [
        [name, f"{loss:.4f}", "*" if name == choice.calibration.method else ""] for name, loss in choice.losses.items()
    ]
    return "\n\n".join(
        [
            f"# {evidence.mode}: {choice.calibration.method}",
            f"{len(evidence.answers)} answers{_products(evidence)} on {', '.join(evidence.data)}; {evidence.unknown} "
            "more have no probability.\n`calibrated`: each answer gets its confidence from a fit without "
            f"{'it' if evidence.products is None else 'its product'} (cross-validation)."
            + (_weighted(evidence) if evidence.weighted else ""),
            table(["position", "shift", "chosen before, %", "chosen now", "labels"], positions),
            table(["method", "log-loss", ""], losses),
            reliability_table(before, after),
        ]
    )


def _products(evidence: Evidence) -> str:
    return "" if evidence.products is None else f" about {evidence.products} products"


def _weighted(evidence: Evidence) -> str:
    worth = sum(answer.weight for answer in evidence.answers)
    return (
        f"\nThe answers count by their inclusion weights, and say as much as {worth:.0f} equal ones. Only the last "
        "table counts each answer once."
    )


def _chosen(answers: Sequence[ReadAnswer], calibration: Calibration) -> tuple[dict[str, float], ...]:
    """Share of each position among the choices before and now, and in the labels (`AC` counts half for A)."""
    shares: tuple[dict[str, float], ...] = tuple(dict.fromkeys(OPTIONS, 0.0) for _ in range(3))
    total = sum(answer.weight for answer in answers)
    for answer in answers:
        part = answer.weight / total
        for share, one in zip(shares, (UNCALIBRATED, calibration), strict=False):
            if answer.options:
                share[choose(answer.options, answer.usable, one)[0]] += part
        for option in answer.label:
            shares[2][option] += part / len(answer.label)
    return shares
