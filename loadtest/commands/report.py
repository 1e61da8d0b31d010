"""How a run under load ends: `summary.json`, plots, and on the terminal the figures with their verdicts."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

from loadtest.commands import options
from loadtest.results import plots
from loadtest.results.record import Book, Exchange
from loadtest.results.summary import Load, Verdict, as_json, exit_code, load_text
from loadtest.targets.versions import Finding


def report(
    command: str,
    args: argparse.Namespace,
    book: Book,
    load: Load,
    verdicts: Sequence[Verdict],
    *,
    exchanges: Sequence[Exchange],
    began: float,
    marks: Sequence[plots.Mark],
    findings: Mapping[Finding, Sequence[Exchange]] | None = None,
    alphabets: Sequence[str] = (),
    **further: Any,
) -> int:
    """Write and print it.

    Args:
        exchanges: those that `load` is of.
        began: when the load began, in seconds of the run; marks count from there.
        findings: answers that are wrong; None where nobody looked.
        alphabets: digests of the checkpoints, each drawn in a colour of its own.
        further: more entries of the summary.

    Returns:
        The exit status: 1 if a criterion is not met.
    """
    status = exit_code(verdicts)
    summary = {"command": command, "settings": options.settings(args), "load": load, **further, "verdicts": verdicts}
    if findings is not None:
        summary["findings"] = {name: [each.number for each in found] for name, found in findings.items()}
    book.summarise(as_json({**summary, "passed": not status}))
    wrong = [each for found in (findings or {}).values() for each in found]
    answered = [1000 * each.latency for each in exchanges if each.answered]
    plots.write(
        book.directory,
        latency=plots.latency_over_time(exchanges, marks, began=began, alphabets=alphabets, wrong=wrong),
        distribution=plots.distribution({"answers": answered}),
        memory=plots.footprints(book.of("footprint"), marks, began=began),
    )
    print(load_text(load))
    print(*verdicts, f"raw data, summary and plots: {book.directory}", sep="\n")
    return status
