"""`python -m trainer sft`: the cold start (paper, section 4): stage 1.1 (`weak`) and stage 1.2 (`answer-driven`).

Loss: eq. (1), the mean negative log-likelihood of the target's tokens. ViT and aligner are frozen, the language model
is trained (table 2).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from trainer.runs.argument_types import positive
from trainer.training.tracking.store import TrackingError, add_tracking_argument, choose_store


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--stage",
        choices=("weak", "answer-driven"),
        required=True,
        help="1.1: captions and weak reasoning; 1.2: reasoning written for the known answer",
    )
    parser.add_argument(
        "--recipe", default="tiny", help="name of a shipped recipe or path of a YAML file (default: tiny)"
    )
    parser.add_argument(
        "--checkpoint", type=Path, required=True, help="checkpoint to start from (a directory with its manifest)"
    )
    parser.add_argument(
        "--data", type=Path, required=True, help="data directory with samples.jsonl, as `trainer render` writes it"
    )
    parser.add_argument("--out", type=Path, required=True, help="run directory; a killed run in it is continued")
    parser.add_argument("--limit", type=positive, metavar="N", help="use only the first so many samples")
    add_tracking_argument(parser)


def run(args: argparse.Namespace) -> int:
    from screening.errors import CheckpointError
    from trainer.data_directory import DataError
    from trainer.runs.run_directory import RunMismatch
    from trainer.training.distributed import LaunchError
    from trainer.training.recipe import RecipeError
    from trainer.training.sft.train import train

    try:
        tracking = choose_store(args.tracking_uri, args.out)
        train(args.stage, args.recipe, args.checkpoint, args.data, args.out, args.limit, tracking)
    except (CheckpointError, DataError, LaunchError, RecipeError, RunMismatch, TrackingError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0
