"""Commands of the trainer run as a user runs them, on the checkpoint that the repository ships."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
CHECKPOINT = Path(os.environ.get("SCREENING_TEST_CHECKPOINT", ROOT / "models" / "tiny"))


def trainer(*arguments: str | Path) -> str:
    """Run a stage as a user does, and return its output."""
    command = [sys.executable, "-m", "trainer", *map(str, arguments)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            printed, log = process.communicate(timeout=500)
        except subprocess.TimeoutExpired:
            process.terminate()  # not kill: the engine's processes must end too
            printed, log = process.communicate()
    assert process.returncode == 0, log[-4000:]
    return printed
