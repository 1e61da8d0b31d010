"""`python -m trainer report RUN`: makes a page with the curves and example decisions of a training, even a running one.

Everything comes from the run directory; a tracking server is not needed.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from trainer.runs.arguments import add_directory

PAGE_NAME = "report.html"
CURVES_NAME = "curves.png"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", type=Path, metavar="RUN", help="run directory of `pretrain`, `sft` or `hcm-grpo`")
    add_directory(parser, "--out", "directory for the report (default: RUN/report)", required=False)


def run(args: argparse.Namespace) -> int:
    print(write_report(args.run, args.out or args.run / "report"))
    return 0


def write_report(directory: Path, out: Path) -> str:
    """Read a run directory and write its report. Returns a line for people.

    Raises:
        RunError, LogError: the directory does not belong to a training, or its log or examples are damaged.
        OSError: a file cannot be read or written.
    """
    from screening.runtime.atomic_write import write_atomically
    from trainer.training.report.curves import draw, panels_of
    from trainer.training.report.page import page
    from trainer.training.report.run import read_run
    from trainer.training.tracking.examples import read_examples

    training = read_run(directory)
    panels = panels_of(training)
    curves = draw(training, panels)
    written = page(training, panels, curves, read_examples(directory))
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(out / CURVES_NAME, curves)
    write_atomically(out / PAGE_NAME, written)
    return f"{training.stage}, {training.progress}. Written to {out}: {PAGE_NAME}, {CURVES_NAME}"
