"""`python -m trainer screen-dataset`: screens a data set of questions, Parquet in and Parquet out."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Literal

from screening.errors import UserError
from screening.runtime.argument_types import above_zero, positive, share
from screening.runtime.exits import UNFINISHED
from trainer.runs.arguments import add_directory, add_mode
from trainer.runs.sigterm import engine_ends_on_sigterm

AUTO = "auto"
LOCAL = "local"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `python -m trainer screen-dataset`."""
    add_directory(parser, "--checkpoint", "checkpoint that answers, at the same path on every machine")
    parser.add_argument(
        "--data",
        type=Path,
        required=True,
        metavar="PATH",
        help="Parquet file, directory of Parquet files, JSON-lines file of `screening-client batch`, or data directory "
        "with samples.jsonl. Parquet columns: id; original, a, b, c, d with bytes, paths or URLs of pictures",
    )
    add_directory(parser, "--out", "new directory for answers and rejects, or that of a stopped run to continue")
    add_mode(parser)
    parser.add_argument(
        "--locate",
        action="store_true",
        help="also ask where each issue is (`options[].regions`); needs --mode cot and a checkpoint that was trained "
        "with the recipe setting `locate` (default: not asked)",
    )
    parser.add_argument(
        "--batch",
        type=positive,
        default=256,
        metavar="N",
        help="records of a block, which becomes one part of the output; a killed worker loses at most two blocks "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--review-below",
        type=share,
        default=0.5,
        metavar="CONFIDENCE",
        help="confidence, 0 to 1, below which needs_review is set (default: %(default)s)",
    )
    parser.add_argument(
        "--keep",
        nargs="*",
        metavar="COLUMN",
        help="columns of the input to copy besides the id (default: all but the pictures)",
    )
    parser.add_argument(
        "--retry-rejects",
        action="store_true",
        help="screen blocks again whose rejects may have passed: a picture that was not found, damaged rows, an engine "
        "or worker that failed (default: leave them)",
    )
    parser.add_argument(
        "--cost-per-hour",
        type=above_zero,
        metavar="AMOUNT",
        help="price of all machines of the run for one hour, in any currency, for the cost per thousand records "
        "(default: no cost is computed)",
    )
    _worker_arguments(parser)


def _worker_arguments(parser: argparse.ArgumentParser) -> None:
    workers = parser.add_argument_group("workers (they change no answer, so a continued run may have others)")
    workers.add_argument(
        "--workers",
        type=_workers,
        default=AUTO,
        metavar="N",
        help="number of Ray workers, each with one engine; `local`: one engine in this process, without Ray; `auto`: "
        "one Ray worker per GPU of the cluster, or one without GPUs, and `local` if Ray is not installed "
        "(default: auto)",
    )
    workers.add_argument(
        "--ray-address",
        metavar="ADDRESS",
        help="running Ray cluster, such as `auto` or HOST:6379 (default: RAY_ADDRESS; without it, Ray is started on "
        "this machine for the time of the run)",
    )
    workers.add_argument(
        "--engine",
        default="vllm",
        metavar="NAME",
        help="vllm, or package.module:name for an engine of your own (default: vllm)",
    )


def run(args: argparse.Namespace) -> int:
    """Screen the data set. Returns 1 if records were rejected."""
    from screening.answer import Mode
    from trainer.catalogue.run import Order, screen_dataset
    from trainer.catalogue.summary import report

    if args.locate and args.mode != "cot":
        raise UserError("--locate needs --mode cot, because a direct answer names no issues")
    order = Order(
        checkpoint=args.checkpoint,
        data=args.data,
        out=args.out,
        mode=Mode(args.mode),
        locate=args.locate,
        batch=args.batch,
        review_below=args.review_below,
        keep=None if args.keep is None else tuple(sorted(set(args.keep))),
        workers=_resolved(args.workers, args.ray_address),
        ray_address=args.ray_address,
        cost_per_hour=args.cost_per_hour,
        retry_rejects=args.retry_rejects,
        engine=args.engine,
    )
    with engine_ends_on_sigterm():
        summary = screen_dataset(order)
    print(report(summary, args.out))
    return UNFINISHED if summary.rejected else 0


def _workers(text: str) -> str | int:
    return text if text in (AUTO, LOCAL) else positive(text)


def _resolved(workers: str | int, address: str | None) -> Literal["local"] | int | None:
    from trainer.catalogue.on_ray import is_installed

    if workers == LOCAL and address:
        raise UserError("--workers local does not use Ray. Leave out --ray-address, or give a number of workers")
    if workers == AUTO:
        return None if address or is_installed() else "local"
    return "local" if isinstance(workers, str) else workers
