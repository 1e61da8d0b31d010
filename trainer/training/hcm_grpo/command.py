"""`python -m trainer hcm-grpo`: stage 2 (paper, section 4): GRPO with a proportional reward and hard cases mining."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from trainer.training.tracking.store import TrackingError, add_tracking_argument, choose_store


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--recipe", default="tiny", help="name of a shipped recipe or path of a YAML file (default: tiny)"
    )
    parser.add_argument(
        "--checkpoint", type=Path, required=True, metavar="DIR", help="the SFT model; start and reference of the policy"
    )
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="training data with samples.jsonl")
    parser.add_argument(
        "--hard-cases",
        type=Path,
        required=True,
        metavar="DIR",
        help="what `trainer hard-cases` wrote for this checkpoint on this data",
    )
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="run directory; a killed run in it is continued"
    )
    parser.add_argument(
        "--after",
        type=Path,
        metavar="RUN",
        help="go on after a finished run whose epochs are the first of this one, with the same result as training them "
        "again; needs `schedule: constant` and `warmup_ratio: 0` in the recipe",
    )
    add_tracking_argument(parser)


def run(args: argparse.Namespace) -> int:
    from screening.errors import CheckpointError
    from trainer.data_directory import DataError
    from trainer.runs.run_directory import RunMismatch
    from trainer.training.distributed import LaunchError
    from trainer.training.hard_cases import HardCasesError
    from trainer.training.hcm_grpo.train import train
    from trainer.training.recipe import RecipeError

    try:
        tracking = choose_store(args.tracking_uri, args.out)
        train(args.recipe, args.checkpoint, args.data, args.hard_cases, args.out, tracking, args.after)
    except (
        CheckpointError,
        DataError,
        HardCasesError,
        LaunchError,
        RecipeError,
        RunMismatch,
        TrackingError,
    ) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0
