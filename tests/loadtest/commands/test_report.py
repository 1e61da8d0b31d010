"""The end that runs under load have in common."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

import pytest

from loadtest.commands.report import report
from loadtest.results.record import RunRecorder
from loadtest.results.summary import load_figures, none_of
from loadtest.targets.versions import Finding

pytestmark = pytest.mark.slow


def test_a_run_leaves_its_settings_figures_verdicts_and_plots(exchange, left, tmp_path: Path, capsys) -> None:
    args = Namespace(clients=4, out=tmp_path / "run", program=("python",), run=print)
    wrong = exchange(number=7, intended=1.0, finished=1.5)
    exchanges = [exchange(), wrong]
    load = load_figures(exchanges, limit_ms=1000, sending=2.0)
    for number, verdict in enumerate((none_of("planted", 0), none_of("planted", 1))):
        with RunRecorder(tmp_path / f"run-{number}") as recorder:
            recorder.note("footprint", at=0.5, memory_bytes=2**20, open_files=3, threads=2)
            findings = {Finding.MIXED: [wrong]} if number else None
            status = report(
                "swap", args, recorder, load, [verdict], exchanges=exchanges, began=0.0, marks=[(0.2, "swap")],
                findings=findings, growth=float("nan"),
            )  # fmt: skip
        found = left(tmp_path / f"run-{number}")
        assert (status, found.summary["passed"]) == (number, not number)
        assert found.summary["command"] == "swap"
        assert found.summary["settings"] == {"clients": "4", "out": str(tmp_path / "run")}
        assert (found.summary["load"]["requests"], found.summary["growth"]) == (2, None)
        assert found.summary.get("findings") == ({"mixed": [7]} if number else None)
        assert {path.name for path in found.directory.glob("*.png")} == {
            "latency.png", "distribution.png", "memory.png",
        }  # fmt: skip
    assert "FAIL  planted" in capsys.readouterr().out
