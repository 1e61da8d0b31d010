"""Options that several commands share, and the start of the service with them."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path

from loadtest.console import REPOSITORY, waiting
from loadtest.load.pictures import SIZES, Pictures, Question
from loadtest.targets.local_service import PROGRAM, LocalService, started
from screening.runtime.argument_types import above_zero, positive, share


def sizes(text: str) -> tuple[tuple[int, int], ...]:
    """Sizes such as `800x800,1600x1200`, for argparse."""
    found = []
    for part in text.split(","):
        width, _, height = part.partition("x")
        found.append((positive(width.strip()), positive(height.strip())))
    return tuple(found)


def add_run(parser: argparse.ArgumentParser, command: str) -> None:
    """Add the options for the output of a run, its requests, and its latency limit."""
    add_out(parser, command)
    parser.add_argument("--seed", type=int, default=0, help="seed of the pictures and the arrival times (default: 0)")
    parser.add_argument(
        "--repeated-originals",
        type=share,
        default=0.3,
        metavar="SHARE",
        help="share of requests with a repeated original, 0 to 1; generated pictures are always new (default: 0.3)",
    )
    parser.add_argument(
        "--picture-sizes",
        type=sizes,
        default=SIZES,
        metavar="WxH,…",
        help=f"sizes of the pictures in pixels, one per product (default: {','.join(f'{w}x{h}' for w, h in SIZES)})",
    )
    parser.add_argument(
        "--limit-ms",
        type=above_zero,
        default=5000,
        metavar="MS",
        help="maximum latency in milliseconds of an answer that counts as goodput (default: 5000)",
    )


def add_out(parser: argparse.ArgumentParser, command: str) -> None:
    """Add the option for the output directory of a run."""
    stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("runs") / "loadtest" / f"{command}-{stamp}",
        metavar="DIR",
        help="new directory for requests.jsonl, events.jsonl, summary.json and plots "
        f"(default: runs/loadtest/{command}-TIME)",
    )


def add_service(parser: argparse.ArgumentParser, concurrent: str = "the service's own default") -> None:
    """Add the options of the started service.

    Args:
        concurrent: default of `--max-concurrent`, in words for `--help`.
    """
    parser.add_argument(
        "--checkpoint",
        type=Path,
        default=REPOSITORY / "models" / "tiny",
        metavar="DIR",
        help="checkpoint of the started service (default: models/tiny)",
    )
    parser.add_argument(
        "--max-concurrent",
        type=positive,
        metavar="N",
        help=f"maximum number of concurrent inferences in the started service (default: {concurrent})",
    )
    parser.add_argument(
        "--start-seconds",
        type=above_zero,
        default=600,
        metavar="SECONDS",
        help="maximum time for the started service to become ready, in seconds (default: 600)",
    )
    add_further(parser)


def add_further(parser: argparse.ArgumentParser) -> None:
    """Additional options of the started service."""
    parser.add_argument(
        "service",
        nargs="*",
        metavar="-- OPTION …",
        help="further options of the started service, after two dashes: -- --deadline-seconds 120",
    )
    parser.set_defaults(program=PROGRAM)


def add_canary_store(parser: argparse.ArgumentParser) -> None:
    """Add the option for the directory of the canary checkpoints."""
    parser.add_argument(
        "--store",
        type=Path,
        default=REPOSITORY / "runs" / "loadtest" / "canaries",
        metavar="DIR",
        help="directory that keeps the two canary checkpoints for later runs (default: runs/loadtest/canaries)",
    )


def service_options(args: argparse.Namespace) -> list[str]:
    """Options of the started service, in addition to its checkpoint."""
    concurrent = ["--max-concurrent", str(args.max_concurrent)] if args.max_concurrent else []
    return [*concurrent, *args.service]


def own_service(args: argparse.Namespace, words: Sequence[str], log: Path) -> AbstractContextManager[LocalService]:
    """Start a service with these options and the command's arguments, and keep its log."""
    return started(
        words,
        start_seconds=args.start_seconds,
        on_wait=waiting(),
        program=args.program,
        log=log,
    )


def settings(args: argparse.Namespace) -> dict[str, str]:
    """All options of a run, for the summary."""
    return {name: str(value) for name, value in vars(args).items() if name not in ("program", "run")}


def questions(args: argparse.Namespace) -> Iterator[Question]:
    """The questions of the run."""
    pictures = Pictures(seed=args.seed, repeated_originals=args.repeated_originals, sizes=args.picture_sizes)
    return pictures.questions()
