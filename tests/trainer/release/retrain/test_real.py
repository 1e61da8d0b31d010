"""One complete cycle on the real engine: screen, correct, retrain, promote; a running service follows."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from screening.checkpoint.registry import PRODUCTION, Registry


@pytest.mark.vllm
@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.timeout(2400)
def test_corrected_questions_are_answered_differently_by_the_running_service(tmp_path: Path, repository: Path) -> None:
    given = ["--out", str(tmp_path / "demo"), "--stock", "260", "--questions", "100"]
    program = repository / "clients" / "python" / "examples" / "retrain_demo.py"
    done = subprocess.run(
        [sys.executable, str(program), *given],
        cwd=repository,
        capture_output=True,
        text=True,
        timeout=2300,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    run = json.loads((tmp_path / "demo" / "work" / "state.json").read_text())["run"]
    assert run["outcome"] == "promoted" and "hard" in run["stages"]["hard-cases"]["result"]
    assert len(run["stages"]["confirm"]["result"]["services"]) == 1
    production = Registry(f"sqlite:///{tmp_path / 'demo' / 'mlflow.db'}").resolve(PRODUCTION)
    assert production is not None and production.number == 2
    assert production.digest == run["stages"]["calibrate"]["result"]["digest"]
    assert "are answered differently" in done.stdout
