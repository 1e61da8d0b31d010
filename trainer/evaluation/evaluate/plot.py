"""`confidence.png`: a reliability diagram (calibration) and the curve of risk over coverage (ranking of errors)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from screening.runtime.atomic_write import replacing
from trainer.evaluation.reliability import COVERAGES, Reliability

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PLOT_NAME = "confidence.png"

_SERVED, _BEFORE = "#0b5fa5", "#8a939c"


def plot(served: Reliability, uncalibrated: Reliability | None, path: Path) -> None:
    """Draw the plot and write it atomically.

    Args:
        served: reliability of the confidence that the service gives.
        uncalibrated: reliability of the probability before calibration; None if the checkpoint is not calibrated.
    """
    from matplotlib.figure import Figure  # not pyplot, which would choose a window system

    figure = Figure(figsize=(11, 5), layout="constrained")
    diagram, curve = figure.subplots(1, 2)
    series = [("before calibration", uncalibrated, _BEFORE)] if uncalibrated else []
    series.append(("calibrated" if uncalibrated else "not calibrated", served, _SERVED))
    for label, one, colour in series:
        _diagram(diagram, one, f"{label}: ECE {one.expected_calibration_error:.3f}", colour)
        _curve(curve, one, f"{label}: area {one.area_under_risk_coverage:.3f}", colour)
    diagram.plot([0, 1], [0, 1], color="black", linewidth=0.8, linestyle=":")
    diagram.set(xlabel="confidence (bins of equally many answers)", ylabel="share right", xlim=(0, 1), ylim=(0, 1.02))
    diagram.set_title(f"reliability, {served.n} answers", fontsize=10)
    curve.axhline(100 * served.error / 2, color="black", linewidth=0.8, linestyle=":")
    curve.annotate("half of the error rate", (0, 100 * served.error / 2), fontsize=8, va="bottom")
    curve.set(xlabel="coverage: the surest answers kept, %", ylabel="wrong among them, %", xlim=(0, 100))
    curve.set_ylim(bottom=0)
    curve.set_title("risk over coverage", fontsize=10)
    for axes in (diagram, curve):
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(fontsize=8, frameon=False, loc="upper left")
    with replacing(path) as partial:
        figure.savefig(partial, format="png", dpi=110)


def _diagram(axes: Axes, one: Reliability, label: str, colour: str) -> None:
    axes.plot([b.mean_confidence for b in one.bins], [b.accuracy for b in one.bins], "o-", color=colour, label=label)


def _curve(axes: Axes, one: Reliability, label: str, colour: str) -> None:
    axes.plot([100 * c for c in COVERAGES], [100 * risk for risk in one.risks], ".-", color=colour, label=label)
