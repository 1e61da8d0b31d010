"""`python -m trainer compare`: is one checkpoint better than another, on which dimension, and which answers flip."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from trainer.runs.arguments import add_directory

if TYPE_CHECKING:
    from trainer.evaluation.compare.pairs import Pairs
    from trainer.evaluation.compare.report import Comparison

FLIPS_NAME = "flips.html"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_directory(parser, "--before", "what `trainer evaluate` wrote for one model")
    add_directory(parser, "--after", "the same for another, on the same data and mode")
    add_directory(
        parser,
        "--data",
        "the data directory of both; without it there are no dimensions and no pictures",
        required=False,
    )
    add_directory(parser, "--out", "new directory for the comparison")


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
    from trainer.evaluation.compare.report import COMPARISON_NAME, TABLE_NAME, compare, render

    pairs = read_pairs(before, after, data)
    comparison = compare(pairs)
    page = flips_page(comparison, pairs, data)
    _claim(out, pairs)
    write_atomically(out / TABLE_NAME, render(comparison))
    write_atomically(out / FLIPS_NAME, page)
    drawn = _draw(out, comparison)
    write_atomically(out / COMPARISON_NAME, comparison.model_dump_json(indent=1) + "\n")
    names = [COMPARISON_NAME, TABLE_NAME, FLIPS_NAME, *drawn]
    return f"{render(comparison)}\nWritten to {out}: {', '.join(names)}"


def _claim(out: Path, pairs: Pairs) -> None:
    """Make `out` the directory of this comparison, or see that it is."""
    from trainer.runs.run_directory import claim

    claim(
        out,
        {
            "stage": "compare",
            "mode": pairs.before.mode.value,
            "data": pairs.before.data.model_dump(),
            "before": pairs.before.model.digest,
            "after": pairs.after.model.digest,
        },
    )


def _draw(out: Path, comparison: Comparison) -> list[str]:
    """Draw the plot where matplotlib is installed: it is not worth a failed comparison where it is not."""
    from trainer.evaluation.compare.plot import PLOT_NAME, plot

    try:
        plot(comparison, out / PLOT_NAME)
    except ModuleNotFoundError as error:
        (out / PLOT_NAME).unlink(missing_ok=True)  # of an earlier comparison in this directory
        print(f"{PLOT_NAME} is left out: the module {error.name!r} is not installed", file=sys.stderr)
        return []
    return [PLOT_NAME]
