"""`curves.png`: plots the metrics that a training logged, over its steps."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from math import isfinite
from typing import TYPE_CHECKING

from screening.task import NORMAL, Dimension
from trainer.training.report.run import Training

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLUMNS = 3
SMOOTHED = 60
"""Number of points above which a curve is drawn as a running mean over a thirtieth of them."""

_COLOURS = {name: f"C{number}" for number, name in enumerate((*(d.short for d in Dimension), NORMAL))}
"""Colours of dimensions, the same in all panels."""


@dataclass(frozen=True)
class Curve:
    """One metric over the steps. Stages of pretraining follow each other on the axis."""

    label: str
    steps: tuple[int, ...]
    values: tuple[float, ...]


@dataclass(frozen=True)
class Panel:
    """Curves that belong together."""

    title: str
    curves: tuple[Curve, ...]


Plan = tuple[tuple[str, tuple[tuple[str, str], ...]], ...]
"""Panels by title; for each curve a pattern of metric names and a label, which may use groups of the pattern."""

_OPTIMIZER: Plan = (
    ("loss", ((r"loss", "loss"),)),
    ("gradient norm", ((r"grad_norm|gradient_norm", "norm before clipping"),)),
    ("learning rate", ((r"learning_rate", "learning rate"),)),
)

_VALIDATION: Plan = (("validation, %", ((r"validation/(score|unreadable)", r"\1"),)),)

SFT: Plan = (
    *_VALIDATION,
    *_OPTIMIZER,
    ("tokens predicted correctly", ((r"mean_token_accuracy", "share"),)),
    ("entropy", ((r"entropy", "per token"),)),
)

HCM_GRPO: Plan = (
    *_VALIDATION,
    ("reward", ((r"reward", "total"), (r"rewards/(\w+?)(?:_reward)?/mean", r"\1"))),
    ("groups without a signal (all rewards equal)", ((r"frac_reward_zero_std", "share"),)),
    ("completion length, tokens", ((r"completions/(mean|min|max)_length", r"\1"),)),
    ("KL to the reference", ((r"kl", "per token"),)),
    ("entropy", ((r"entropy", "per token"),)),
    (
        "shares cut",
        (
            (r"completions/clipped_ratio", "completions cut at the limit"),
            (r"clip_ratio/region_mean", "tokens with a clipped ratio"),
        ),
    ),
    *_OPTIMIZER,
)

PRETRAIN: Plan = (
    _OPTIMIZER[0],
    ("score of the verdicts", ((r"(?:score|verdicts)/(all|surest)", r"\1"),)),
    ("first word of a verdict correct", ((r"verdicts/(?!all$|surest$)(\w+)", r"\1"),)),
    ("defects found among five pictures", ((r"judged/(\w+)/defects", r"\1"),)),
    ("normal pictures recognised among five", ((r"judged/(\w+)/sound", r"\1"),)),
    ("same product as the original? (guessing: 0.5)", ((r"judged/same_(\w+)", r"\1"),)),
    ("defects found in single pictures", ((r"seen/(\w+)/defects", r"\1"),)),
    ("normal single pictures recognised", ((r"seen/(\w+)/sound", r"\1"),)),
    _OPTIMIZER[1],
)


def panels_of(training: Training) -> list[Panel]:
    """The panels of a training; those without a point are left out."""
    plans = {"pretrain": PRETRAIN, "sft": SFT, "hcm-grpo": HCM_GRPO}
    panels = [Panel(title, tuple(_curves(training, patterns))) for title, patterns in plans[training.kind]]
    return [panel for panel in panels if panel.curves]


def draw(training: Training, panels: Sequence[Panel]) -> bytes:
    """Draw the panels as one PNG."""
    from matplotlib.figure import Figure  # not pyplot, which would choose a window system

    rows = -(-len(panels) // COLUMNS)
    figure = Figure(figsize=(5 * COLUMNS, 3.4 * rows), layout="constrained")
    for place, panel in enumerate(panels, 1):
        axes = figure.add_subplot(rows, COLUMNS, place)
        for curve in panel.curves:
            _draw_curve(axes, curve)
        for stage, offset in training.offsets.items():
            if len(training.offsets) > 1:
                axes.axvline(offset, color="black", linewidth=0.6, linestyle=":")
                axes.annotate(stage, (offset, 1), xycoords=("data", "axes fraction"), fontsize=8, va="bottom")
        axes.set_title(panel.title, fontsize=10, pad=14)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        if len(panel.curves) > 1:
            axes.legend(fontsize=8, frameon=False, ncols=4, loc="upper center", bbox_to_anchor=(0.5, -0.1))
    figure.supxlabel("step", fontsize=10)
    target = BytesIO()
    figure.savefig(target, format="png", dpi=110)
    return target.getvalue()


def _curves(training: Training, patterns: Sequence[tuple[str, str]]) -> list[Curve]:
    found: dict[str, list[tuple[int, float]]] = {}
    offsets = training.offsets
    for pattern, label in patterns:
        known = re.compile(pattern)
        for point in training.points:
            for name, value in point.values.items():
                if (match := known.fullmatch(name)) and isfinite(value):
                    step = offsets[point.stage] + point.step
                    found.setdefault(match.expand(label), []).append((step, value))
    return [Curve(label, *zip(*points, strict=True)) for label, points in found.items()]


def _draw_curve(axes: Axes, curve: Curve) -> None:
    window = len(curve.values) // 30 if len(curve.values) > SMOOTHED else 1
    name, colour = curve.label.replace("_", " "), _COLOURS.get(curve.label)
    (line,) = axes.plot(curve.steps, _smooth(curve.values, window), label=name, color=colour)
    if window > 1:
        axes.plot(curve.steps, curve.values, color=line.get_color(), alpha=0.2, linewidth=0.8, zorder=1)
    elif len(curve.values) < SMOOTHED:
        line.set_marker(".")


def _smooth(values: Sequence[float], window: int) -> list[float]:
    """Running mean of the last `window` values, of fewer at the start."""
    return [sum(part) / len(part) for end in range(1, len(values) + 1) if (part := values[max(0, end - window) : end])]
