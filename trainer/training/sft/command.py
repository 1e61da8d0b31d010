"""`python -m trainer sft`: trains stage 1, the cold start (paper, section 4), in two runs: `weak` and `answer-driven`.

The loss is eq. (1), the mean negative log-likelihood of the target's tokens. ViT and aligner are frozen, and the
language model is trained (table 2).
"""

from __future__ import annotations

import argparse
from pathlib import Path

from trainer.runs.arguments import VALIDATION_HELP, add_directory, add_limit, add_recipe, add_run_directory
from trainer.training.tracking.store import add_tracking_argument, choose_store


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--stage",
        choices=("weak", "answer-driven"),
        required=True,
        help="weak: stage 1.1, captions and weak reasoning; answer-driven: stage 1.2, reasoning written for the label",
    )
    add_recipe(parser)
    parser.add_argument(
        "--checkpoint",
        type=Path,
        required=True,
        metavar="DIR",
        help="checkpoint to start from, with its screening.json",
    )
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="data directory with samples.jsonl")
    add_directory(parser, "--validation", VALIDATION_HELP, required=False)
    add_run_directory(parser)
    add_limit(parser)
    add_tracking_argument(parser)


def run(args: argparse.Namespace) -> int:
    from trainer.training.sft.train import train

    tracking = choose_store(args.tracking_uri, args.out)
    train(args.stage, args.recipe, args.checkpoint, args.data, args.out, args.limit, tracking, args.validation)
    return 0
