"""`python -m trainer render`: draw a data set."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--count", type=_positive, required=True, help="number of samples (five pictures each)")
    parser.add_argument("--seed", type=_seed, required=True, help="the same seed draws the same pictures")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="directory to write; must not hold anything"
    )
    parser.add_argument("--size", type=_size, default=384, help="side of the pictures in pixels (default: 384)")
    parser.add_argument(
        "--products", type=Path, metavar="DIR", help="cut-outs (RGBA PNG) to use in place of drawn products"
    )
    parser.add_argument(
        "--workers", type=_positive, default=1, help="processes (default: 1); the pictures do not depend on it"
    )
    parser.add_argument(
        "--severities",
        type=_severities,
        default=(0.2, 0.4, 0.4),
        metavar="S,C,O",
        help="shares of subtle, clear and obvious defects (default: 0.2,0.4,0.4)",
    )


def run(args: argparse.Namespace) -> int:
    from screening.errors import ScreeningError
    from trainer.render.dataset import Order, write_dataset

    order = Order(args.count, args.seed, args.size, args.severities, args.products)
    try:
        summary = write_dataset(order, args.out, args.workers)
    except (ScreeningError, OSError) as error:
        print(f"trainer render: {error}", file=sys.stderr)
        return 1
    print(
        f"{args.out}: {summary['samples']} samples of {summary['products']} products, "
        f"mean answer length {summary['mean_answer_length']:.2f}, random baseline {summary['random_baseline']:.1%}, "
        f"{summary['share_of_n']:.0%} without a usable picture"
    )
    return 0


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


def _seed(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError("must not be negative")
    return value


def _size(text: str) -> int:
    value = int(text)
    if not 64 <= value <= 2048:
        raise argparse.ArgumentTypeError("must be between 64 and 2048 pixels")
    return value


def _severities(text: str) -> tuple[float, float, float]:
    try:
        shares = [float(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError("must be three numbers, like 0.2,0.4,0.4") from None
    if len(shares) != 3 or not all(0 <= s < float("inf") for s in shares) or sum(shares) <= 0:
        raise argparse.ArgumentTypeError("must be three numbers that are not negative and not all 0, like 0.2,0.4,0.4")
    return shares[0] / sum(shares), shares[1] / sum(shares), shares[2] / sum(shares)
