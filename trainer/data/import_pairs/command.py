"""`python -m trainer import-pairs`: group verdicts on single generated pictures into questions of four."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from screening.runtime.argument_types import above_zero, not_negative
from trainer.runs.arguments import add_directory

if TYPE_CHECKING:
    from trainer.data.import_pairs.download import Downloaded
    from trainer.data.import_pairs.pairs import Columns
    from trainer.data.import_pairs.rows import Layout
    from trainer.data.import_pairs.write import Report

FAILED_SHOWN = 3
"""Maximum number of failed addresses to print on the terminal."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "files",
        type=Path,
        nargs="+",
        metavar="FILE",
        help="file of pairs, one per row: JSON lines, .csv, .tsv or .parquet",
    )
    add_directory(parser, "--images", "directory of the pictures; the paths in the rows are relative to it")
    add_directory(parser, "--out", "new data directory")
    parser.add_argument("--seed", type=not_negative, default=0, help="seed of the grouping (default: 0)")
    parser.add_argument(
        "--preset",
        choices=["hfpc-44k"],
        help="read the files of this public data set; excludes the column options (default: none)",
    )
    names = parser.add_argument_group("columns")
    names.add_argument(
        "--original-column", metavar="NAME", help="column with the path or URL of the original (default: original)"
    )
    names.add_argument(
        "--generated-column",
        metavar="NAME",
        help="column with the path or URL of the generated picture (default: generated)",
    )
    names.add_argument("--usable-column", metavar="NAME", help="column with the verdict (default: usable)")
    names.add_argument(
        "--product-column",
        metavar="NAME",
        help="column with the product's name (default: none; the original's path is used)",
    )
    names.add_argument(
        "--dimensions-column",
        metavar="NAME",
        help="column with the names of the dimensions with issues, separated by commas (default: none)",
    )
    names.add_argument("--comment-column", metavar="NAME", help="column with a reviewer's comment (default: none)")
    names.add_argument(
        "--usable-values",
        metavar="A,B,…",
        help="words for usable, in upper or lower case (default: 1, true, yes, good, …)",
    )
    names.add_argument(
        "--unusable-values",
        metavar="A,B,…",
        help="words for not usable, in upper or lower case (default: 0, false, no, …)",
    )
    fetch = parser.add_argument_group("pictures named by URL")
    fetch.add_argument(
        "--download", action="store_true", help="download missing pictures into --images; a stopped download continues"
    )
    fetch.add_argument(
        "--requests-per-minute",
        type=above_zero,
        default=120.0,
        metavar="N",
        help="maximum download rate over all hosts (default: 120)",
    )


def run(args: argparse.Namespace) -> int:
    """Run the import from parsed arguments; returns the exit status."""
    from trainer.data.import_pairs.pairs import urls_of
    from trainer.data.import_pairs.rows import PairsError
    from trainer.data.import_pairs.write import Order, import_pairs, read_pairs

    layout: Layout = args.preset or "columns"
    order = Order(args.files, args.images, args.out, layout, _columns(args), args.seed)
    pairs = read_pairs(order)
    if args.download:
        from trainer.data.import_pairs.download import download

        print(_fetched(download(urls_of(pairs), args.images, per_minute=args.requests_per_minute)))
    elif not args.images.is_dir():
        raise PairsError(f"--images {args.images} is not a directory")
    report = import_pairs(order, pairs)
    print(_page(report, args.out))
    return 0


def _columns(args: argparse.Namespace) -> Columns:
    """
    Raises:
        PairsError: a column option is given together with a preset, or a word means both verdicts.
    """
    from trainer.data.import_pairs.pairs import HFPC, Columns
    from trainer.data.import_pairs.rows import PairsError

    given = {
        "original": args.original_column,
        "generated": args.generated_column,
        "usable": args.usable_column,
        "product": args.product_column,
        "dimensions": args.dimensions_column,
        "comment": args.comment_column,
        "yes": _words(args.usable_values),
        "no": _words(args.unusable_values),
    }
    given = {name: value for name, value in given.items() if value}
    if args.preset and given:
        raise PairsError(f"--preset {args.preset} defines columns and verdicts; remove the column options")
    columns = HFPC if args.preset else Columns(**given)
    if both := set(columns.yes) & set(columns.no):
        raise PairsError(
            f"{min(both)!r} means both usable and not usable; --usable-values and --unusable-values must not overlap"
        )
    return columns


def _words(text: str | None) -> tuple[str, ...]:
    return tuple(word.strip().lower() for word in (text or "").split(",") if word.strip())


def _fetched(done: Downloaded) -> str:
    lines = [f"Pictures: {done.fetched} downloaded, {done.there} already there, {len(done.failed)} failed."]
    lines += [f"  {url}: {reason}" for url, reason in list(done.failed.items())[:FAILED_SHOWN]]
    if len(done.failed) > FAILED_SHOWN:
        lines.append(f"  … and {len(done.failed) - FAILED_SHOWN} more; run the same command to try them again.")
    return "\n".join(lines)


def _page(report: Report, out: Path) -> str:
    left = sum(report.left_over.values())
    lines = [
        f"{report.pairs} pairs ({report.usable} usable) of {report.originals} originals: {report.questions} questions, "
        f"{report.pairs - left} pairs in them, {left} left over.",
        *(f"  left over: {count} ({reason})" for reason, count in report.left_over.items()),
        f"Labels: mean length {report.mean_label_length:.2f}, {100 * report.share_of_n:.0f} % N, random baseline "
        f"{report.random_baseline:.1f} %.",
        f"Written to {out}: samples.jsonl, pictures, left-over.jsonl, import-pairs.json",
    ]
    return "\n".join(lines)
