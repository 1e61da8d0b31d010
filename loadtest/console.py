"""Shared parts of the load tests' command line: progress lines, the path of the repository."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from tqdm import tqdm

REPOSITORY = Path(__file__).resolve().parent.parent


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
