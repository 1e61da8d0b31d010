"""Plots of the figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from loadtest.results.fleet import Period
from loadtest.results.record import Event, Exchange
from loadtest.results.summary import Load

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Mark = tuple[float, str]
"""Time in seconds since the load began, and the event: `swap`, `rate`, `kill`, `ready`."""

_MARKS = {"swap": ("0.6", ":"), "rate": ("0.6", ":"), "kill": ("tab:red", "--"), "ready": ("tab:green", "--")}
_FAILED = "tab:red"
_MEBI = 2**20


def write(directory: Path, **figures: Figure | None) -> None:
    """Write each figure as `NAME.png`; None is skipped."""
    for name, figure in figures.items():
        if figure is not None:
            figure.savefig(directory / f"{name}.png", dpi=110)


def latency_over_time(
    exchanges: Sequence[Exchange],
    marks: Sequence[Mark],
    *,
    began: float,
    alphabets: Sequence[str] = (),
    wrong: Sequence[Exchange] = (),
) -> Figure:
    """Plot the latency of every request at its planned send time, with swaps and kills as lines.

    Args:
        alphabets: digests of the checkpoints, each with its own colour.
        wrong: answers from mixed or wrong weights.
    """
    figure, axes = _one("seconds since the load began", "ms from the intended moment")
    answers = [each for each in exchanges if each.answered]
    groups = {digest: [each for each in answers if each.digest == digest] for digest in alphabets} or {"": answers}
    for number, (digest, members) in enumerate(groups.items()):
        label = f"answer of {digest.removeprefix('sha256:')[:8]}" if digest else "answer"
        _dots(axes, members, began, f"C{number}", label, "o")
    _dots(axes, [each for each in exchanges if not each.answered], began, _FAILED, "not answered", "x")
    _dots(axes, wrong, began, "black", "of wrong weights", "+")
    _mark(axes, marks)
    axes.set_ylim(bottom=0)
    _legend(axes)
    return figure


def _dots(axes: Axes, members: Sequence[Exchange], began: float, colour: str, label: str, marker: str) -> None:
    if members:
        moments, values = [each.intended - began for each in members], [1000 * each.latency for each in members]
        axes.plot(moments, values, marker, markersize=9 if marker == "+" else 3, alpha=0.6, color=colour, label=label)


def distribution(latencies: Mapping[str, Sequence[float]]) -> Figure | None:
    """Plot latency against the share of slower requests, which shows the tail. None without an answer."""
    shown = {label: values for label, values in latencies.items() if values}
    if not shown:
        return None
    figure, axes = _one("percentile", "ms from the intended moment")
    ticks = [0.0, 50.0, 90.0, 95.0, 99.0, 99.9]
    for label, values in shown.items():
        ordered = sorted(values)
        shares = [max((len(ordered) - n) / len(ordered), 1e-4) for n in range(len(ordered))]
        axes.step(shares, ordered, where="post", label=f"{label} ({len(ordered)})")
    least = min(1 / len(values) for values in shown.values())
    axes.set_xscale("log")
    axes.set_xlim(1, least / 1.5)
    axes.set_xticks([1 - tick / 100 for tick in ticks], [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.set_xlim(1, least / 1.5)
    axes.set_ylim(bottom=0)
    _legend(axes)
    return figure


def rates(loads: Mapping[float, Load]) -> Figure:
    """Plot a sweep: offered and answered rate, latency, and refusals."""
    from matplotlib.figure import Figure  # not pyplot, which would choose a window system

    figure = Figure(figsize=(7, 9), layout="constrained")
    offered = list(loads)
    answered, taken, refused = figure.subplots(3, sharex=True)
    answered.plot(offered, offered, color="0.7", linestyle=":", label="as offered")
    answered.plot(offered, [load.achieved for load in loads.values()], marker="o", label="answered")
    limit = next(iter(loads.values())).limit_ms
    answered.plot(offered, [load.goodput for load in loads.values()], marker="o", label=f"within {limit:g} ms")
    answered.set_ylabel("answers per second")
    for name in ("p50", "p95", "p99"):
        taken.plot(offered, [load.latency_ms[name] for load in loads.values()], marker="o", label=name)
    taken.set_ylabel("latency of answers, ms")
    refused.plot(offered, [100 * load.share_429 for load in loads.values()], marker="o", label="429")
    refused.plot(offered, [100 * load.share_503 for load in loads.values()], marker="o", label="503")
    refused.set_ylabel("% refused")
    refused.set_xlabel("requests offered per second")
    for axes in (answered, taken, refused):
        _plain(axes)
        _legend(axes)
    answered.set_ylim(bottom=0)
    refused.set_ylim(bottom=0)
    if any(load.answered for load in loads.values()):
        taken.set_yscale("log")
    return figure


def fleet(periods: Sequence[Period]) -> Figure:
    """Plot a simulated fleet: offered rate, replicas, latency, and refusals, over minutes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 9), layout="constrained")
    minutes = [period.start / 60 for period in periods]
    offered, replicas, latency, refused = figure.subplots(4, sharex=True)
    offered.step(minutes, [period.offered for period in periods], where="post")
    offered.set_ylabel("requests per second")
    replicas.step(minutes, [period.wanted for period in periods], where="post", color="0.6", label="asked for")
    replicas.step(minutes, [period.ready for period in periods], where="post", label="ready")
    replicas.set_ylabel("replicas")
    latency.step(minutes, [period.p50 for period in periods], where="post", label="p50")
    latency.step(minutes, [period.p99 for period in periods], where="post", label="p99")
    latency.set_ylabel("latency of answers, s")
    refused.step(minutes, [period.retried for period in periods], where="post", color="0.6", label="and retried")
    refused.step(
        minutes, [period.rejected for period in periods], where="post", color=_FAILED, label="after the last retry"
    )
    refused.set_ylabel("refused per second")
    refused.set_xlabel("minutes since the load began")
    for axes in (offered, replicas, latency, refused):
        _plain(axes)
        _legend(axes)
        axes.set_ylim(bottom=0)
    return figure


def footprints(events: Sequence[Event], marks: Sequence[Mark], *, began: float) -> Figure | None:
    """Plot memory, open files and threads of the service's processes over time. None if they were not measured."""
    from matplotlib.figure import Figure

    if not events:
        return None
    figure = Figure(figsize=(9, 7), layout="constrained")
    moments = [event.at - began for event in events]
    shown = {"memory_bytes": "memory, MiB (PSS)", "open_files": "open files", "threads": "threads"}
    for axes, (fact, label) in zip(figure.subplots(3, sharex=True), shown.items(), strict=True):
        scale = _MEBI if fact == "memory_bytes" else 1
        values = [event.facts[fact] / scale for event in events]
        axes.plot(moments, values, marker=".")
        axes.set_ylabel(label)
        axes.set_ylim(0, 1.1 * max(values))
        _mark(axes, marks)
        _plain(axes)
    axes.set_xlabel("seconds since the load began")
    return figure


def _one(x: str, y: str) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.5), layout="constrained")
    axes = figure.add_subplot()
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    _plain(axes)
    return figure, axes


def _plain(axes: Axes) -> None:
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def _mark(axes: Axes, marks: Sequence[Mark]) -> None:
    named: set[str] = set()
    for moment, kind in marks:
        colour, style = _MARKS[kind]
        axes.axvline(
            moment, color=colour, linestyle=style, linewidth=0.9, zorder=0, label=None if kind in named else kind
        )
        named.add(kind)


def _legend(axes: Axes) -> None:
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=8, frameon=False, ncols=6, loc="lower left", bbox_to_anchor=(0, 1))
