"""Commands of the trainer run as a user runs them, on the checkpoint that the repository ships."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]
CHECKPOINT = Path(os.environ.get("SCREENING_TEST_CHECKPOINT", ROOT / "models" / "tiny"))
THEN = "--then"
"""Separates two commands of `one_engine`."""


def trainer(*arguments: str | Path) -> str:
    """Run a stage as a user does, and return its output."""
    return _output_of("trainer", *map(str, arguments))


def on_one_engine(folder: Path, *commands: Sequence[str | Path]) -> list[str]:
    """Run commands one after the other in one process that starts the real engine once, and return their outputs."""
    (_, *words) = (str(word) for command in commands for word in (THEN, *command))
    _output_of("tests.trainer.one_engine", str(folder), *words)
    return [(folder / str(number)).read_text(encoding="utf-8") for number in range(len(commands))]


def _output_of(module: str, *arguments: str) -> str:
    command = [sys.executable, "-m", module, *arguments]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            printed, log = process.communicate(timeout=500)
        except subprocess.TimeoutExpired:
            process.terminate()  # not kill: the engine's processes must end too
            printed, log = process.communicate()
    assert process.returncode == 0, log[-4000:]
    return printed
