"""Questions about products of which none comes twice: what `bench` asks.

The engine guesses ahead from earlier answers (`screening.inference.speculative_drafter`), so questions about a few
products that come again and again would make it look faster than it is. These are rendered, once for each size, and
kept.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from loadtest.console import REPOSITORY, count
from loadtest.load.pictures import Question
from screening.errors import UserError


class NotRendered(UserError):
    """The questions could not be drawn; the message says why."""

    exit_status = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which pictures, and where they are kept; shared by those who ask the same questions."""
    parser.add_argument("--picture-size", type=count, default=800, help="side of the JPEGs in pixels (default: 800)")
    parser.add_argument(
        "--seed",
        type=int,
        default=0,
        help="of the questions: a running service knows those of an earlier run (default: 0)",
    )
    parser.add_argument(
        "--questions",
        type=Path,
        default=Path("runs") / "loadtest" / "questions",
        metavar="DIR",
        help="where rendered questions are kept for the next run (default: runs/loadtest/questions)",
    )


def rendered(args: argparse.Namespace, needed: int) -> Path:
    """The directory of at least so many questions; drawn first if there is none, which takes 0.4 s for each.

    Raises:
        NotRendered: they could not be drawn.
    """
    directory: Path = args.questions / f"{args.picture_size}px-{needed}-seed-{args.seed}"
    command = [sys.executable, "-m", "trainer", "render", "--count", str(needed), "--seed", str(args.seed)]
    command += ["--size", str(args.picture_size), "--workers", "2", "--out", str(directory.absolute())]
    done = subprocess.run(command, cwd=REPOSITORY, stdout=subprocess.DEVNULL, check=False)  # noqa: S603 - our own trainer
    if done.returncode:
        raise NotRendered(f"the questions could not be drawn into {directory}: see above")
    return directory


def questions(directory: Path) -> Iterator[Question]:
    """Those of a rendered directory, each once, in its order."""
    with (directory / "samples.jsonl").open(encoding="utf-8") as lines:
        for line in lines:
            sample = json.loads(line)
            files = [sample["original"]["file"], *(picture["file"] for picture in sample["generated"])]
            original, first, second, third, fourth = ((directory / file).read_bytes() for file in files)
            yield Question(original, (first, second, third, fourth), repeated=False)
