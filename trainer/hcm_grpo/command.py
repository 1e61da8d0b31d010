"""`python -m trainer hcm-grpo`: stage 2 (paper, section 4): GRPO with a proportional reward and hard cases mining."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--recipe", default="tiny", help="name of a shipped recipe or path of a YAML file (default: tiny)"
    )
    parser.add_argument(
        "--checkpoint", type=Path, required=True, metavar="DIR", help="the SFT model; start and reference of the policy"
    )
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="training data with samples.jsonl")
    parser.add_argument(
        "--predictions",
        type=Path,
        required=True,
        metavar="DIR",
        help="what `trainer evaluate --mode cot` wrote for this checkpoint on this data; wrong answers are hard cases",
    )
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="run directory; a killed run in it is continued"
    )


def run(args: argparse.Namespace) -> int:
    from screening.errors import CheckpointError
    from trainer.evaluate.predictions import EvaluationError
    from trainer.hard_cases import HardCasesError
    from trainer.hcm_grpo.train import train
    from trainer.recipe import RecipeError
    from trainer.records import DataError
    from trainer.run_directory import RunMismatch

    try:
        train(args.recipe, args.checkpoint, args.data, args.predictions, args.out)
    except (CheckpointError, DataError, EvaluationError, HardCasesError, RecipeError, RunMismatch) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0
