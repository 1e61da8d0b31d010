"""`python -m trainer render`: a data set of labelled samples, rendered or from product photos."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from screening.errors import UserError
from screening.runtime.argument_types import not_negative, positive
from screening.runtime.exits import UNFINISHED
from trainer.data.render.sample import USABLE_COUNTS
from trainer.runs.arguments import add_directory


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--count",
        type=positive,
        help="number of samples (five pictures each); with --products, samples of each photo (default there: 1)",
    )
    parser.add_argument(
        "--seed",
        type=not_negative,
        required=True,
        help="seed of the pictures, at least 0; the same seed gives the same pictures",
    )
    add_directory(parser, "--out", "directory to write; must be new or empty, or with --products one to continue")
    parser.add_argument(
        "--size", type=_size, default=384, help="side of the pictures in pixels, 64 to 2048 (default: 384)"
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
    _photo_arguments(parser)


def _photo_arguments(parser: argparse.ArgumentParser) -> None:
    photos = parser.add_argument_group("products in photos")
    add_directory(
        photos,
        "--products",
        "directory of product photos, or of folders with the photos of one product; their products take the place of "
        "rendered ones (default: none)",
        required=False,
    )
    add_directory(
        photos,
        "--references",
        "directory of background pictures whose lower third shows a surface (default: rendered backgrounds)",
        required=False,
    )
    photos.add_argument(
        "--segmenter",
        metavar="NAME",
        help="auto, alpha (transparent files), backdrop (plain background), onnx:FILE, or package.module:name; "
        "auto is alpha for transparent files, else backdrop (default: auto)",
    )


def run(args: argparse.Namespace) -> int:
    if args.products is not None:
        return _plant(args)
    for option in ("references", "segmenter"):
        if getattr(args, option) is not None:
            why = "rendered products stand in rendered scenes"
            raise UserError(f"--{option} needs --products: {why}. Add --products DIR")
    if args.count is None:
        raise UserError("--count is missing: name the number of samples, or the photos with --products")
    from trainer.data.render.dataset import Order, write_dataset

    order = Order(args.count, args.seed, args.size, args.severities, args.usable_counts)
    print(_report(args.out, write_dataset(order, args.out, args.workers)))
    return 0


def _plant(args: argparse.Namespace) -> int:
    from trainer.data.plant.order import Order
    from trainer.data.plant.run import plant

    order = Order(
        products=args.products,
        references=args.references,
        out=args.out,
        seed=args.seed,
        count=args.count or 1,
        size=args.size,
        severities=args.severities,
        usable_counts=args.usable_counts,
        segmenter=args.segmenter or "auto",
    )
    result = plant(order, args.workers)
    print(_report(args.out, result.summary))
    if not result.left_out:
        return 0
    reasons = ", ".join(f"{count} x {reason}" for reason, count in result.left_out.items())
    print(f"left out: {reasons}; see failures.jsonl. The same command tries them again")
    return UNFINISHED


def _report(out: Path, summary: dict[str, Any]) -> str:
    return (
        f"{out}: {summary['samples']} samples of {summary['products']} products, "
        f"mean label length {summary['mean_label_length'] or 0:.2f}, "
        f"random baseline {summary['random_baseline'] or 0:.1f} %, "
        f"{100 * (summary['share_of_n'] or 0):.0f} % without a usable picture"
    )


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
