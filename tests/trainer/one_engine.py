"""Runs several commands of the trainer on one engine: `python -m tests.trainer.one_engine FOLDER COMMAND … --then …`.

An engine takes 20 s to start, and each of the commands a second. The output of the commands goes to FOLDER/0, FOLDER/1
and so on. The first one also holds what the engine's processes print.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from screening.checkpoint.manifest import Manifest
from tests.trainer.command_line import THEN
from trainer.__main__ import main
from trainer.evaluation.evaluate import generate


def run(folder: Path, commands: list[list[str]]) -> int:
    """Run the commands until one fails. Returns its exit status, or 0."""
    start, engines = generate.start_llm, ExitStack()
    started: dict[Path, Any] = {}

    @contextmanager
    def start_once(checkpoint: Path, manifest: Manifest) -> Iterator[Any]:
        if checkpoint not in started:
            started[checkpoint] = engines.enter_context(start(checkpoint, manifest))
        yield started[checkpoint]

    generate.start_llm = start_once  # type: ignore[assignment]
    with engines:
        for number, command in enumerate(commands):
            with (folder / str(number)).open("wb") as output:
                os.dup2(output.fileno(), sys.stdout.fileno())
            status = main(command)
            sys.stdout.flush()
            if status:
                return status
    return 0


def split(words: list[str]) -> list[list[str]]:
    commands: list[list[str]] = [[]]
    for word in words:
        if word == THEN:
            commands.append([])
        else:
            commands[-1].append(word)
    return commands


if __name__ == "__main__":
    sys.exit(run(Path(sys.argv[1]), split(sys.argv[2:])))
