"""`comparison.png`: plots the scores before and after, and their differences with intervals."""

from __future__ import annotations

from pathlib import Path

from screening.runtime.atomic_write import replacing
from trainer.evaluation.compare.report import Comparison, named_rows

PLOT_NAME = "comparison.png"

_BEFORE, _AFTER, _WORSE, _NONE = "#8a939c", "#0b5fa5", "#b3261e", "#59636e"


def plot(comparison: Comparison, path: Path) -> None:
    """Draw the plot and write it atomically."""
    from matplotlib.figure import Figure  # not pyplot, which would choose a window system

    rows = [(name, row) for name, row in named_rows(comparison) if row.n][::-1]  # the first row is drawn on top
    figure = Figure(figsize=(10, 1.6 + 0.5 * len(rows)), layout="constrained")
    scores, differences = figure.subplots(1, 2, sharey=True)
    for y, (_, row) in enumerate(rows):
        assert row.before is not None and row.after is not None and row.difference is not None
        assert row.low is not None and row.high is not None
        scores.plot([row.before, row.after], [y, y], color=_BEFORE, linewidth=1.5, zorder=1)
        scores.scatter([row.before], [y], facecolor="white", edgecolor=_BEFORE, zorder=2, label="before")
        scores.scatter([row.after], [y], color=_AFTER, zorder=3, label="after")
        told_apart = row.p_value is not None and row.p_value < 1 - comparison.confidence_level
        # The colour follows the test, not the interval, as in the table.
        colour = (_AFTER if row.difference > 0 else _WORSE) if told_apart else _NONE
        errors = [[row.difference - row.low], [row.high - row.difference]]
        differences.errorbar([row.difference], [y], xerr=errors, fmt="o", color=colour, capsize=3)
    scores.set_yticks(range(len(rows)), [f"{name} (n = {row.n})" for name, row in rows])
    scores.set_ylim(-0.6, len(rows) - 0.4)
    scores.set_xlabel("score, %")
    handles, labels = scores.get_legend_handles_labels()
    scores.legend(handles[:2], labels[:2], loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, frameon=False)
    differences.axvline(0, color="black", linewidth=0.8)
    differences.set_xlabel(f"after - before, points, {comparison.confidence_level:.0%} interval")
    for axes in (scores, differences):
        axes.grid(axis="x", alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    with replacing(path) as partial:
        figure.savefig(partial, format="png", dpi=130)
