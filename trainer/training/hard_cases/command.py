"""`python -m trainer hard-cases`: the SFT model answers the training set; what it gets wrong are the hard cases."""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path

from trainer.evaluation.evaluate.command import UNFINISHED
from trainer.runs.argument_types import positive


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `python -m trainer hard-cases`."""
    parser.add_argument("--checkpoint", type=Path, required=True, metavar="DIR", help="the SFT model")
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="training data with samples.jsonl")
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="DIR",
        help="new directory, one to go on with, or what `evaluate --mode cot` wrote for this checkpoint on this data",
    )
    parser.add_argument(
        "--batch", type=positive, default=64, metavar="N", help="samples at once (default: %(default)s)"
    )


def run(args: argparse.Namespace) -> int:
    """Run the stage from parsed arguments. Returns the exit status; what a user can mend is printed in one line."""
    from screening.errors import ScreeningError
    from trainer.data_directory import DataError
    from trainer.evaluation.evaluate.by_checkpoint import engine_ends_on_sigterm
    from trainer.evaluation.evaluate.errors import EvaluationError, Unfinished
    from trainer.runs.json_log import LogError
    from trainer.training.hard_cases.cases import HardCasesError
    from trainer.training.hard_cases.find import find_hard_cases
    from trainer.training.hard_cases.record import RECORD_NAME
    from trainer.training.hard_cases.summary import SUMMARY_NAME

    try:
        with engine_ends_on_sigterm():
            cases = find_hard_cases(args.checkpoint, args.data, args.out, batch=args.batch)
    except Unfinished as error:
        print(f"error: {error}", file=sys.stderr)
        return UNFINISHED
    except (DataError, EvaluationError, HardCasesError, LogError, ScreeningError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; what was answered is kept, the same command goes on from there", file=sys.stderr)
        return 128 + signal.SIGINT
    print((args.out / SUMMARY_NAME).read_text(encoding="utf-8"))
    print(f"Written to {args.out}: {RECORD_NAME}, {SUMMARY_NAME}, and the evaluation they come from")
    if not cases.hard:
        print(
            "warning: there are no hard cases, the model answers every sample right; stage 2 needs other questions, or "
            "a recipe whose hcm_grpo.last_parts is [all]",
            file=sys.stderr,
        )
    return 0
