"""What a run has done: `summary.json`, and the lines that the command prints."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from screening.runtime.atomic_write import write_atomically
from trainer.catalogue.parts import Parts

SUMMARY_NAME = "summary.json"


class Summary(BaseModel):
    """Everything in `summary.json`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    records: int
    """Records of the input."""
    answered: int
    rejected: int
    choices: dict[str, int]
    """Number of answers per choice over all runs; `unreadable` for those that could not be read."""
    reasons: dict[str, int]
    """Number of rejected records per reason over all runs."""
    screened_now: int
    """Records that this run has screened or rejected; earlier runs have done the others."""
    seconds: float
    """Duration of this run, start of the engine included."""
    per_second: float | None
    """Records per second of this run; None if it had nothing to do."""
    cost_per_thousand: float | None
    """Cost of 1,000 records at the pace of this run, in the currency of --cost-per-hour; None without it."""


def summarise(out: Path, *, records: int, screened_now: int, seconds: float, cost_per_hour: float | None) -> Summary:
    """Count the parts of an output directory, and write the summary."""
    parts = Parts(out)
    choices = Counter(choice or "unreadable" for choice in parts.choices())
    reasons = Counter(parts.reasons())
    per_second = screened_now / seconds if screened_now else None
    cost = cost_per_hour / 3600 / per_second * 1000 if per_second and cost_per_hour is not None else None
    summary = Summary(
        records=records,
        answered=choices.total(),
        rejected=reasons.total(),
        choices=dict(sorted(choices.items())),
        reasons=dict(sorted(reasons.items())),
        screened_now=screened_now,
        seconds=round(seconds, 3),
        per_second=None if per_second is None else round(per_second, 3),
        cost_per_thousand=None if cost is None else round(cost, 6),
    )
    write_atomically(out / SUMMARY_NAME, summary.model_dump_json(indent=1) + "\n")
    return summary


def report(summary: Summary, out: Path) -> str:
    """The summary for people."""
    lines = [
        f"{out}: {summary.answered} of {summary.records} records answered, {summary.rejected} rejected",
        "choices: " + (_counts(summary.choices) or "none"),
    ]
    if summary.reasons:
        lines.append(f"rejected: {_counts(summary.reasons)}; see {out / 'rejects'}")
    if summary.per_second is None:
        return "\n".join([*lines, "this run: nothing was left to screen"])
    pace = f"{summary.screened_now} records in {summary.seconds:.1f} s, {summary.per_second:.2f} a second"
    cost = "" if summary.cost_per_thousand is None else f", {summary.cost_per_thousand:.4g} per thousand"
    return "\n".join([*lines, f"this run: {pace}{cost} (start of the engine included)"])


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items())
