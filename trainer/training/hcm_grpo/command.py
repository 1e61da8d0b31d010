"""`python -m trainer hcm-grpo`: trains stage 2 (paper, section 4), GRPO with a proportional reward and hard cases."""

from __future__ import annotations

import argparse
from pathlib import Path

from trainer.runs.arguments import VALIDATION_HELP, add_directory, add_recipe, add_run_directory
from trainer.training.tracking.store import add_tracking_argument, choose_store


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_recipe(parser)
    add_directory(
        parser, "--checkpoint", "checkpoint of stage 1 (SFT), with which the policy starts and which is its reference"
    )
    add_directory(parser, "--data", "data directory with the training samples (samples.jsonl)")
    add_directory(parser, "--hard-cases", "directory that `trainer hard-cases` wrote for this checkpoint on this data")
    add_directory(parser, "--validation", VALIDATION_HELP, required=False)
    add_run_directory(parser)
    parser.add_argument(
        "--after",
        type=Path,
        metavar="RUN",
        help="warm start: a finished run whose epochs equal the first epochs of this run; they are not trained again, "
        "and the result does not change (default: none). Needs `schedule: constant` and `warmup_ratio: 0` in the "
        "recipe, and no validation",
    )
    add_tracking_argument(parser)


def run(args: argparse.Namespace) -> int:
    from trainer.training.hcm_grpo.train import train

    tracking = choose_store(args.tracking_uri, args.out)
    train(
        args.recipe,
        args.checkpoint,
        args.data,
        args.hard_cases,
        args.out,
        tracking,
        args.after,
        validation_data=args.validation,
    )
    return 0
