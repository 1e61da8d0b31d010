"""The questions of `bench`, each about a different product.

The engine drafts tokens from earlier answers (`screening.inference.speculative_drafter`), so repeated questions about
a few products would make it look faster than it is. The questions are rendered once for each size, and kept.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from loadtest.console import REPOSITORY
from loadtest.load.pictures import Question
from screening.errors import UserError
from screening.runtime.argument_types import positive


class NotRendered(UserError):
    """The questions could not be rendered; the message says why."""

    exit_status = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that choose the rendered questions."""
    parser.add_argument("--picture-size", type=positive, default=800, help="side of the JPEGs in pixels (default: 800)")
    parser.add_argument(
        "--seed",
        type=int,
        default=0,
        help="seed of the questions; use another for a running service that has answered these (default: 0)",
    )
    parser.add_argument(
        "--questions",
        type=Path,
        default=Path("runs") / "loadtest" / "questions",
        metavar="DIR",
        help="directory that keeps rendered questions for later runs (default: runs/loadtest/questions)",
    )


def rendered(args: argparse.Namespace, needed: int) -> Path:
    """A directory with at least this many questions; missing ones are rendered first, which takes 0.4 s each.

    Raises:
        NotRendered: the questions could not be rendered.
    """
    directory: Path = args.questions / f"{args.picture_size}px-{needed}-seed-{args.seed}"
    command = [sys.executable, "-m", "trainer", "render", "--count", str(needed), "--seed", str(args.seed)]
    command += ["--size", str(args.picture_size), "--workers", "2", "--out", str(directory.absolute())]
    done = subprocess.run(command, cwd=REPOSITORY, stdout=subprocess.DEVNULL, check=False)  # noqa: S603 - our own trainer
    if done.returncode:
        raise NotRendered(f"the questions could not be rendered into {directory}; the error is above")
    return directory


def questions(directory: Path) -> Iterator[Question]:
    """The questions of a rendered directory, each once, in order."""
    with (directory / "samples.jsonl").open(encoding="utf-8") as lines:
        for line in lines:
            sample = json.loads(line)
            files = [sample["original"]["file"], *(picture["file"] for picture in sample["generated"])]
            original, first, second, third, fourth = ((directory / file).read_bytes() for file in files)
            yield Question(original, (first, second, third, fourth), repeated=False)
