"""Every example program starts."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow


def test_every_example_can_be_imported(repository: Path) -> None:
    examples = repository / "clients" / "python" / "examples"
    names = ", ".join(sorted(path.stem for path in examples.glob("*.py")))
    done = subprocess.run(
        [sys.executable, "-c", f"import {names}"],
        cwd=examples,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
