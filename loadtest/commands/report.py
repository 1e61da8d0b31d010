"""Report of a run under load: `summary.json`, plots, and figures and verdicts on the terminal."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

from loadtest.commands import options
from loadtest.results import plots
from loadtest.results.record import Exchange, RunRecorder
from loadtest.results.summary import Load, Verdict, as_json, exit_code, load_text
from loadtest.targets.versions import Finding


def report(
    command: str,
    args: argparse.Namespace,
    recorder: RunRecorder,
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
    """Write and print the report.

    Args:
        exchanges: the requests that `load` summarises.
        began: start of the load, in seconds since the run began; the marks in the plots are relative to it.
        findings: wrong answers; None if the answers were not examined.
        alphabets: digests of the checkpoints, each with its own colour in the plots.
        further: further entries of the summary.

    Returns:
        The exit status: 1 if a criterion is not met.
    """
    status = exit_code(verdicts)
    summary = {"command": command, "settings": options.settings(args), "load": load, **further, "verdicts": verdicts}
    if findings is not None:
        summary["findings"] = {name: [each.number for each in found] for name, found in findings.items()}
    recorder.summarise(as_json({**summary, "passed": not status}))
    wrong = [each for found in (findings or {}).values() for each in found]
    answered = [1000 * each.latency for each in exchanges if each.answered]
    plots.write(
        recorder.directory,
        latency=plots.latency_over_time(exchanges, marks, began=began, alphabets=alphabets, wrong=wrong),
        distribution=plots.distribution({"answers": answered}),
        memory=plots.footprints(recorder.of("footprint"), marks, began=began),
    )
    print(load_text(load))
    print(*verdicts, f"raw data, summary and plots: {recorder.directory}", sep="\n")
    return status
