"""`python -m trainer report RUN`: the curves of a training, also of one that still runs, and example decisions.

Everything comes from the run directory; no tracking server is asked.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

PAGE_NAME = "report.html"
CURVES_NAME = "curves.png"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", type=Path, metavar="RUN", help="run directory of `pretrain`, `sft` or `hcm-grpo`")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where the report is written (default: RUN/report)")


def run(args: argparse.Namespace) -> int:
    from trainer.runs.json_log import LogError
    from trainer.training.report.run import RunError

    try:
        print(write_report(args.run, args.out or args.run / "report"))
    except (RunError, LogError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def write_report(directory: Path, out: Path) -> str:
    """Read a run directory and write its report; returns a line that says where.

    Raises:
        RunError, LogError: the directory is none of a training, or its log or examples are damaged.
        OSError: a file cannot be read or written.
    """
    from trainer.runs.run_directory import write_atomically
    from trainer.training.report.curves import draw, panels_of
    from trainer.training.report.page import page
    from trainer.training.report.run import read_run
    from trainer.training.tracking.examples import read_examples

    training = read_run(directory)
    panels = panels_of(training)
    curves = draw(training, panels)
    written = page(training, panels, curves, read_examples(directory))
    out.mkdir(parents=True, exist_ok=True)
    partial = out / f".{CURVES_NAME}.partial"
    partial.write_bytes(curves)
    partial.replace(out / CURVES_NAME)
    write_atomically(out / PAGE_NAME, written)
    return f"{training.stage}, {training.progress}. Written to {out}: {PAGE_NAME}, {CURVES_NAME}"
