"""`python -m trainer render`: draw a data set of labelled samples."""

from __future__ import annotations

import argparse

from screening.runtime.argument_types import not_negative, positive
from trainer.data.render.sample import USABLE_COUNTS
from trainer.runs.arguments import add_directory


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--count", type=positive, required=True, help="number of samples (five pictures each)")
    parser.add_argument(
        "--seed",
        type=not_negative,
        required=True,
        help="seed of the drawing, at least 0; the same seed draws the same pictures",
    )
    add_directory(parser, "--out", "directory to write; must be new or empty")
    parser.add_argument(
        "--size", type=_size, default=384, help="side of the pictures in pixels, 64 to 2048 (default: 384)"
    )
    add_directory(
        parser,
        "--products",
        "directory of cut-outs (RGBA PNG or WebP) to use instead of drawn products (default: none)",
        required=False,
    )
    parser.add_argument(
        "--workers", type=positive, default=1, help="number of processes; it does not change the pictures (default: 1)"
    )
    parser.add_argument(
        "--severities",
        type=_severities,
        default=(0.2, 0.4, 0.4),
        metavar="S,C,O",
        help="shares of subtle, clear and gross defects (default: 0.2,0.4,0.4)",
    )
    parser.add_argument(
        "--usable-counts",
        type=_usable_counts,
        default=USABLE_COUNTS,
        metavar="N0,…,N4",
        help="shares of samples with 0 to 4 usable pictures (default: 0.25,0.32,0.23,0.13,0.07, as in the paper); "
        "more defective pictures train a model that rejects doubtful pictures",
    )


def run(args: argparse.Namespace) -> int:
    from trainer.data.render.dataset import Order, write_dataset

    order = Order(args.count, args.seed, args.size, args.severities, args.products, args.usable_counts)
    summary = write_dataset(order, args.out, args.workers)
    print(
        f"{args.out}: {summary['samples']} samples of {summary['products']} products, "
        f"mean answer length {summary['mean_answer_length']:.2f}, random baseline {summary['random_baseline']:.1%}, "
        f"{summary['share_of_n']:.0%} without a usable picture"
    )
    return 0


def _size(text: str) -> int:
    value = positive(text)
    if not 64 <= value <= 2048:
        raise argparse.ArgumentTypeError("must be between 64 and 2048 pixels")
    return value


def _severities(text: str) -> tuple[float, ...]:
    return _shares(text, (0.2, 0.4, 0.4))


def _usable_counts(text: str) -> tuple[float, ...]:
    return _shares(text, USABLE_COUNTS)


def _shares(text: str, example: tuple[float, ...]) -> tuple[float, ...]:
    """Parse as many numbers as the example has, and scale them to a sum of 1."""
    wanted = f"{len(example)} numbers, like {','.join(map(str, example))}"
    try:
        shares = [float(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be {wanted}") from None
    if len(shares) != len(example) or not all(0 <= s < float("inf") for s in shares) or sum(shares) <= 0:
        raise argparse.ArgumentTypeError(f"must be {wanted}, each at least 0 and not all 0")
    return tuple(share / sum(shares) for share in shares)
