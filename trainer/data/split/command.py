"""`python -m trainer split`: divide data by product into the paper's four splits, and validation data."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

from screening.runtime.argument_types import not_negative
from trainer.data.split.assign import PAPER_SIZES, Shares, Split, shares_of, with_validation
from trainer.runs.arguments import add_directory

if TYPE_CHECKING:
    from trainer.data.split.divide import Division

FEW_PRODUCTS = 30
"""Minimum number of products without a warning; a 95 % interval around 50 % is 34 points wide at this size."""
_TOO_FEW = {
    Split.TRAINING: "the model memorises these products",
    Split.VALIDATION: "the best state of a training is mostly chance",
    Split.TESTING: "its scores are mostly chance, and `promote` needs about 130 samples",
    Split.PSEUDO_LABEL: "stage 1.1 memorises these products",
    Split.EXPLORATION: "it covers too little of a shop's products",
}

_PAPER = ",".join(str(size) for size in PAPER_SIZES.values())


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data",
        type=Path,
        nargs="+",
        required=True,
        metavar="DIR",
        help="data directories, including those of earlier runs with the same --out",
    )
    add_directory(parser, "--out", "new directory, or the directory of an earlier division to add data to")
    parser.add_argument(
        "--shares",
        type=_shares,
        default=_PAPER,
        metavar="T,E,P,X",
        help=f"weights of {', '.join(PAPER_SIZES)}, numbers of at least 0 (default: the paper's sizes, {_PAPER})",
    )
    parser.add_argument(
        "--validation",
        type=_part,
        default=Fraction(0),
        metavar="PART",
        help="part of the training products, at least 0 and below 1, that becomes OUT/validation, for the trainings' "
        "`--validation` and for `calibrate`; the other splits do not change (default: 0, no validation data)",
    )
    parser.add_argument("--seed", type=not_negative, default=0, help="seed of the division (default: 0)")


def run(args: argparse.Namespace) -> int:
    from trainer.data.split.divide import SPLIT_NAME, divide

    division = divide(args.data, args.out, with_validation(args.shares, args.validation), args.seed)
    print(_page(division))
    print(f"\nWritten to {args.out}: {', '.join(division.splits)}, {SPLIT_NAME}")
    for warning in _warnings(division):
        print(f"warning: {warning}", file=sys.stderr)
    return 0


def _warnings(division: Division) -> Iterator[str]:
    """Warnings about requested splits that are too small for their purpose."""
    for split, one in division.splits.items():
        if division.shares[split] and one.products < FEW_PRODUCTS:
            yield (
                f"the split {split} holds {one.products} products, fewer than {FEW_PRODUCTS}: {_TOO_FEW[split]}. Add "
                f"products, or give it a larger share with {_option(split)} and a new --out"
            )


def _option(split: Split) -> str:
    return "--validation" if split is Split.VALIDATION else "--shares"


def _page(division: Division) -> str:
    """The report of a division as text."""
    from trainer.runs.markdown import table

    rows = [
        [
            split.value,
            str(one.samples),
            str(one.unlabelled),
            str(one.products),
            "-" if one.mean_label_length is None else f"{one.mean_label_length:.2f}",
            "-" if one.random_baseline is None else f"{one.random_baseline:.1f}",
            "-" if one.share_of_n is None else f"{100 * one.share_of_n:.0f}",
        ]
        for split, one in division.splits.items()
    ]
    parts = [table(["split", "samples", "no label", "products", "label length", "random %", "N %"], rows)]
    if division.frozen:
        parts.append(f"The test set is frozen: {division.frozen.digest}")
    if division.held_back:
        parts.append(
            f"Held back: {division.held_back} samples that belong to the test split but came after it was frozen."
        )
    if division.reviewed_again:
        parts.append(
            f"Judged again: {len(division.reviewed_again)} samples of the test set. It keeps the labels with which it "
            "was frozen; a new --out takes the new ones."
        )
    if division.left_out:
        named = ", ".join(division.left_out[:3])
        parts.append(
            f"Left out: {len(division.left_out)} ({named}{', …' if len(division.left_out) > 3 else ''}); each of them "
            "connects products of two splits, or has no label and shows a product of the test or validation set."
        )
    return "\n\n".join(parts)


def _shares(text: str) -> Shares:
    try:
        return shares_of([Fraction(part.strip()) for part in text.split(",")])
    except (ValueError, ZeroDivisionError):
        example = "0.7,0.2,0.05,0.05"
        raise argparse.ArgumentTypeError(
            f"{text!r} must be four numbers of at least 0, not all 0 ({', '.join(PAPER_SIZES)}), for example {example}"
        ) from None


def _part(text: str) -> Fraction:
    try:
        part = Fraction(text.strip())
        if 0 <= part < 1:
            return part
    except (ValueError, ZeroDivisionError):
        pass
    raise argparse.ArgumentTypeError(f"{text!r} must be a number of at least 0 and below 1, for example 0.15")
