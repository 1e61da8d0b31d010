"""The benchmark measures the real service, on questions that no cache has seen."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from loadtest.load.levels import Level, table


def test_ratios_are_to_the_first_level() -> None:
    rows = table([Level(1, 10, 2.0, 1, 1, 1, 1), Level(8, 10, 7.0, 1, 1, 1, 1)]).splitlines()
    assert rows[1].split()[2] == "1.00"
    assert rows[2].split()[2] == "3.50"


@pytest.mark.slow
def test_it_starts_measures_and_stops_a_service(repository: Path, tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "loadtest",
        "bench",
        "--engine",
        "scripted",
        "--requests",
        "6",
        "--clients",
        "1",
        "3",
    ]
    done = subprocess.run(
        [*command, "--picture-size", "96", "--questions", str(tmp_path), "--out", str(tmp_path / "figures.json")],
        cwd=repository,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    levels = json.loads((tmp_path / "figures.json").read_text())
    assert [level["clients"] for level in levels] == [1, 3]
    assert all(level["per_second"] > 0 and level["engine_p50"] > 0 for level in levels)
