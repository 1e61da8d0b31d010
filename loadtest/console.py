"""Shared parts of the load tests' command line: number options, progress lines, the path of the repository."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from tqdm import tqdm

REPOSITORY = Path(__file__).resolve().parent.parent


def positive(text: str) -> float:
    """Parse a number above 0, for argparse."""
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} must be a number above 0")
    return value


def count(text: str) -> int:
    """Parse a whole number of at least 1, for argparse."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} must be a whole number of at least 1")
    return value


def share(text: str) -> float:
    """Parse a number from 0 to 1, for argparse."""
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} must be a number from 0 to 1")
    return value


def say(text: str) -> None:
    """Print a progress line to standard error; figures go to standard output."""
    tqdm.write(text, file=sys.stderr)


def waiting() -> Callable[[float], None]:
    """A callback for `local_service.started` that prints a line every 15 s."""
    told = 0.0

    def tell(seconds: float) -> None:
        nonlocal told
        if seconds >= told + 15:
            told = seconds
            say(f"  … still starting, {seconds:.0f} s")

    return tell
