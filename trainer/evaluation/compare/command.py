"""`python -m trainer compare`: compares two models: scores by dimension, significance, and the answers that flip."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from trainer.runs.arguments import add_directory

if TYPE_CHECKING:
    from trainer.evaluation.compare.pairs import Pairs

FLIPS_NAME = "flips.html"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_directory(parser, "--before", "directory that `trainer evaluate` wrote for the first model")
    add_directory(parser, "--after", "the same for the second model, on the same data and in the same mode")
    add_directory(
        parser,
        "--data",
        "data directory of both evaluations (default: none, and then the report lacks dimensions and pictures)",
        required=False,
    )
    add_directory(parser, "--out", "directory for the comparison: new, or of the same comparison")


def run(args: argparse.Namespace) -> int:
    print(write_comparison(args.before, args.after, args.data, args.out))
    return 0


def write_comparison(before: Path, after: Path, data: Path | None, out: Path) -> str:
    """Compare two evaluations and write the result to `out`; returns the page for people.

    Raises:
        CompareError: the two cannot be compared, or `out` holds something else.
        EvaluationError, DataError: an input cannot be used.
        RunMismatch: `out` holds the comparison of other evaluations.
        OSError: a file cannot be written.
    """
    from screening.runtime.atomic_write import write_atomically
    from trainer.evaluation.compare.flips_page import flips_page
    from trainer.evaluation.compare.pairs import read_pairs
    from trainer.evaluation.compare.plot import PLOT_NAME, plot
    from trainer.evaluation.compare.report import COMPARISON_NAME, TABLE_NAME, compare, render

    pairs = read_pairs(before, after, data)
    comparison = compare(pairs)
    page = flips_page(comparison, pairs, data)
    _claim(out, pairs)
    write_atomically(out / TABLE_NAME, render(comparison))
    write_atomically(out / FLIPS_NAME, page)
    plot(comparison, out / PLOT_NAME)
    write_atomically(out / COMPARISON_NAME, comparison.model_dump_json(indent=1) + "\n")
    return f"{render(comparison)}\nWritten to {out}: {COMPARISON_NAME}, {TABLE_NAME}, {FLIPS_NAME}, {PLOT_NAME}"


def _claim(out: Path, pairs: Pairs) -> None:
    """Claim `out` for this comparison, or check that it already belongs to it."""
    from trainer.runs.run_directory import claim

    claim(
        out,
        {
            "stage": "compare",
            "mode": pairs.before.asked,
            "data": pairs.before.data.model_dump(exclude={"products"}),
            "before": pairs.before.model.digest,
            "after": pairs.after.model.digest,
        },
    )
