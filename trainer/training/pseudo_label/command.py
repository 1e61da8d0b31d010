"""`python -m trainer pseudo-label`: a checkpoint labels questions for its own further training (self-training).

The checkpoint answers each question in several picture orders. The answers on which the orders agree and of which it is
sure become labels. Labels that the data already have are only used to measure the pseudo-labels.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from screening.runtime.argument_types import above_zero, positive, share
from trainer.runs.arguments import add_batch, add_directory, add_limit, add_mode
from trainer.runs.sigterm import engine_ends_on_sigterm

MOST_ORDERS = 24
"""Number of orders of four pictures."""
FEW = 50
"""Minimum number of pseudo-labels without a warning."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `python -m trainer pseudo-label`."""
    add_directory(parser, "--checkpoint", "checkpoint that answers; the training starts from it afterwards")
    add_directory(parser, "--data", "data directory with the questions, usually the part `exploration` of a split")
    add_directory(
        parser,
        "--out",
        "new data directory, or one to continue or to select again with other rules",
    )
    add_directory(
        parser,
        "--replay",
        "labelled data directory to add to the output, so that the training does not forget; its labels also say how "
        "frequent each number of usable pictures may be (default: none; then the answers themselves say it)",
        required=False,
    )
    parser.add_argument(
        "--test-data",
        type=Path,
        nargs="+",
        default=[],
        metavar="DIR",
        help="test sets: questions that share a product or a picture with them are refused. The frozen test set of the "
        "split that --data or --replay belongs to is always checked",
    )
    add_mode(parser)
    add_limit(parser)
    add_batch(parser)
    rules = parser.add_argument_group("selection (with other rules, the same answers are selected again)")
    rules.add_argument(
        "--orders",
        type=_orders,
        default=4,
        metavar="N",
        help="number of picture orders in which each question is asked, 2 to 24; 4 show each picture once in each "
        "position (default: %(default)s)",
    )
    rules.add_argument(
        "--min-agreement",
        type=share,
        default=0.75,
        metavar="P",
        help="minimum share of the orders that give the same label, 0 to 1 (default: %(default)s)",
    )
    rules.add_argument(
        "--min-confidence",
        type=share,
        default=0.5,
        metavar="P",
        help="minimum mean calibrated confidence of these orders, 0 to 1; it is lower on pictures "
        "unlike the training data (default: %(default)s)",
    )
    rules.add_argument(
        "--max-overshare",
        type=_factor,
        default=1.25,
        metavar="X",
        help="maximum factor by which the share of labels with the same number of usable pictures may exceed that in "
        "--replay, at least 1 (default: %(default)s)",
    )


def run(args: argparse.Namespace) -> int:
    """Run the stage; returns the exit status."""
    from screening.answer import Mode
    from trainer.training.pseudo_label.answers import ANSWERS_NAME
    from trainer.training.pseudo_label.label import Order, pseudo_label
    from trainer.training.pseudo_label.report import PAGE_NAME, RECORD_NAME, page
    from trainer.training.pseudo_label.select import Rules

    order = Order(
        checkpoint=args.checkpoint,
        data=args.data,
        out=args.out,
        rules=Rules(args.min_agreement, args.min_confidence, args.max_overshare),
        mode=Mode(args.mode),
        orders=args.orders,
        replay=args.replay,
        test_data=tuple(args.test_data),
        limit=args.limit,
        batch=args.batch,
    )
    with engine_ends_on_sigterm():
        result = pseudo_label(order)
    print(page(result))
    print(f"Written to {args.out}: samples.jsonl, pictures, {RECORD_NAME}, {PAGE_NAME}, {ANSWERS_NAME}")
    if result.selected < FEW:
        print(f"warning: only {result.selected} pseudo-labels; a training learns little from these", file=sys.stderr)
    return 0


def _orders(text: str) -> int:
    if not 2 <= (value := positive(text)) <= MOST_ORDERS:
        raise argparse.ArgumentTypeError(f"{text!r} is not between 2 and {MOST_ORDERS}")
    return value


def _factor(text: str) -> float:
    if (value := above_zero(text)) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not at least 1")
    return value
