"""`python -m trainer hard-cases`: has the SFT model answer the training set, and records what it answers wrong."""

from __future__ import annotations

import argparse
import sys

from trainer.runs.arguments import add_batch, add_directory
from trainer.runs.sigterm import engine_ends_on_sigterm


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `python -m trainer hard-cases`."""
    add_directory(parser, "--checkpoint", "the checkpoint of stage 1 (SFT)")
    add_directory(parser, "--data", "data directory with the training samples (samples.jsonl)")
    add_directory(
        parser,
        "--out",
        "new directory, one to continue, or one that `evaluate --mode cot` wrote for this checkpoint on this data",
    )
    add_batch(parser)


def run(args: argparse.Namespace) -> int:
    """Run the stage; returns the exit status."""
    from trainer.training.hard_cases.find import find_hard_cases
    from trainer.training.hard_cases.record import RECORD_NAME
    from trainer.training.hard_cases.summary import SUMMARY_NAME

    with engine_ends_on_sigterm():
        cases = find_hard_cases(args.checkpoint, args.data, args.out, batch=args.batch)
    print((args.out / SUMMARY_NAME).read_text(encoding="utf-8"))
    print(f"Written to {args.out}: {RECORD_NAME}, {SUMMARY_NAME}, and the evaluation")
    if not cases.hard:
        print(
            "warning: the model answers every sample right, so there are no hard cases. Give stage 2 harder questions, "
            "or set hcm_grpo.last_parts to [all] in the recipe",
            file=sys.stderr,
        )
    return 0
