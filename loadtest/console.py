"""What the load tests share at the terminal: numbers as options, progress lines, and where the repository is."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from tqdm import tqdm

REPOSITORY = Path(__file__).resolve().parent.parent


def positive(text: str) -> float:
    """A number above 0, for argparse."""
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return value


def count(text: str) -> int:
    """A whole number above 0, for argparse."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not 1 or more")
    return value


def share(text: str) -> float:
    """0 to 1, for argparse."""
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")
    return value


def say(text: str) -> None:
    """What happens now, for people; figures go to standard output."""
    tqdm.write(text, file=sys.stderr)


def waiting() -> Callable[[float], None]:
    """For `local_service.started`: a sign of life every 15 s."""
    told = 0.0

    def tell(seconds: float) -> None:
        nonlocal told
        if seconds >= told + 15:
            told = seconds
            say(f"  … still starting, {seconds:.0f} s")

    return tell
