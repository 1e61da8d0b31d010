"""`python -m trainer collect`: makes a data directory from the reviews of a running service."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from trainer.runs.arguments import add_directory

if TYPE_CHECKING:
    from trainer.data.collect.snapshot import Snapshot


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--service", required=True, metavar="URL", help="address of the service that people review on: http://HOST:PORT"
    )
    parser.add_argument(
        "--key-file",
        type=Path,
        metavar="FILE",
        help="text file that holds a key of the service with the scope admin (default: no key, for a service on this "
        "machine that has no keys)",
    )
    add_directory(parser, "--out", "new data directory for the snapshot; it never changes once it is there")
    parser.epilog = (
        "The same reviews give the same digest. Gold and repeated questions are left out. An interrupted run is "
        "continued by the same command. Exit status: 0 collected; 1 the service does not answer, or data were erased "
        "meanwhile: repeat the command; 2 bad input, or no reviews."
    )


def run(args: argparse.Namespace) -> int:
    from trainer.data.collect.service import ReviewService
    from trainer.data.collect.snapshot import collect

    with ReviewService(args.service, read_key(args.key_file)) as service:
        print(page(collect(service, args.out), args.out))
    return 0


def read_key(file: Path | None) -> str | None:
    """The key in a file; None without a file.

    Raises:
        CollectError: the file cannot be read, or does not hold one key.
    """
    from trainer.data.collect.errors import CollectError

    if file is None:
        return None
    try:
        words = file.read_text(encoding="ascii").split()
    except OSError as error:
        raise CollectError(f"the key file {file} cannot be read ({error.strerror})") from error
    except UnicodeDecodeError:
        words = []
    if len(words) != 1:
        raise CollectError(f"the key file {file} must hold one key, in ASCII characters without spaces")
    return words[0]


def page(snapshot: Snapshot, out: Path) -> str:
    """What was collected, as text."""
    lines = [
        f"{snapshot.samples} samples of {snapshot.products} products from {snapshot.reviews} reviews, "
        f"{snapshot.first[:10]} to {snapshot.last[:10]}.",
        f"Reasons: {_listed(snapshot.reasons)}. Decided: {_listed(snapshot.decided)}.",
        f"{snapshot.weighted} have an inclusion weight; {snapshot.with_reasoning} keep the model's reasoning.",
        *(f"  left out: {count} ({reason})" for reason, count in snapshot.left_out.items()),
        f"Snapshot {out}: {snapshot.digest}",
    ]
    return "\n".join(lines)


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items())
